"""Detection of the caption format of one file from its name and first bytes."""

import json
import re
from pathlib import Path

from seesay.data.readers.columns import USUAL_NAMES, ColumnNames, find_columns, object_captions
from seesay.data.readers.flickr import is_token_line
from seesay.data.readers.images import is_image_name
from seesay.data.readers.parquet import has_caption_columns
from seesay.data.readers.tables import table_form
from seesay.data.readers.text import is_split_list, peek_text, text_lines
from seesay.data.readers.webdataset import has_samples
from seesay.data.records import SPLITS, split_name

_PEEK = 1 << 20
TABLE_SUFFIXES = frozenset((".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"))
_TEXT_SUFFIXES = frozenset((".csv", ".tsv", ".txt", ".token", ".dat", ""))
_FIRST_OBJECT = re.compile(r'(?:^|"[^"]*"\s*:)\s*\[\s*(?=\{)')
_KEY = re.compile(r'\s*[{,]\s*("(?:[^"\\]|\\.)*")\s*:\s*')
_MAX_KEYS = 20
# Fields that are also common in other JSON files such as package.json.
_COMMON_FIELDS = frozenset(("description", "descriptions", "title", "comment", "comments"))


def sniff(path: Path, requested: ColumnNames = USUAL_NAMES) -> str | None:
    """Return the name of the reader for a file, or None if it seems to contain no captions.

    Args:
        path: The file.
        requested: Columns that a table must have.
    """
    suffix = path.suffix.lower()
    if suffix in (".tar", ".tgz") or path.name.lower().endswith(".tar.gz"):
        return "webdataset" if has_samples(path) else None
    if suffix == ".parquet":
        return "parquet" if has_caption_columns(path, requested) else None
    if suffix in (".json", ".jsonl", ".ndjson"):
        return _sniff_json(peek_text(path, _PEEK).lstrip(), requested)
    if suffix in _TEXT_SUFFIXES and not is_split_list(path):
        return _sniff_text(peek_text(path, _PEEK), requested)
    return None


def by_suffix(path: Path) -> str | None:
    """Return the reader for a file's suffix, or None."""
    suffix = path.suffix.lower()
    if suffix in (".tar", ".tgz") or path.name.lower().endswith(".tar.gz"):
        return "webdataset"
    if suffix in (".jsonl", ".ndjson"):
        return "jsonl"
    return {".parquet": "parquet", ".json": "json"}.get(suffix, "csv" if suffix in _TEXT_SUFFIXES else None)


def _sniff_text(text: str, requested: ColumnNames) -> str | None:
    lines = [line for line in text_lines(text) if line.strip()][:20]
    if 2 * sum(map(is_token_line, lines)) > len(lines):
        return "flickr"
    return "csv" if table_form(text, requested) is not None else None


def _sniff_json(text: str, requested: ColumnNames) -> str | None:
    """Return the reader for a JSON file with this beginning, regardless of its suffix."""
    end = _end_of_row(text, requested)
    if end:
        return "json" if "\n" in text[:end] else "jsonl"
    if text.startswith("{") and '"images"' in text:
        if '"sentences"' in text or '"sentids"' in text:
            return "karpathy"
        if '"file_name"' in text or '"coco_url"' in text or '"annotations"' in text:
            return "coco"
    if text.startswith("{") and '"annotations"' in text and '"image_id"' in text:
        return "coco"
    opening = _FIRST_OBJECT.search(text)
    if opening is not None and _end_of_row(text[opening.end() :], requested):
        return "json"
    return "json" if _has_captions_by_name(text, requested) else None


def _end_of_row(text: str, requested: ColumnNames) -> int:
    """Return the end of the JSON object at the start of a text; 0 if it lacks an image or a caption."""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return 0
    return end if isinstance(value, dict) and find_columns(value, requested) is not None else 0


def _has_captions_by_name(text: str, requested: ColumnNames) -> bool:
    """Return whether a text begins with captions by image name, such as `{"1.jpg": "a dog"}`."""
    decoder = json.JSONDecoder()
    position = 0
    for number in range(_MAX_KEYS):
        key = _KEY.match(text, position)
        if key is None:
            return False
        try:
            name = str(json.loads(key[1]))
            if is_image_name(name):
                return True
            if number == 0 and split_name(name) in SPLITS and text.startswith("{", key.end()):
                return _has_captions_by_name(text[key.end() :], requested)
            value, position = decoder.raw_decode(text, key.end())
        except (ValueError, RecursionError):
            return False
        if isinstance(value, dict):
            known = {field: cell for field, cell in value.items() if requested.caption or field not in _COMMON_FIELDS}
            if object_captions(known, requested.caption):
                return True
    return False
