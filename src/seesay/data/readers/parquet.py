"""Parquet tables with plain columns, or in the Hugging Face format with embedded images."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seesay.data.readers.columns import ColumnNames, Columns, find_columns, make_record, missing_columns
from seesay.data.readers.image_tables import ImageTable, open_table
from seesay.data.readers.text import read_split_lists
from seesay.data.records import Reading, count, name_some, split_of_file
from seesay.errors import DataError

# A name of more rows than this is a placeholder, not an image name.
_MAX_CAPTIONS = 50


@dataclass(frozen=True)
class _Layout:
    """Columns of one file; `embedded` has the encoded images, `name` their names."""

    columns: Columns
    embedded: str | None
    name: str | None


@dataclass
class TableSource:
    """Tables that are read as one, such as the shards of a split.

    Attributes:
        split: split of rows without one.
        prefix: of the ids of images without a name, before their row.
        qualify: names in the images' path fields are unique within these tables only: ids begin with the prefix.
        rows: number of rows read.
        first: reference of the first row of each image, by name.
    """

    split: str | None
    prefix: str
    qualify: bool = False
    rows: int = 0
    first: dict[str, str] = field(default_factory=dict)


def read_parquet(files: list[Path], split_lists: list[Path], requested: ColumnNames) -> Reading:
    """Return the records of Parquet files; embedded images are not read but named `file.parquet::column::row`.

    Raises:
        DataError: A file is damaged or lacks the columns.
    """
    reading = Reading()
    for path in files:
        read_table(path, TableSource(split_of_file(path), path.stem), requested, reading)
    read_split_lists(split_lists, reading)
    return reading


def read_table(path: Path, source: TableSource, requested: ColumnNames, reading: Reading) -> None:
    """Add the records of a Parquet or Arrow file to a reading.

    Raises:
        DataError: The file is damaged or lacks the columns.
    """
    with open_table(path) as table:
        layout = _layout(table, path, requested)
        rows = list(_rows(table, layout))
    _add_records(path, rows, layout, source, reading)


def has_caption_columns(path: Path, requested: ColumnNames) -> bool:
    """Return whether a Parquet file has image and caption columns."""
    try:
        with open_table(path) as table:
            _layout(table, path, requested)
    except DataError:
        return False
    return True


def _layout(table: ImageTable, path: Path, requested: ColumnNames) -> _Layout:
    image, embedded, name = table.image_column(requested.image)
    if image is not None and requested.image:
        requested = replace(requested, image="image")
    # find_columns gets a common name for the image column, which may have any name.
    columns = find_columns(["image" if column == image else column for column in table.names], requested)
    if columns is None:
        raise missing_columns(str(path), table.names, requested)
    if image is None:
        return _Layout(columns, None, None)
    plain = columns.image if columns.image != "image" else None
    if not embedded and plain is not None:
        return _Layout(columns, None, None)
    columns = replace(columns, image=image)
    return _Layout(columns, image if embedded else None, columns.id or plain or name)


def _rows(table: ImageTable, layout: _Layout) -> Iterator[dict[str, Any]]:
    """Yield the rows as dictionaries, without image bytes."""
    columns = layout.columns
    boxes = "boxes" if "boxes" in table.names else None
    image = columns.image if layout.embedded is None else None
    requested = {*columns.captions, columns.split, columns.id, layout.name, image, boxes}
    requested.discard(f"{image}.path")
    yield from table.rows(sorted(name for name in requested if name is not None))


def _add_records(
    path: Path, rows: list[dict[str, Any]], layout: _Layout, source: TableSource, reading: Reading
) -> None:
    """Add the records of one file to the reading."""
    columns, start = layout.columns, source.rows
    source.rows += len(rows)
    names = [_name(row, layout) for row in rows] if layout.embedded else []
    if names and max(Counter(names).values()) > _MAX_CAPTIONS:
        names = [""] * len(names)
    invalid = []
    qualify = source.qualify and layout.name == f"{layout.embedded}.path"
    for number, row in enumerate(rows):
        if layout.embedded is not None:
            name = names[number] or f"{source.prefix}/{start + number}"
            # Rows with the same name repeat one image for each of its captions.
            row = {**row, columns.image: source.first.setdefault(name, f"{path.name}::{layout.embedded}::{number}")}
        elif isinstance(row[columns.image], dict):
            row = {**row, columns.image: row[columns.image].get("path")}
        record = make_record(row, columns, path.parent, source.split)
        if record is None:
            invalid.append(f"row {number}")
            continue
        if layout.embedded is not None:
            record.id = f"{source.prefix}/{name}" if qualify and names[number] else name
        reading.records.append(record)
    if invalid:
        reading.problems.append(f"{path.name}: {count(len(invalid), 'row')} without an image: {name_some(invalid)}")


def _name(row: dict[str, Any], layout: _Layout) -> str:
    """Return the name of a row's embedded image, or an empty string."""
    value: Any = row
    for part in (layout.name or "").split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "" if value is None else str(value).strip()
