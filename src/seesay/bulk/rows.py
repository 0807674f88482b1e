"""The row of an image in each output format."""

import csv
import io
import json
import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from seesay.captioners.caption import Caption
from seesay.data.readers.images import is_url
from seesay.files import text_bytes

Row = tuple[str, Caption]
"""An image's name and its caption."""


def json_line(image: str, caption: Caption, several: bool) -> str:
    """Return an image's line of JSON, without line end.

    Args:
        image: name of the image.
        caption: its caption.
        several: several captions were requested: add a list `captions` of all of them, even if only one was found.
    """
    row = {"image": image, **_fields(caption)}
    if several:
        row["captions"] = [_fields(each) for each in (caption, *caption.alternatives)]
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def header(num_captions: int) -> tuple[str, ...]:
    """Return the columns of a CSV or TSV file with `num_captions` captions per image."""
    if num_captions == 1:
        return ("image", "caption", "score", "finished")
    numbers = range(1, num_captions + 1)
    return ("image", *(f"caption_{number}" for number in numbers), *(f"score_{number}" for number in numbers))


def csv_row(row: Row, num_captions: int, delimiter: str) -> str:
    """Return an image's line of a CSV or TSV file, with line end; missing captions are empty."""
    image, caption = row
    captions = [caption, *caption.alternatives][:num_captions]
    blank = [""] * (num_captions - len(captions))
    scores = [_number(each.score) for each in captions]
    cells = [image, *(each.text for each in captions), *blank, *scores, *blank]
    return csv_line(cells if num_captions > 1 else [*cells, str(caption.finished).lower()], delimiter)


def csv_line(cells: Sequence[object], delimiter: str) -> str:
    """Return a line of a CSV or TSV file, with line end."""
    text = io.StringIO(newline="")
    # csv quotes cells that contain characters of the line terminator; \r must be quoted too.
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"


def texts(caption: Caption) -> list[str]:
    """Return all captions, best first."""
    return [caption.text, *(each.text for each in caption.alternatives)]


def texts_of_json(row: dict[str, Any]) -> list[str]:
    """Return the captions in a parsed line of JSON, best first."""
    return [each["caption"] for each in row.get("captions", [row])]


def caption_of_json(row: dict[str, Any]) -> Caption:
    """Return the first caption of a parsed line of JSON; its words are those of the text, split at blanks."""
    end, score = (math.nan if row[name] is None else float(row[name]) for name in ("end_log_prob", "score"))
    text, log_probs = str(row["caption"]), tuple(map(float, row["log_probs"]))
    return Caption(text, tuple(text.split()), log_probs, end, score, bool(row["finished"]))


def plain(name: str) -> str:
    r"""Return an image's name as valid UTF-8: bytes that are not UTF-8 become `\udcff`."""
    return text_bytes(name).decode()


def find_captioned(images: Sequence[str], names: Collection[str], folder: Path) -> dict[str, str]:
    """Return the images that an output contains, by their `plain` name there.

    A file may be spelled differently there: absolute, or relative to the folder of the output or to the current one.

    Args:
        images: names of images.
        names: `plain` names in the output.
        folder: folder of the output.
    """
    found = {name: image for image in images if (name := plain(image)) in names}
    others = [image for image in images if plain(image) not in found and not is_url(image)] if names else []
    known = {os.path.normpath(name): name for name in names} if others else {}
    for image in others:
        path = os.path.abspath(image)  # noqa: PTH100 - links are not resolved
        for spelling in map(plain, (path, os.path.relpath(path, folder), os.path.relpath(path))):
            if spelling in known:
                found[known[spelling]] = image
    return found


def _fields(caption: Caption) -> dict[str, object]:
    return {
        "caption": caption.text,
        "score": _number(caption.score),
        "log_probs": [_number(value) for value in caption.log_probs],
        "end_log_prob": _number(caption.end_log_prob),
        "finished": caption.finished,
    }


def _number(value: float) -> float | None:
    """Return a number with six decimals; None for infinity and NaN, which JSON lacks."""
    return round(value, 6) if math.isfinite(value) else None
