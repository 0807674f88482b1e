"""Image and caption columns of tables, by the names found in public files."""

import ast
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from seesay.config import DataConfig
from seesay.data.readers.images import is_image_name
from seesay.data.records import Box, Record, split_name
from seesay.errors import DataError

# In order of preference, normalised to lower case with underscores.
IMAGE_COLUMNS = (
    *("file_name", "filename", "image", "image_path", "img_path", "path", "filepath", "file_path", "file"),
    *("image_name", "image_file", "image_filename", "img", "picture", "photo"),
    *("url", "image_url", "img_url", "image_id", "img_id"),
)
# Ambiguous names, used only beside a column called caption (ROCO's `name`, ROCOv2's `ID`).
_WEAK_IMAGE_COLUMNS = ("name", "id")
BYTES_COLUMNS = ("image_bytes", "bytes", "jpg", "png", "webp")
CAPTION_COLUMNS = (
    *("captions", "caption", "texts", "text", "sentences", "sentence", "raw", "comments", "comment"),
    *("descriptions", "description", "caption_text", "caption_str", "alt_text", "title"),
    *("image_caption", "img_caption", "blip_caption", "prompt"),
)
_SPLIT_COLUMNS = ("split", "set", "subset", "partition")
_ID_COLUMNS = ("id", "image_id", "img_id", "imgid", "cocoid", "key")
_NUMBERED = re.compile(r"(caption|text|sentence|comment|description|raw)_?\d+")


@dataclass(frozen=True)
class Columns:
    """Names of the relevant columns of a table."""

    image: str
    captions: tuple[str, ...]
    split: str | None
    id: str | None


@dataclass(frozen=True)
class ColumnNames:
    """Columns that the user selects; empty: the first with a common name.

    Attributes:
        image: Column of image names, paths, URLs or bytes.
        caption: Column of captions; for WebDataset, the field of the JSON members.
    """

    image: str = ""
    caption: str = ""

    def over(self, config: DataConfig) -> "ColumnNames":
        """Return these columns, with those of a configuration in place of empty ones."""
        return ColumnNames(self.image or config.image_column, self.caption or config.caption_column)

    def __bool__(self) -> bool:
        return bool(self.image or self.caption)


USUAL_NAMES = ColumnNames()


def find_columns(names: Iterable[str], requested: ColumnNames = USUAL_NAMES) -> Columns | None:
    """Return the relevant columns, or None if the image or caption column is missing."""
    names = list(names)
    known = {_plain(name): name for name in reversed(names)}
    caption = _requested_or_first(requested.caption, CAPTION_COLUMNS, known)
    explicit = requested.caption or "caption" in (caption or "").lower()
    image = _requested_or_first(requested.image, (*IMAGE_COLUMNS, *(_WEAK_IMAGE_COLUMNS if explicit else ())), known)
    numbered = tuple(known[name] for name in sorted(known, key=_by_number) if _NUMBERED.fullmatch(name))
    captions = (caption,) if caption is not None else () if requested.caption else numbered
    if image is None or not captions:
        return None
    others = {plain: name for plain, name in known.items() if name != image}
    return Columns(image, captions, _first(_SPLIT_COLUMNS, others), _first(_ID_COLUMNS, others))


def find_image_column(names: Iterable[str], requested: str = "") -> str | None:
    """Return the column of image names or bytes: the selected one, else the first with a common name, else None."""
    names = list(names)
    if requested:
        return requested if requested in names else None
    usual = (*IMAGE_COLUMNS, *BYTES_COLUMNS, *_WEAK_IMAGE_COLUMNS)
    return _first(usual, {_plain(name): name for name in reversed(names)})


def missing_columns(source: str, names: Iterable[str], requested: ColumnNames = USUAL_NAMES) -> DataError:
    """Return the error for a table without the columns; its message lists present and expected columns."""
    names = list(map(str, names))
    present = ", ".join(map(repr, names[:20])) or "none"
    known = set(map(_plain, names))
    absent = [name for name in (requested.image, requested.caption) if name and _plain(name) not in known]
    if absent:
        return DataError(f"{source} has no column {' or '.join(map(repr, absent))} (columns: {present})")
    return DataError(
        f"{source} has the columns {present}; expected an image column ({', '.join(IMAGE_COLUMNS[:6])}, "
        f"url ...) and a caption column (caption, captions, text, sentence, comment, title, caption_1 ...); "
        "select others with --image-column and --caption-column"
    )


