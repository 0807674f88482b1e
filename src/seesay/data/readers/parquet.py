"""Parquet tables with plain columns, or in the Hugging Face format with embedded images."""

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
# A name of more rows than this is a placeholder, not an image name.
_MAX_CAPTIONS = 50


@dataclass(frozen=True)
class _Layout:
    """Columns of one file; `embedded` has the encoded images, `name` their names."""

    columns: Columns
    embedded: str | None
    name: str | None


def read_parquet(files: list[Path], split_lists: list[Path], requested: ColumnNames) -> Reading:
    """Return the records of Parquet files; embedded images are not read but named `file.parquet::column::row`.

    Raises:
        DataError: A file is damaged or lacks the columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    reading = Reading()
    for path in files:
        try:
            with pq.ParquetFile(path) as table:
                layout = _layout(table, path, requested)
                rows = list(_rows(table, layout))
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{path} cannot be read as Parquet: {reason}") from error
        _add_records(path, rows, layout, reading)
    read_split_lists(split_lists, reading)
    return reading


def has_caption_columns(path: Path, requested: ColumnNames) -> bool:
    """Return whether a Parquet file has image and caption columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            _layout(table, path, requested)
    except (OSError, pa.ArrowException, DataError):
        return False
    return True


def _layout(table: Any, path: Path, requested: ColumnNames) -> _Layout:
    names = table.schema_arrow.names
    embedded, name = embedded_column(table, requested.image)
    if embedded is not None and requested.image:
        requested = replace(requested, image="image")
    # find_columns gets a common name for the embedded column, which may have any name.
    columns = find_columns(["image" if column == embedded else column for column in names], requested)
    if columns is None:
        raise missing_columns(str(path), names, requested)
    if embedded is not None:
        plain = columns.image if columns.image != "image" else None
        columns = Columns(embedded, columns.captions, columns.split, columns.id)
        name = columns.id or plain or name
    return _Layout(columns, embedded, name)


def embedded_column(table: Any, requested: str = "") -> tuple[str | None, str | None]:
    """Return the column of encoded images (bytes, or a struct of bytes and path) and its path field.

    Args:
        table: an open `ParquetFile`.
        requested: the column; empty: the first with a common name.
    """
    import pyarrow as pa

    schema = table.schema_arrow
    for column in schema.names:
        dtype = schema.field(column).type
        if column != requested if requested else column.lower() not in _EMBEDDED_COLUMNS:
            continue
        if pa.types.is_binary(dtype) or pa.types.is_large_binary(dtype):
            return column, None
        if pa.types.is_struct(dtype) and dtype.get_field_index("bytes") >= 0:
            path = f"{column}.path" if dtype.get_field_index("path") >= 0 else None
            if _holds_bytes(table, column):
                return column, path
    return None, None


def _holds_bytes(table: Any, column: str) -> bool:
    """Return whether a struct contains bytes; a data set saved without them has paths only."""
    nulls = 0
    for group in range(table.metadata.num_row_groups):
        row_group = table.metadata.row_group(group)
        for index in range(row_group.num_columns):
            leaf = row_group.column(index)
            if leaf.path_in_schema == f"{column}.bytes":
                if leaf.statistics is None or leaf.statistics.null_count is None:
                    return True
                nulls += leaf.statistics.null_count
    return bool(nulls < table.metadata.num_rows)


def _rows(table: Any, layout: _Layout) -> Iterator[dict[str, Any]]:
    """Yield the rows as dictionaries, without image bytes."""
    columns = layout.columns
    boxes = "boxes" if "boxes" in table.schema_arrow.names else None
    image = columns.image if layout.embedded is None else None
    requested = {*columns.captions, columns.split, columns.id, layout.name, image, boxes}
    for batch in table.iter_batches(columns=sorted(name for name in requested if name is not None)):
        yield from batch.to_pylist()


def _add_records(path: Path, rows: list[dict[str, Any]], layout: _Layout, reading: Reading) -> None:
    """Add the records of one file to the reading."""
    columns = layout.columns
    split = split_of_file(path)
    names = [_name(row, layout) for row in rows] if layout.embedded else []
    if names and max(Counter(names).values()) > _MAX_CAPTIONS:
        names = [""] * len(names)
    first: dict[str, str] = {}
    invalid = []
    for number, row in enumerate(rows):
        if layout.embedded is not None:
            name = names[number] or f"{path.stem}/{number}"
            # Rows with the same name repeat one image for each of its captions.
            row = {**row, columns.image: first.setdefault(name, f"{path.name}::{layout.embedded}::{number}")}
        elif isinstance(row[columns.image], dict):
            row = {**row, columns.image: row[columns.image].get("path")}
        record = make_record(row, columns, path.parent, split)
        if record is None:
            invalid.append(f"row {number}")
            continue
        if layout.embedded is not None:
            record.id = name
        reading.records.append(record)
    if invalid:
        reading.problems.append(f"{path.name}: {count(len(invalid), 'row')} without an image: {name_some(invalid)}")


def _name(row: dict[str, Any], layout: _Layout) -> str:
    """Return the name of a row's embedded image, or an empty string."""
    value: Any = row
    for part in (layout.name or "").split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "" if value is None else str(value).strip()
