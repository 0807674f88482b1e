"""A folder of Parquet files, which grows by whole files.

    captions.parquet/
        part-00000.parquet    finished
        _part-00001.jsonl     the batches of the part that is not full yet; readers of Parquet pass over it

A batch is a write at the end of the lines of JSON. When there are enough of them, the part is written under another
name, renamed, and the lines are removed: whatever moment a kill comes at, an image is in one of the two, and where
it is in both the finished part counts.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from seesay.bulk.rows import Row, plain, texts_of_json
from seesay.bulk.writers import LINE_START, JsonlWriter, Needed, no_captions, whole_lines
from seesay.errors import DataError
from seesay.files import write_atomically

PART_ROWS = 4096
"""Images a part of the local engine holds."""

_NUMBERED = re.compile(r"part-(\d{5})\.parquet")


class ParquetWriter:
    """Parts of `PART_ROWS` images, the last one of what is left.

    Args:
        path: the folder.
        wanted: captions an image; more than one give a column `captions` of lists.
        needed: tells whether an image, by its `plain` name, belongs to the job; others may have one caption only.
        part_rows: images a part.
    """

    def __init__(self, path: Path, wanted: int, needed: Needed, part_rows: int = PART_ROWS) -> None:
        self.path = path
        self.wanted = wanted
        self.needed = needed
        self.part_rows = part_rows
        self._number = 0
        self._rows = 0

    def create(self) -> None:
        """Makes an empty folder where there is none."""
        if self.path.exists() and not self.path.is_dir():
            raise DataError(f"{self.path} is a file; the parts of a Parquet output need a folder: choose another --out")
        self.path.mkdir(parents=True, exist_ok=True)

    def open(self) -> set[str]:
        """Returns the images in all parts and in the one that is not full yet, which is gone on with."""
        names: set[str] = set()
        for part in sorted(self.path.glob("*.parquet")):
            names.update(_names(part, self.wanted, self.needed))
            self._journal(part.stem).unlink(missing_ok=True)
        numbers = [int(match[1]) for part in self.path.iterdir() if (match := _NUMBERED.fullmatch(part.name))]
        self._number = max(numbers, default=-1) + 1
        held = self._lines.open() if self._lines.path.exists() else set()
        self._rows = len(held)
        return names | held

    def write(self, rows: Sequence[Row]) -> None:
        """Adds a batch, and finishes the part where it is full."""
        self._lines.write(rows)
        self._rows += len(rows)
        if self._rows >= self.part_rows:
            self._finish()

    def captions(self) -> Iterator[tuple[str, list[str]]]:
        """Yields the images' names and captions."""
        import pyarrow.parquet as pq

        for part in sorted(self.path.glob("*.parquet")):
            with pq.ParquetFile(part) as table:
                columns = [name for name in ("image", "caption", "captions") if name in table.schema_arrow.names]
                for batch in table.iter_batches(columns=columns):
                    yield from ((row["image"], texts_of_json(row)) for row in batch.to_pylist())
        if self._lines.path.exists():
            yield from self._lines.captions()

    def close(self) -> None:
        """Finishes the last part."""
        if self._rows:
            self._finish()

    @property
    def _lines(self) -> JsonlWriter:
        return JsonlWriter(self._journal(f"part-{self._number:05d}"), self.wanted, self.needed)

    def _journal(self, part: str) -> Path:
        return self.path / f"_{part}.jsonl"

    def _finish(self) -> None:
        journal = self._lines.path
        rows = (json.loads(line) for _, line in whole_lines(journal, LINE_START))
        write_part(self.path / f"part-{self._number:05d}.parquet", rows, self.wanted)
        journal.unlink()
        self._number, self._rows = self._number + 1, 0


def write_part(path: Path, rows: Iterable[dict[str, Any]], wanted: int, **facts: str) -> None:
    """Writes a part, whole or not at all.

    Args:
        path: the file.
        rows: what `rows.json_line` writes, parsed.
        wanted: captions an image.
        facts: kept in the file's metadata, under `seesay.NAME`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    said = [
        ("caption", pa.string()),
        ("score", pa.float64()),
        ("log_probs", pa.list_(pa.float64())),
        ("end_log_prob", pa.float64()),
        ("finished", pa.bool_()),
    ]
    several = [("captions", pa.list_(pa.struct(said)))] if wanted > 1 else []
    schema = pa.schema([("image", pa.string()), *said, *several], metadata={f"seesay.{k}": v for k, v in facts.items()})
    table = pa.Table.from_pylist([{**row, "image": plain(row["image"])} for row in rows], schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())


def part_fact(path: Path, name: str) -> str:
    """Returns what `write_part` was told to keep in a part's metadata.

    Raises:
        DataError: it is no part that was written so.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        fact: bytes = (pq.read_schema(path).metadata or {})[f"seesay.{name}".encode()]
        return fact.decode()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise no_captions(path) from error


def _names(part: Path, wanted: int, needed: Needed) -> Iterator[str]:
    """Yields the images of a part.

    Raises:
        DataError: it is no part of ours, or has one caption of images of which more are wanted.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(part) as table:
            columns = set(table.schema_arrow.names)
            if not {"image", "caption", "finished"} <= columns:
                raise no_captions(part)
            for batch in table.iter_batches(columns=["image"]):
                for name in batch.column(0).to_pylist():
                    if wanted > 1 and "captions" not in columns and needed(name):
                        raise DataError(f"{part} holds one caption an image, not {wanted}; choose another --out")
                    yield name
    except (OSError, pa.ArrowException) as error:
        raise no_captions(part) from error
