"""Detection of files written by seesay, so that generated captions are not used as human ones."""

import csv
import json
from pathlib import Path

from seesay.data.readers.text import peek_text, text_lines

_PEEK = 1 << 16
_CAPTION_FIELDS = frozenset(("image", "caption", "score", "finished"))
_FAILURE_FIELDS = ({"image", "error"}, {"image", "error", "captioned"})


def is_own_output(path: Path) -> bool:
    """Return whether a file contains captions, predictions or failures written by seesay."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _is_own_parquet(path)
    first = next((line for line in text_lines(peek_text(path, _PEEK)) if line.strip()), "")
    if suffix in (".csv", ".tsv"):
        cells = next(csv.reader([first], delimiter="\t" if suffix == ".tsv" else ","), [])
        numbered = [f"{name}_{number}" for name in ("caption", "score") for number in range(1, len(cells) // 2 + 1)]
        return set(cells) == _CAPTION_FIELDS or (len(cells) > 1 and cells == ["image", *numbered])
    if suffix != ".jsonl":
        return False
    try:
        fields = frozenset(json.loads(first))
    except (ValueError, TypeError, RecursionError):
        return False
    predictions = path.name == "predictions.jsonl" and fields == {"id", "caption"}
    return predictions or fields >= _CAPTION_FIELDS or fields in _FAILURE_FIELDS


def _is_own_parquet(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException):
        return False
    return set(schema.names) >= _CAPTION_FIELDS or any(key.startswith(b"seesay") for key in schema.metadata or {})