def make_record(row: Mapping[str, object], columns: Columns, base: Path, split: str | None) -> Record | None:
    """Return the record of a row, or None if it has no image.

    Args:
        row: Cells by column name.
        columns: The relevant columns.
        base: Folder of relative image paths.
        split: Split of rows without one.
    """
    image = row.get(columns.image)
    if isinstance(image, int) and not isinstance(image, bool):
        image = str(image)
    if not isinstance(image, str) or not image.strip():
        return None
    captions: list[object] = []
    listed = len(columns.captions) > 1
    for column in columns.captions:
        cell = row.get(column)
        texts = parse_captions(cell)
        # A blank cell of a numbered column is a missing caption, not an empty one.
        captions += texts if texts is not None else [] if listed and not _text(cell) else [cell]
        listed = listed or texts is not None
    own = split_name(_text(row.get(columns.split))) if columns.split else None
    name = _text(row.get(columns.id)) if columns.id else ""
    return Record(image, captions, base, own or split, name or None, parse_boxes(row.get("boxes")), listed)


def parse_captions(cell: object) -> list[object] | None:
    """Return the captions of a cell with a list (also as JSON or Python text), else None."""
    if isinstance(cell, str):
        text = cell.strip()
        if not (text.startswith("[") and text.endswith("]")):
            return None
        for parse in (json.loads, ast.literal_eval):
            try:
                cell = parse(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            break
    if isinstance(cell, Mapping):
        return object_captions(cell) or [None]
    if not isinstance(cell, list | tuple):
        return None
    return [_sentence(entry) if isinstance(entry, Mapping) else entry for entry in cell]


def object_captions(entry: Mapping[str, object], column: str = "") -> list[object]:
    """Return the captions in the first non-empty caption field of an object.

    Args:
        entry: JSON of a WebDataset sample, or an object such as `{"raw": ..., "tokens": [...]}`.
        column: The field to read; empty: the first with a common name. Image names are not captions.
    """
    known = {_plain(name): value for name, value in entry.items()}
    for name in (_plain(column),) if column else CAPTION_COLUMNS:
        value = known.get(name)
        if isinstance(value, Mapping):
            return [_sentence(value)]
        if value and not (isinstance(value, str) and is_image_name(value)):
            texts = parse_captions(value)
            return [value] if texts is None else texts
    joined = _joined_tokens(entry)
    return [] if joined is None else [joined]


def parse_boxes(cell: object) -> tuple[Box, ...]:
    """Return the boxes of a row in seesay's format; none if it has another format.

    Raises:
        DataError: A box has a coordinate that is not a number.
    """
    if not isinstance(cell, list):
        return ()
    fields = ("x", "y", "width", "height")
    try:
        return tuple(
            Box(str(box["label"]), *(float(box[name]) for name in fields))
            for box in cell
            if isinstance(box, Mapping) and all(name in box for name in ("label", *fields))
        )
    except (TypeError, ValueError) as error:
        raise DataError(f"a box must have numbers for x, y, width and height: {error}") from error


def _sentence(entry: Mapping[str, object]) -> object:
    """Return the text of a caption object such as {"raw": ..., "tokens": [...]}, or None."""
    found = next((text for name in CAPTION_COLUMNS if isinstance(text := entry.get(name), str)), None)
    return _joined_tokens(entry) if found is None else found


def _joined_tokens(entry: Mapping[str, object]) -> str | None:
    tokens = entry.get("tokens")
    return " ".join(map(str, tokens)) if isinstance(tokens, list) else None


def _text(cell: object) -> str:
    """Return a cell as stripped text; empty for None and NaN."""
    return "" if cell is None or cell != cell else str(cell).strip()


def _plain(name: str) -> str:
    """Return a column name normalised to lower case with underscores."""
    return re.sub(r"[\s\-.]+", "_", str(name).strip().strip('"').lower())


def _requested_or_first(requested: str, usual: Iterable[str], known: Mapping[str, str]) -> str | None:
    return _first((_plain(requested),) if requested else usual, known)


def _first(requested: Iterable[str], known: Mapping[str, str]) -> str | None:
    return next((known[name] for name in requested if name in known), None)


def _by_number(name: str) -> tuple[str, int]:
    digits = re.search(r"\d+$", name)
    return re.sub(r"\d+$", "", name), int(digits.group()) if digits else -1
