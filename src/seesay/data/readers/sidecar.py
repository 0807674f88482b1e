"""Folders of images with a text file of the same name beside each."""

# Paths are strings here: creating millions of Path objects takes seconds.
# ruff: noqa: PTH119, PTH120, PTH122
import json
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import InitVar, dataclass, field
from pathlib import Path

from seesay.data.readers.columns import object_captions
from seesay.data.readers.images import ImageListing, walk_files
from seesay.data.readers.samples import TEXT_SUFFIXES
from seesay.data.readers.text import read_text, text_lines
from seesay.data.records import Reading, Record, name_some, split_of_folder
from seesay.errors import DataError
from seesay.names import to_nfc

SIDECAR_SUFFIXES = (*TEXT_SUFFIXES, ".json")
"""Suffixes of caption files beside images, in order of preference."""
_MAX_JSON_FILES = 20


def read_sidecar(folder: Path) -> Reading:
    """Return the records of `name.jpg` with `name.jpg.txt`, `name.txt` or `name.caption`, one caption per line.

    The text files are beside the images, or in a folder beside the image folder. If an image has several, the first is
    used and the others are reported: full name before stem, then the order of `SIDECAR_SUFFIXES`. A `.json` file (as
    written by img2dataset) is read for its caption field. A folder called train, val or test, at any level, is the
    split.
    """
    reading = Reading()
    files = sorted(walk_files(folder))
    texts = _Texts(folder, files)
    readers: dict[str, list[str]] = defaultdict(list)
    unused: list[str] = []
    listing = ImageListing.of(files)
    reading.problems += filter(None, [listing.remark()])
    for image in listing.images:
        found = texts.of(image)
        relative = os.path.relpath(image, folder)
        captions: list[object] = []
        if found:
            captions = _read_captions(found[0], reading)
            readers[found[0]].append(relative)
            unused += [os.path.relpath(text, folder) for text in found[1:] if not _is_json(text)]
        parts = Path(relative).parts[:-1]
        split = next((split for part in parts if (split := split_of_folder(part))), None)
        reading.records.append(Record(relative, captions, folder, split, one_row_per_image=True))
    shared = [f"{os.path.relpath(text, folder)} ({', '.join(used)})" for text, used in readers.items() if len(used) > 1]
    for message, names in (
        ("text{s} not used, because another text of the same image has precedence", unused),
        ("text{s} used for several images", shared),
        ("image{s} with texts in several folders, none of them read", texts.ambiguous),
    ):
        if names:
            noun = message.replace("{s}", "" if len(names) == 1 else "s")
            reading.problems.append(f"{len(names):,} {noun}: {name_some(names)}")
    return reading


def has_sidecars(folder: Path) -> bool:
    """Return whether an image below a folder has a text file, or a JSON file with a caption."""
    files = list(walk_files(folder))
    texts = _Texts(folder, files)
    if not texts.by_name:
        return False
    checked = 0
    for image in ImageListing.of(files).images:
        found = texts.of(image)
        if found and not _is_json(found[0]):
            return True
        if found and checked < _MAX_JSON_FILES:
            checked += 1
            if any(_read_captions(found[0], Reading())):
                return True
    return False


def _read_captions(path: str, reading: Reading) -> list[object]:
    """Return the captions of a text file (one per line) or JSON object; `[""]` if a text is blank."""
    try:
        text = read_text(Path(path), reading)
        if _is_json(path):
            content = json.loads(text)
            return object_captions(content) if isinstance(content, dict) else []
    except DataError as error:
        reading.problems.append(str(error))
        return []
    except (ValueError, RecursionError) as error:
        reading.problems.append(f"{path} is not valid JSON: {error}")
        return []
    return [line for line in text_lines(text) if line.strip()] or [""]


def _is_json(path: str) -> bool:
    return path.lower().endswith(".json")


@dataclass
class _Texts:
    """Text files below a folder, by stem; `ambiguous` lists images with texts in several folders."""

    folder: Path
    files: InitVar[Iterable[str]]
    by_name: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    ambiguous: list[str] = field(default_factory=list)

    def __post_init__(self, files: Iterable[str]) -> None:
        for path in files:
            if path.lower().endswith(SIDECAR_SUFFIXES):
                name = os.path.basename(path)
                if not name.startswith("."):
                    self.by_name[to_nfc(os.path.splitext(name)[0])].append(path)

    def of(self, image: str) -> list[str]:
        """Return the text files of an image in order of preference: beside it, else in one sibling folder."""
        folder, name = os.path.split(image)
        keys = (to_nfc(name), to_nfc(os.path.splitext(name)[0]))
        candidates = [text for key in keys if key in self.by_name for text in self.by_name[key]]
        candidates.sort(key=lambda text: self._rank(text, keys[0]))
        beside = [text for text in candidates if os.path.dirname(text) == folder]
        if beside:
            return beside
        near = [text for text in candidates if os.path.dirname(os.path.dirname(text)) == os.path.dirname(folder)]
        folders = sorted({os.path.basename(os.path.dirname(text)) for text in near})
        if len(folders) > 1:
            self.ambiguous.append(f"{os.path.relpath(image, self.folder)} ({' and '.join(folders)})")
            return []
        return near

    @staticmethod
    def _rank(text: str, name: str) -> tuple[bool, bool, int]:
        """Return the sort key of a text file: JSON last, full image name first, then suffix."""
        stem, suffix = os.path.splitext(os.path.basename(text))
        return _is_json(text), to_nfc(stem) != name, SIDECAR_SUFFIXES.index(suffix.lower())
