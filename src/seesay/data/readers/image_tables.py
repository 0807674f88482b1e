"""Tables whose rows have an image: Parquet files, and the Arrow files that the datasets library writes.

Both hold an image as bytes or as a struct of bytes and path. `open_table` gives them one interface.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seesay.data.readers.columns import BYTES_COLUMNS, IMAGE_COLUMNS
from seesay.errors import DataError
from seesay.images.sources import ARROW_SUFFIX, open_arrow

_EMBEDDED_COLUMNS = (*IMAGE_COLUMNS, *BYTES_COLUMNS)


class ImageTable(ABC):
    """An open table.

    Attributes:
        schema: the Arrow schema.
        num_rows: number of rows.
    """

    schema: Any
    num_rows: int

    @abstractmethod
    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield Arrow record batches of some columns; `a.b` is the field b of a struct a."""

    @abstractmethod
    def holds_bytes(self, column: str) -> bool:
        """Return whether a struct column contains bytes; a data set saved without them has paths only."""

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self.schema.names)

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows as dictionaries of some columns."""
        for batch in self.batches(list(dict.fromkeys(columns))):
            yield from batch.to_pylist()

    def declared_images(self) -> list[str]:
        """Return the columns that the datasets library declares as images."""
        try:
            features = json.loads((self.schema.metadata or {})[b"huggingface"])["info"]["features"]
            return [name for name, kind in features.items() if kind["_type"] == "Image" and name in self.names]
        except (KeyError, ValueError, TypeError, AttributeError):  # no metadata, or nested features
            return []

    def image_column(self, requested: str = "") -> tuple[str | None, bool, str | None]:
        """Return the column of images, whether it contains their bytes, and the field of their paths.

        Only columns of bytes or structs are considered; None if there is none.

        Args:
            requested: the column; empty: the first with a common name, else the first declared as images.
        """
        usual = [name for name in self.names if name.lower() in _EMBEDDED_COLUMNS]
        for column in [requested] if requested else [*usual, *self.declared_images()]:
            found = self._image_fields(column) if column in self.names else None
            if found is not None:
                return column, *found
        return None, False, None

    def _image_fields(self, column: str) -> tuple[bool, str | None] | None:
        """Return whether a column contains bytes of images, and the field of their paths; None if it has neither."""
        import pyarrow as pa

        dtype = self.schema.field(column).type
        if pa.types.is_binary(dtype) or pa.types.is_large_binary(dtype):
            return True, None
        if not pa.types.is_struct(dtype) or dtype.get_field_index("bytes") < 0:
            return None
        path = f"{column}.path" if dtype.get_field_index("path") >= 0 else None
        return self.holds_bytes(column), path


class ParquetTable(ImageTable):
    """A Parquet file."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.schema, self.num_rows = file.schema_arrow, file.metadata.num_rows

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield record batches of some columns."""
        yield from self._file.iter_batches(columns=list(columns))

    def holds_bytes(self, column: str) -> bool:
        """Return whether a struct column contains bytes, by the statistics of the file."""
        nulls = 0
        for group in range(self._file.metadata.num_row_groups):
            row_group = self._file.metadata.row_group(group)
            for index in range(row_group.num_columns):
                leaf = row_group.column(index)
                if leaf.path_in_schema == f"{column}.bytes":
                    if leaf.statistics is None or leaf.statistics.null_count is None:
                        return True
                    nulls += leaf.statistics.null_count
        return bool(nulls < self.num_rows)


class ArrowTable(ImageTable):
    """A memory-mapped file of the datasets library."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self.schema, self.num_rows = table.schema, table.num_rows

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield record batches of some columns; fields of structs become structs of that field, as in Parquet."""
        import pyarrow as pa
        import pyarrow.compute as pc

        arrays = {}
        for name in columns:
            column, _, field = name.partition(".") if name not in self.names else (name, "", "")
            values = self._table.column(column)
            if field:
                inner = pc.struct_field(values, field).combine_chunks()
                values = pa.StructArray.from_arrays([inner], [field])
            arrays[column] = values
        if arrays:
            yield from pa.table(arrays).to_batches()

    def holds_bytes(self, column: str) -> bool:
        """Return whether a struct column contains bytes."""
        import pyarrow.compute as pc

        return bool(pc.struct_field(self._table.column(column), "bytes").null_count < self.num_rows)


@contextmanager
def open_table(path: Path) -> Iterator[ImageTable]:
    """Open a Parquet file, or an Arrow file by its suffix.

    Raises:
        DataError: it is damaged; also if that is noticed while it is read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = path.suffix.lower() == ARROW_SUFFIX
    try:
        if arrow:
            yield ArrowTable(open_arrow(path))
        else:
            with pq.ParquetFile(path) as file:
                yield ParquetTable(file)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read as {'Arrow' if arrow else 'Parquet'}: {reason}") from error
