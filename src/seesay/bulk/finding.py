"""Which pictures a collection has: folders, globs, lists, tables and archives, as one list of names.

A name is whatever `seesay.sources` opens, so that nothing is unpacked: `photos/a.jpg`, an address,
`shard.tar::a.jpg`, `table.parquet::COLUMN::ROW`.
"""

import csv
import glob
import io
import json
import os
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seesay.data.readers.columns import find_image_column
from seesay.data.readers.parquet import embedded_column
from seesay.data.readers.pictures import is_picture_name, is_url, list_pictures
from seesay.data.readers.text import read_text, text_lines
from seesay.data.records import count, name_some
from seesay.errors import DataError
from seesay.files import exists

STANDARD_INPUT = "-"
_DELIMITERS = ",\t;|"


@dataclass
class Found:
    """The pictures of a collection.

    Attributes:
        pictures: their names, each once, in the order of the sources.
        broken: sources of which a part could not be read -> what is wrong with them.
    """

    pictures: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)


def find_pictures(sources: Sequence[str], column: str = "") -> Found:
    """Returns the pictures that the sources name.

    A source is a picture; an address; a folder, searched whole; a glob; `-`, a name a line on the standard input; a
    `.txt` of names; a `.csv`, `.tsv`, `.jsonl` or `.parquet` with a column of names or bytes; or a `.tar`. A folder
    without pictures stands for the tar and Parquet files in it. Names in a file start from its folder or, where
    there is no such picture, from the current one.

    Args:
        sources: what to look through.
        column: the column of pictures in tables; empty = the first of a usual name.

    Raises:
        DataError: a source names nothing, or a table lacks the column.
    """
    found = Found()
    names: dict[str, None] = {}
    for source in sources:
        for path in _files(source):
            names.update(dict.fromkeys(_pictures(path, column, found.broken)))
    found.pictures = list(names)
    return found


def _files(source: str) -> list[str]:
    """Returns the files that a source means; itself, where it is no folder and no glob."""
    if source == STANDARD_INPUT or is_url(source) or "::" in source:
        return [source]
    if exists(source) and Path(source).is_dir():
        if inside := list_pictures(Path(source), depth=None):
            return inside
        shards = sorted(str(path) for path in Path(source).rglob("*") if path.suffix.lower() in (".tar", ".parquet"))
        if not shards:
            raise DataError(f"the folder {source} holds no pictures")
        return shards
    if glob.has_magic(source) and not exists(source):
        matches = sorted(path for path in glob.glob(source, recursive=True) if Path(path).is_file())  # noqa: PTH207
        if not matches:
            raise DataError(f"no file matches {source}")
        return matches
    return [source]


def _pictures(path: str, column: str, broken: dict[str, str]) -> Iterable[str]:
    """Returns the pictures in a file that names or holds several; itself, where it is a picture."""
    if path == STANDARD_INPUT:
        return [name for name in text_lines(sys.stdin.read()) if name.strip()]
    if is_url(path) or "::" in path:
        return [path]
    suffix = Path(path).suffix.lower()
    if suffix in (".tgz", ".gz", ".zip"):
        raise DataError(f"{path} is compressed; unpack it, or give a plain .tar")
    reader = _READERS.get(suffix)
    return [path] if reader is None else reader(Path(path), column, broken)


def _list(path: Path, column: str, broken: dict[str, str]) -> Iterator[str]:
    names = [line.strip() for line in text_lines(read_text(path)) if line.strip()]
    if not names:
        raise DataError(f"{path} lists no pictures")
    return (_located(name, path.parent) for name in names)


def _separated(path: Path, column: str, broken: dict[str, str]) -> Iterator[str]:
    text = read_text(path)
    first = next((line for line in text_lines(text) if line.strip()), "")
    delimiter = max(_DELIMITERS, key=first.count)
    rows = [cells for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(cells)]
    header = rows[0] if rows else []
    chosen = find_image_column(header, column)
    if chosen is None:
        raise _no_column(path, header, column)
    place = header.index(chosen)
    return _named(path, (cells[place] if place < len(cells) else None for cells in rows[1:]), broken)


def _json_lines(path: Path, column: str, broken: dict[str, str]) -> Iterator[str]:
    cells: list[object] = []
    keys: set[str] = set()
    for number, line in enumerate(text_lines(read_text(path)), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} line {number} is no JSON ({error}); mend it or leave it out") from error
        names = [str(name) for name in row] if isinstance(row, dict) else []
        keys.update(names)
        chosen = find_image_column(names, column)
        cells.append(None if chosen is None else row[chosen])
    if not any(cells):
        raise _no_column(path, sorted(keys), column)
    return _named(path, cells, broken)


def _parquet(path: Path, column: str, broken: dict[str, str]) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            embedded, _ = embedded_column(table, column)
            if embedded is not None:
                return (f"{path}::{embedded}::{row}" for row in range(table.metadata.num_rows))
            names = list(table.schema_arrow.names)
            chosen = find_image_column(names, column)
            if chosen is None:
                raise _no_column(path, names, column)
            cells = [cell for batch in table.iter_batches(columns=[chosen]) for cell in batch.column(0).to_pylist()]
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    # A struct whose bytes are not there names its pictures by their path.
    return _named(path, (cell.get("path") if isinstance(cell, dict) else cell for cell in cells), broken)


def _tar(path: Path, column: str, broken: dict[str, str]) -> Iterator[str]:
    members: list[str] = []
    try:
        with tarfile.open(path, "r:") as archive:
            members.extend(member.name for member in archive if member.isreg() and is_picture_name(member.name))
    except (OSError, tarfile.TarError, EOFError) as error:
        if not members:
            raise DataError(f"{path} cannot be read as a tar ({error}); a compressed one must be unpacked") from error
        broken[str(path)] = f"{path}: cut short after {count(len(members), 'picture')} ({error}); fetch it again"
    if not members:
        raise DataError(f"{path} holds no pictures")
    return (f"{path}::{name}" for name in members)


def _named(path: Path, cells: Iterable[Any], broken: dict[str, str]) -> Iterator[str]:
    """Yields the pictures that a table's cells name; rows that name none are noted."""
    empty = []
    for number, cell in enumerate(cells, start=1):
        if isinstance(cell, str) and cell.strip():
            yield _located(cell.strip(), path.parent)
        else:
            empty.append(str(number))
    if empty:
        broken[str(path)] = f"{path}: {count(len(empty), 'row')} without a picture: {name_some(empty)}"


def _located(name: str, base: Path) -> str:
    """Returns a name as the current folder can open it."""
    if is_url(name) or os.path.isabs(name):  # noqa: PTH117
        return name
    there = str(base / name)
    file = there.partition("::")[0]
    return name if not exists(file) and exists(name.partition("::")[0]) else there


def _no_column(path: Path, names: Sequence[str], wanted: str) -> DataError:
    present = ", ".join(map(repr, names[:20])) or "none"
    if wanted:
        return DataError(f"{path} has no column {wanted!r}; it has {present}")
    return DataError(f"{path} has no column of pictures; name it with --column (it has {present})")


_Reader = Callable[[Path, str, dict[str, str]], Iterable[str]]
_READERS: dict[str, _Reader] = {
    **dict.fromkeys((".txt", ".lst"), _list),
    **dict.fromkeys((".csv", ".tsv"), _separated),
    **dict.fromkeys((".jsonl", ".ndjson"), _json_lines),
    ".parquet": _parquet,
    ".tar": _tar,
}
