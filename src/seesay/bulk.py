"""Many pictures: where they are found, and captions written so that a stopped job goes on."""

import glob
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seesay.caption import Caption, PictureCaptioner
from seesay.config import DecodingOptions
from seesay.errors import DataError, ImageError

PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"))

Report = Callable[[str, Caption | ImageError], None]

_LINE_START = b'{"image": "'


@dataclass(frozen=True)
class BulkReport:
    """What a job did: pictures captioned now, skipped because they had been, and unreadable."""

    captioned: int
    skipped: int
    unreadable: int


def find_pictures(sources: Sequence[str]) -> list[str]:
    """Returns the pictures that files, folders (searched whole), globs and URLs name, without repeats.

    Raises:
        DataError: a source names nothing.
    """
    found: dict[str, None] = {}
    for source in sources:
        if source.startswith(("http://", "https://")) or "::" in source:
            found[source] = None
        elif Path(source).is_dir():
            inside = sorted(str(path) for path in Path(source).rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
            if not inside:
                raise DataError(f"the folder {source} holds no pictures")
            found.update(dict.fromkeys(inside))
        elif glob.has_magic(source) and not Path(source).exists():
            matches = sorted(path for path in glob.glob(source, recursive=True) if Path(path).is_file())  # noqa: PTH207
            if not matches:
                raise DataError(f"no file matches {source}")
            found.update(dict.fromkeys(matches))
        else:
            found[source] = None  # if it is missing, reading it says so
    return list(found)


def caption_to_jsonl(
    captioner: PictureCaptioner,
    pictures: Sequence[str],
    out: Path,
    options: DecodingOptions | None = None,
    report: Report | None = None,
) -> BulkReport:
    """Appends a line a picture to a JSONL file, leaving out the pictures it holds already.

    A line is written whole; half a line that a killed job left is cut off first.

    Raises:
        DataError: the file holds something else than captions, or a caption alone of pictures of which several are
            asked for; it is left as it is.
    """
    wanted = captioner.options(options).num_captions
    done = _captioned(out, pictures, wanted)
    todo = [picture for picture in pictures if picture not in done]
    captioned = unreadable = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    # A file name that is no UTF-8 becomes a JSON escape, and the same name again when it is read.
    with out.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        for picture, caption in _pairs(captioner, todo, options):
            if isinstance(caption, ImageError):
                unreadable += 1
            else:
                captioned += 1
                file.write(json_line(picture, caption, wanted > 1) + "\n")
                file.flush()
            if report:
                report(picture, caption)
    return BulkReport(captioned, len(pictures) - len(todo), unreadable)


def json_line(picture: str, caption: Caption, several: bool) -> str:
    """Returns the line of output, without its end, that tells of a picture.

    Args:
        picture: its name.
        caption: of it.
        several: more than one were asked for: `captions` are all, the first included, also where there is but one.
    """
    found = {"image": picture, **_said(caption)}
    if several:
        found["captions"] = [_said(each) for each in (caption, *caption.alternatives)]
    return json.dumps(found, ensure_ascii=False, allow_nan=False)


def _said(caption: Caption) -> dict[str, object]:
    return {
        "caption": caption.text,
        "score": _number(caption.score),
        "log_probs": [_number(value) for value in caption.log_probs],
        "end_log_prob": _number(caption.end_log_prob),
        "finished": caption.finished,
    }


def _number(value: float) -> float | None:
    """Returns a number as JSON can hold it; it has none for infinity and for what is no number."""
    return round(value, 6) if math.isfinite(value) else None


def _pairs(
    captioner: PictureCaptioner, pictures: Sequence[str], options: DecodingOptions | None
) -> Iterator[tuple[str, Caption | ImageError]]:
    for picture, caption in captioner.caption_each(pictures, options):
        yield str(picture), caption


def _captioned(out: Path, pictures: Sequence[str], wanted: int) -> set[str]:
    """Returns the pictures a JSONL file holds, after cutting off an unfinished last line.

    Raises:
        DataError: the file holds something else than captions, or one caption of pictures of which more are wanted;
            it is left as it is.
    """
    if not out.exists():
        return set()
    content = out.read_bytes()
    whole = content.rfind(b"\n") + 1
    begun = content[whole:]
    try:
        if not begun.startswith(_LINE_START[: len(begun)]):
            raise ValueError("its last line is not half a caption")
        # Not splitlines: a name may hold one of the characters that it takes for line ends, which JSON does not.
        lines = [json.loads(line) for line in content[:whole].decode().split("\n") if line.strip()]
        several = {line["image"]: "captions" in line for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{out} exists and is not a file of captions; choose another --out") from error
    single = sum(not several.get(picture, True) for picture in pictures)
    if wanted > 1 and single:
        raise DataError(f"{out} holds one caption, not {wanted}, of {single} of the pictures; choose another --out")
    if begun:
        os.truncate(out, whole)
    return set(several)
