"""A folder of Parquet files, which grows by complete files.

    captions.parquet/
        part-00000.parquet    finished
        _part-00001.jsonl     journal of the next part; Parquet readers ignore it

A batch is appended to the journal. When the journal is full, the part is written under a temporary name and renamed,
and the journal is deleted. At any moment of a kill an image is in one of the two; if it is in both, the part counts.
"""

import json
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from seesay.bulk.rows import Row, plain, texts_of_json
from seesay.bulk.writers import LINE_START, InJob, JsonlWriter, complete_lines, not_captions
from seesay.errors import DataError
from seesay.files import write_atomically

PART_ROWS = 4096
"""Images per part of the local engine."""

_NUMBERED = re.compile(r"part-(\d{5})\.parquet")


class ParquetWriter:
    """Writes parts of `PART_ROWS` images; the last one may be smaller.

    Args:
        path: the folder.
        num_captions: captions per image; more than one are also stored as lists in a column `captions`.
        in_job: returns whether an image, by its `plain` name, belongs to the job; others may have a single caption.
        part_rows: images per part.
    """

    def __init__(self, path: Path, num_captions: int, in_job: InJob, part_rows: int = PART_ROWS) -> None:
        self.path = path
        self.num_captions = num_captions
        self.in_job = in_job
        self.part_rows = part_rows
        self._number = 0
        self._rows = 0

    def create(self) -> None:
        """Create the folder if it does not exist."""
        if self.path.exists() and not self.path.is_dir():
            raise DataError(f"{self.path} is a file, but a Parquet output is a folder; choose another --out")
        self.path.mkdir(parents=True, exist_ok=True)

    def open(self) -> set[str]:
        """Return the images in all parts and in the journal, to which the job appends."""
        names: set[str] = set()
        for part in sorted(self.path.glob("*.parquet")):
            names.update(_names(part, self.num_captions, self.in_job))
            self._journal(part.stem).unlink(missing_ok=True)
        numbers = [int(match[1]) for part in self.path.iterdir() if (match := _NUMBERED.fullmatch(part.name))]
        self._number = max(numbers, default=-1) + 1
        pending = self._lines.open() if self._lines.path.exists() else set()
        self._rows = len(pending)
        return names | pending

    def write(self, rows: Sequence[Row]) -> None:
        """Append a batch, and write the part if it is full."""
        self._lines.write(rows)
        self._rows += len(rows)
        if self._rows >= self.part_rows:
            self._finish()

    def captions(self) -> Iterator[tuple[str, list[str]]]:
        """Yield names and captions of the images."""
        yield from (
            (row["image"], texts_of_json(row)) for row in read_rows(self.path, ("image", "caption", "captions"))
        )

    def corrections(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield nothing: a review is written to a copy."""
        yield from ()

    def close(self) -> None:
        """Write the last part."""
        if self._rows:
            self._finish()

    @property
    def _lines(self) -> JsonlWriter:
        return JsonlWriter(self._journal(f"part-{self._number:05d}"), self.num_captions, self.in_job)

    def _journal(self, part: str) -> Path:
        return self.path / f"_{part}.jsonl"

    def _finish(self) -> None:
        journal = self._lines.path
        rows = (json.loads(line) for _, line in complete_lines(journal, LINE_START))
        write_part(self.path / f"part-{self._number:05d}.parquet", rows, self.num_captions)
        journal.unlink()
        self._number, self._rows = self._number + 1, 0


def read_rows(folder: Path, columns: Container[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of all parts and journals, as parsed lines of `rows.json_line`.

    Args:
        folder: output of `ParquetWriter`.
        columns: columns to read from the parts; None: all.

    Raises:
        DataError: a part cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part in sorted(folder.glob("*.parquet")):
        try:
            with pq.ParquetFile(part) as table:
                found = [name for name in table.schema_arrow.names if columns is None or name in columns]
                for batch in table.iter_batches(columns=found):
                    yield from batch.to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise not_captions(part) from error
    for journal in sorted(folder.glob("_part-*.jsonl")):
        if not (folder / f"{journal.stem[1:]}.parquet").exists():
            yield from (json.loads(line) for _, line in complete_lines(journal, LINE_START))


def write_part(path: Path, rows: Iterable[dict[str, Any]], num_captions: int, **metadata: str) -> None:
    """Write a part atomically.

    Args:
        path: the file.
        rows: parsed lines of `rows.json_line`.
        num_captions: captions per image.
        metadata: stored in the file's metadata as `seesay.NAME`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [
        ("caption", pa.string()),
        ("score", pa.float64()),
        ("log_probs", pa.list_(pa.float64())),
        ("end_log_prob", pa.float64()),
        ("finished", pa.bool_()),
    ]
    lists = [("captions", pa.list_(pa.struct(columns)))] if num_captions > 1 else []
    schema = pa.schema(
        [("image", pa.string()), *columns, *lists], metadata={f"seesay.{k}": v for k, v in metadata.items()}
    )
    table = pa.Table.from_pylist([{**row, "image": plain(row["image"])} for row in rows], schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())


def read_part_metadata(path: Path, name: str) -> str:
    """Return a value that `write_part` stored in a part's metadata.

    Raises:
        DataError: the file was not written by `write_part`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        value: bytes = (pq.read_schema(path).metadata or {})[f"seesay.{name}".encode()]
        return value.decode()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise not_captions(path) from error


def _names(part: Path, num_captions: int, in_job: InJob) -> Iterator[str]:
    """Yield the images of a part.

    Raises:
        DataError: the file was not written by `write_part`, or has fewer captions per image than requested.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(part) as table:
            columns = set(table.schema_arrow.names)
            if not {"image", "caption", "finished"} <= columns:
                raise not_captions(part)
            for batch in table.iter_batches(columns=["image"]):
                for name in batch.column(0).to_pylist():
                    if num_captions > 1 and "captions" not in columns and in_job(name):
                        raise DataError(f"{part} has one caption per image, not {num_captions}; choose another --out")
                    yield name
    except (OSError, pa.ArrowException) as error:
        raise not_captions(part) from error
