"""Parquet tables, of plain columns or in the Hugging Face form with the images inside."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seesay.data.readers.columns import (
    BYTES_COLUMNS,
    IMAGE_COLUMNS,
    ColumnNames,
    Columns,
    find_columns,
    make_record,
    missing_columns,
)
from seesay.data.readers.text import read_split_lists
from seesay.data.records import Reading, count, name_some, split_of_file
from seesay.errors import DataError

_EMBEDDED_COLUMNS = (*IMAGE_COLUMNS, *BYTES_COLUMNS)
# More rows than this with one and the same image name: it is a placeholder, not a name.
_MOST_CAPTIONS = 50


@dataclass(frozen=True)
class _Layout:
    """The columns of one file; `embedded` is the one with encoded images, `name` what names them."""

    columns: Columns
    embedded: str | None
    name: str | None


def read_parquet(files: list[Path], split_lists: list[Path], wanted: ColumnNames) -> Reading:
    """Returns the records of Parquet files; images inside are named `file.parquet::column::row`, not read.

    Raises:
        DataError: A file is damaged, or lacks the columns (those present and those expected are named).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    reading = Reading()
    for path in files:
        try:
            with pq.ParquetFile(path) as table:
                layout = _layout(table, path, wanted)
                rows = list(_rows(table, layout))
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{path} cannot be read as Parquet: {reason}") from error
        _add_records(path, rows, layout, reading)
    read_split_lists(split_lists, reading)
    return reading


def has_caption_columns(path: Path, wanted: ColumnNames) -> bool:
    """Tells whether a Parquet file has the columns of captioned images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            _layout(table, path, wanted)
    except (OSError, pa.ArrowException, DataError):
        return False
    return True


def _layout(table: Any, path: Path, wanted: ColumnNames) -> _Layout:
    """Returns which columns of a file are what."""
    names = table.schema_arrow.names
    embedded, name = embedded_column(table, wanted.image)
    if embedded is not None and wanted.image:
        wanted = replace(wanted, image="image")
    # The name of an embedded column matters as little as its bytes to find_columns.
    columns = find_columns(["image" if column == embedded else column for column in names], wanted)
    if columns is None:
        raise missing_columns(str(path), names, wanted)
    if embedded is not None:
        plain = columns.image if columns.image != "image" else None
        columns = Columns(embedded, columns.captions, columns.split, columns.id)
        name = columns.id or plain or name
    return _Layout(columns, embedded, name)


def embedded_column(table: Any, wanted: str = "") -> tuple[str | None, str | None]:
    """Returns the column of encoded images (bytes, or a struct of bytes and path) and its path field.

    Args:
        table: an open `ParquetFile`.
        wanted: the column to look at; empty = those of usual names.
    """
    import pyarrow as pa

    schema = table.schema_arrow
    for column in schema.names:
        kind = schema.field(column).type
        if column != wanted if wanted else column.lower() not in _EMBEDDED_COLUMNS:
            continue
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return column, None
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            path = f"{column}.path" if kind.get_field_index("path") >= 0 else None
            if _holds_bytes(table, column):
                return column, path
    return None, None


def _holds_bytes(table: Any, column: str) -> bool:
    """Tells whether a struct's bytes are there; a data set saved without them has paths alone."""
    nulls = 0
    for group in range(table.metadata.num_row_groups):
        row_group = table.metadata.row_group(group)
        for place in range(row_group.num_columns):
            leaf = row_group.column(place)
            if leaf.path_in_schema == f"{column}.bytes":
                if leaf.statistics is None or leaf.statistics.null_count is None:
                    return True
                nulls += leaf.statistics.null_count
    return bool(nulls < table.metadata.num_rows)


def _rows(table: Any, layout: _Layout) -> Iterator[dict[str, Any]]:
    """Yields the rows as dictionaries, without the bytes of images."""
    columns = layout.columns
    boxes = "boxes" if "boxes" in table.schema_arrow.names else None
    image = columns.image if layout.embedded is None else None
    wanted = {*columns.captions, columns.split, columns.id, layout.name, image, boxes}
    for batch in table.iter_batches(columns=sorted(name for name in wanted if name is not None)):
        yield from batch.to_pylist()


def _add_records(path: Path, rows: list[dict[str, Any]], layout: _Layout, reading: Reading) -> None:
    """Adds the records of one file's rows to the reading."""
    columns = layout.columns
    split = split_of_file(path)
    names = [_name(row, layout) for row in rows] if layout.embedded else []
    if names and max(Counter(names).values()) > _MOST_CAPTIONS:
        names = [""] * len(names)
    first: dict[str, str] = {}
    junk = []
    for number, row in enumerate(rows):
        if layout.embedded is not None:
            name = names[number] or f"{path.stem}/{number}"
            # An image that is repeated for each of its captions is the same image.
            row = {**row, columns.image: first.setdefault(name, f"{path.name}::{layout.embedded}::{number}")}
        elif isinstance(row[columns.image], dict):
            row = {**row, columns.image: row[columns.image].get("path")}
        record = make_record(row, columns, path.parent, split)
        if record is None:
            junk.append(f"row {number}")
            continue
        if layout.embedded is not None:
            record.id = name
        reading.records.append(record)
    if junk:
        reading.problems.append(f"{path.name}: {count(len(junk), 'row')} without an image: {name_some(junk)}")


def _name(row: dict[str, Any], layout: _Layout) -> str:
    """Returns what a row calls its embedded image, or an empty string."""
    value: Any = row
    for part in (layout.name or "").split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "" if value is None else str(value).strip()
