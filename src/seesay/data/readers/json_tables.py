"""JSON with a row per image or caption: lines of objects, lists of objects, captions by image name."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from seesay.data.readers.columns import (
    ColumnNames,
    Columns,
    find_columns,
    make_record,
    missing_columns,
    object_captions,
)
from seesay.data.readers.images import is_image_name
from seesay.data.readers.text import read_split_lists, read_text, text_lines
from seesay.data.records import SPLITS, Reading, Record, count, name_some, split_name, split_of_file
from seesay.errors import DataError

_Row = tuple[str, object, str | None]
"""Position of a row for messages; its value; its split, if the file groups rows by split."""


def read_jsonl(files: list[Path], split_lists: list[Path], requested: ColumnNames) -> Reading:
    """Return the records of JSON lines files, one object per line, including seesay's format.

    Raises:
        DataError: No line of a file has the required fields.
    """
    reading = Reading()
    for path in files:
        lines = ((number, line) for number, line in enumerate(text_lines(read_text(path, reading)), start=1))
        invalid: list[str] = []
        _read_rows(path, _json_lines(lines, invalid), invalid, reading, requested)
    read_split_lists(split_lists, reading)
    return reading


def _json_lines(lines: Iterable[tuple[int, str]], invalid: list[str]) -> Iterator[_Row]:
    """Yield the lines that are JSON; others are added to `invalid`."""
    for number, line in lines:
        if line.strip():
            try:
                yield f"line {number}", json.loads(line), None
            except (ValueError, RecursionError):
                invalid.append(f"line {number} ({line.strip()[:40]!r})")


def read_json(files: list[Path], split_lists: list[Path], requested: ColumnNames) -> Reading:
    """Return the records of JSON files with a list of objects, or with captions by image name.

    Captions by name are `{"1.jpg": "a dog"}`, `{"1.jpg": ["a dog", "dogs"]}` or `{"1": {"caption": "a dog"}}` (kohya's
    scripts). Either form may be grouped by split: `{"train": ..., "val": ...}`.

    Raises:
        DataError: A file has another form, or its objects lack the fields.
    """
    reading = Reading()
    for path in files:
        content = parse_json(path, reading)
        groups = _by_split(content)
        rows = [row for split, part in groups for row in _rows(part, split, requested)]
        if not rows:
            keys = [key for _, part in groups if isinstance(part, Mapping) for key in part]
            raise missing_columns(str(path), keys, requested)
        _read_rows(path, rows, [], reading, requested)
    read_split_lists(split_lists, reading)
    return reading


def parse_json(path: Path, reading: Reading) -> object:
    """Return the content of a JSON file.

    Raises:
        DataError: The file is not valid JSON.
    """
    try:
        return json.loads(read_text(path, reading))
    except json.JSONDecodeError as error:
        advice = "for JSON lines pass --format jsonl" if error.msg == "Extra data" else "is it truncated?"
        raise DataError(f"{path} is not valid JSON (line {error.lineno}: {error.msg}); {advice}") from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply for a captions file") from error


def _by_split(content: object) -> list[tuple[str | None, object]]:
    """Return the parts of a file that is grouped by split, else the whole content without a split."""
    if isinstance(content, Mapping):
        parts = {name: part for name, part in content.items() if isinstance(part, list | Mapping)}
        splits = [split_name(name) for name in parts]
        if parts and all(split in SPLITS for split in splits):
            return list(zip(splits, parts.values(), strict=True))
    return [(None, content)]


def _rows(content: object, split: str | None, requested: ColumnNames) -> Iterator[_Row]:
    """Yield the rows of a list of objects, an object with one such list, or captions by image name."""
    if isinstance(content, Mapping):
        lists = [
            value for value in content.values() if isinstance(value, list) and value and isinstance(value[0], Mapping)
        ]
        if any(is_image_name(str(name)) for name in content) or (
            len(lists) != 1 and holds_captions(content, requested)
        ):
            for number, (name, value) in enumerate(content.items(), start=1):
                yield f"entry {number}", _named_row(name, value, requested), split
            return
        content = [content] if find_columns(content, requested) else lists[0] if len(lists) == 1 else None
    for number, value in enumerate(content if isinstance(content, list) else (), start=1):
        yield f"entry {number}", value, split


def holds_captions(content: Mapping[str, object], requested: ColumnNames) -> bool:
    """Return whether an object contains an object with a caption: `{"1": {"caption": "a dog"}}`."""
    return any(isinstance(value, Mapping) and object_captions(value, requested.caption) for value in content.values())


def _named_row(name: str, value: object, requested: ColumnNames) -> dict[str, object] | None:
    """Return the row of an image name and its value, or None if the value is not a caption."""
    more: dict[str, object] = {}
    if isinstance(value, Mapping):
        more = {key: value[key] for key in ("split", "boxes") if key in value}
        value = object_captions(value, requested.caption)
    if not isinstance(value, str | list):
        return None
    return {requested.image or "image": name, requested.caption or "captions": value, **more}


def _read_rows(path: Path, rows: Iterable[_Row], invalid: list[str], reading: Reading, requested: ColumnNames) -> None:
    """Add the records of JSON objects to the reading; rows without image and caption are reported."""
    split = split_of_file(path)
    known: dict[tuple[str, ...], Columns | None] = {}
    records: list[Record] = []
    for position, row, own_split in rows:
        names = tuple(row) if isinstance(row, Mapping) else ()
        if names not in known:
            known[names] = find_columns(names, requested)
        columns = known[names]
        record = None
        if columns is not None and isinstance(row, Mapping):
            record = make_record(row, columns, path.parent, own_split or split)
        if record is None:
            invalid.append(f"{position} ({str(row)[:40]!r})")
        else:
            records.append(record)
    if not records and not any(known.values()):
        if any(known):
            widest: tuple[str, ...] = max(known, key=len)
            raise missing_columns(str(path), widest, requested)
        raise DataError(f"{path} contains no JSON objects with an image and captions")
    if invalid:
        reading.problems.append(
            f"{path.name}: {count(len(invalid), 'entry')} without an image and caption: {name_some(invalid)}"
        )
    reading.records += records
