"""What form of captions a single file holds, told from its name and its beginning."""

import json
import re
from pathlib import Path

from seesay.data.readers.columns import find_columns
from seesay.data.readers.flickr import is_token_line
from seesay.data.readers.parquet import has_caption_columns
from seesay.data.readers.tables import table_form
from seesay.data.readers.text import is_split_list, peek_text, text_lines
from seesay.data.readers.webdataset import has_samples

_PEEK = 1 << 20
TABLE_SUFFIXES = frozenset((".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"))
_TEXT_SUFFIXES = frozenset((".csv", ".tsv", ".txt", ".token", ".dat", ""))
_PICTURE_KEY = re.compile(r'\{\s*"[^"]+\.(jpe?g|png|webp|gif|bmp|tiff?)"\s*:', re.IGNORECASE)
_FIRST_OBJECT = re.compile(r'(?:^|"[^"]*"\s*:)\s*\[\s*(?=\{)')


def sniff(path: Path) -> str | None:
    """Returns the name of the reader that can read a file, or None where it seems to hold no captions."""
    suffix = path.suffix.lower()
    if suffix in (".tar", ".tgz") or path.name.lower().endswith(".tar.gz"):
        return "webdataset" if has_samples(path) else None
    if suffix == ".parquet":
        return "parquet" if has_caption_columns(path) else None
    if suffix in (".jsonl", ".ndjson"):
        return "jsonl" if _has_fields(peek_text(path, _PEEK)) else None
    if suffix == ".json":
        return _sniff_json(peek_text(path, _PEEK))
    if suffix in _TEXT_SUFFIXES and not is_split_list(path):
        return _sniff_text(peek_text(path, _PEEK))
    return None


def by_suffix(path: Path) -> str | None:
    """Returns the reader that a file's name alone speaks for, or None."""
    suffix = path.suffix.lower()
    if suffix in (".tar", ".tgz") or path.name.lower().endswith(".tar.gz"):
        return "webdataset"
    if suffix in (".jsonl", ".ndjson"):
        return "jsonl"
    return {".parquet": "parquet", ".json": "json"}.get(suffix, "csv" if suffix in _TEXT_SUFFIXES else None)


def _sniff_text(text: str) -> str | None:
    lines = [line for line in text_lines(text) if line.strip()][:20]
    if 2 * sum(map(is_token_line, lines)) > len(lines):
        return "flickr"
    return "csv" if table_form(text) is not None else None


def _sniff_json(text: str) -> str | None:
    start = text.lstrip()
    if _PICTURE_KEY.match(start):
        return "json"
    if start.startswith("{") and '"images"' in text:
        if '"sentences"' in text or '"sentids"' in text:
            return "karpathy"
        if '"file_name"' in text or '"coco_url"' in text or '"annotations"' in text:
            return "coco"
    opening = _FIRST_OBJECT.search(start)
    return "json" if opening is not None and _has_fields(start[opening.end() :]) else None


def _has_fields(text: str) -> bool:
    """Tells whether a text begins with a JSON object that has a picture and a caption."""
    try:
        value, _ = json.JSONDecoder().raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and find_columns(value) is not None
