"""Which images a collection has: folders, globs, lists, tables and archives, as one list of names.

A name is whatever `seesay.sources` opens, so that nothing is unpacked: `photos/a.jpg`, an address,
`shard.tar::a.jpg`, `table.parquet::COLUMN::ROW`.
"""

import csv
import fnmatch
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
from seesay.data.readers.images import Identities, ImageListing, is_url, unsupported_images, walk_files
from seesay.data.readers.parquet import embedded_column
from seesay.data.readers.text import read_text, text_lines
from seesay.data.records import count, name_some
from seesay.errors import DataError
from seesay.files import exists
from seesay.names import Folders

STANDARD_INPUT = "-"
_DELIMITERS = ",\t;|"


@dataclass
class ImageList:
    """The images of a collection.

    Attributes:
        images: their names, in the order of the sources; of several names of one image the first.
        broken: sources of which a part could not be read -> what is wrong with them.
        unsupported: files of image formats that cannot be opened, which are left out.
    """

    images: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    unsupported: list[str] = field(default_factory=list)

    def remark(self) -> str | None:
        """Returns a line that names the images that were left out; None if there are none."""
        return unsupported_images(self.unsupported)


def find_images(sources: Sequence[str], column: str = "") -> ImageList:
    """Returns the images that the sources name.

    A source is an image; an address; a folder, searched whole; a glob; `-`, a name a line on the standard input; a
    `.txt` of names; a `.csv`, `.tsv`, `.jsonl` or `.parquet` with a column of names or bytes; or a `.tar`. A folder
    without images stands for the tar and Parquet files in it. Names in a file start from its folder or, where
    there is no such image, from the current one.

    Args:
        sources: what to look through.
        column: the column of images in tables; empty = the first of a usual name.

    Raises:
        DataError: a source names nothing, or a table lacks the column.
    """
    found = ImageList()
    identities = Identities()
    files = (path for source in sources for path in _files(source, found))
    names = identities.distinct(name for path in files for name in _images(path, column, found))
    found.images = [name for name in names if "\0" not in name]
    impossible = [name for name in names if "\0" in name]
    found.broken |= {name: f"{name.replace(chr(0), '?')}: no file can have this name" for name in impossible}
    found.unsupported = identities.distinct(found.unsupported)
    return found


def _files(source: str, found: ImageList) -> list[str]:
    """Returns the files that a source means; itself, where it is no folder and no glob."""
    if not source.strip():
        raise DataError("a source is an empty text, which names no image; is a variable of the shell unset?")
    if source == STANDARD_INPUT or is_url(source):
        return [source]
    source = _spelled([source], Folders())
    if "::" in source:
        return [source]
    if exists(source) and Path(source).is_dir():
        return _folder(source, found)
    if glob.has_magic(source) and not exists(source):
        matches = sorted(path for path in _matches(source) if Path(path).is_file())
        if not matches:
            raise DataError(f"no file matches {source}")
        return matches
    return [source]


def _matches(pattern: str) -> Iterable[str]:
    """Returns what matches a glob; below `**` each folder is listed once, however many links lead to it."""
    parts = pattern.split("/")
    if "**" not in parts:
        return glob.glob(pattern)  # noqa: PTH207
    place = parts.index("**")
    head, tail = "/".join(parts[:place]), parts[place:]
    roots = glob.glob(f"{head}/") if head else ["/" if place else "."]  # noqa: PTH207
    return (
        file
        for root in roots
        for file in walk_files(Path(root), depth=None)
        if _match(Path(os.path.relpath(file, root)).parts, tail)
    )


def _match(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Returns whether the parts of a path match those of a glob, in which `**` stands for any number of folders."""
    if not patterns or not parts:
        return not parts and not patterns
    if patterns[0] == "**":
        rest = patterns[1:] or ["*"]
        return any(_match(parts[skip:], rest) for skip in range(len(parts)))
    hidden = parts[0].startswith(".") and not patterns[0].startswith(".")
    return not hidden and fnmatch.fnmatch(parts[0], patterns[0]) and _match(parts[1:], patterns[1:])


def _folder(folder: str, found: ImageList) -> list[str]:
    """Returns the images below a folder; of one without images the tar and Parquet files."""

    def note(error: OSError) -> None:
        found.broken[str(error.filename)] = f"{error.filename} cannot be listed ({error.strerror})"

    files = sorted(walk_files(Path(folder), depth=None, on_error=note))
    listing = ImageListing.of(files)
    shards = [file for file in files if file.lower().endswith((".tar", ".parquet"))]
    if not listing.images and not shards:
        raise _no_images(f"the folder {folder}", listing)
    found.unsupported += listing.unsupported
    return listing.images or shards


def _images(path: str, column: str, found: ImageList) -> Iterable[str]:
    """Returns the images in a file that names or holds several; itself, where it is an image."""
    if path == STANDARD_INPUT:
        folders = Folders()
        return [_spelled([name], folders) for name in text_lines(sys.stdin.read()) if name.strip()]
    if is_url(path) or "::" in path:
        return [path]
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 (an object for each of millions of names takes seconds)
    if suffix in (".tgz", ".gz", ".zip"):
        raise DataError(f"{path} is compressed; unpack it, or give a plain .tar")
    reader = _READERS.get(suffix)
    return [path] if reader is None else reader(Path(path), column, found)


def _list(path: Path, column: str, found: ImageList) -> Iterator[str]:
    names = [line.strip() for line in text_lines(read_text(path)) if line.strip()]
    if not names:
        raise DataError(f"{path} lists no images")
    folders = Folders()
    return (_located(name, path.parent, folders) for name in names)


def _csv(path: Path, column: str, found: ImageList) -> Iterator[str]:
    text = read_text(path)
    first = next((line for line in text_lines(text) if line.strip()), "")
    delimiter = max(_DELIMITERS, key=first.count)
    rows = [cells for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(cells)]
    header = rows[0] if rows else []
    chosen = find_image_column(header, column)
    if chosen is None:
        raise _no_column(path, header, column)
    place = header.index(chosen)
    return _named(path, (cells[place] if place < len(cells) else None for cells in rows[1:]), found)


def _json_lines(path: Path, column: str, found: ImageList) -> Iterator[str]:
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
    return _named(path, cells, found)


def _parquet(path: Path, column: str, found: ImageList) -> Iterator[str]:
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
    # A struct whose bytes are not there names its images by their path.
    return _named(path, (cell.get("path") if isinstance(cell, dict) else cell for cell in cells), found)


def _tar(path: Path, column: str, found: ImageList) -> Iterator[str]:
    members: list[str] = []
    broken: Exception | None = None
    try:
        with tarfile.open(path, "r:") as archive:
            members.extend(member.name for member in archive if member.isreg())
    except (OSError, tarfile.TarError, EOFError) as error:
        broken = error
    listing = ImageListing.of(members)
    if broken is not None and not listing.images:
        raise DataError(f"{path} cannot be read as a tar ({broken}); a compressed one must be unpacked") from broken
    if broken is not None:
        images = count(len(listing.images), "image")
        found.broken[str(path)] = f"{path}: cut short after {images} ({broken}); fetch it again"
    if not listing.images:
        raise _no_images(str(path), listing)
    found.unsupported += [f"{path}::{name}" for name in listing.unsupported]
    return (f"{path}::{name}" for name in listing.images)


def _no_images(source: str, listing: ImageListing) -> DataError:
    return DataError("; ".join(filter(None, (f"{source} holds no images", listing.remark()))))


def _named(path: Path, cells: Iterable[Any], found: ImageList) -> Iterator[str]:
    """Yields the images that a table's cells name; rows that name none are noted."""
    empty = []
    folders = Folders()
    for number, cell in enumerate(cells, start=1):
        if isinstance(cell, str) and cell.strip():
            yield _located(cell.strip(), path.parent, folders)
        else:
            empty.append(str(number))
    if empty:
        found.broken[str(path)] = f"{path}: {count(len(empty), 'row')} without an image: {name_some(empty)}"


def _located(name: str, base: Path, folders: Folders) -> str:
    """Returns a name in a file as the current folder can open it."""
    if is_url(name):
        return name
    return _spelled([name] if os.path.isabs(name) else [str(base / name), name], folders)  # noqa: PTH117


def _spelled(places: Sequence[str], folders: Folders) -> str:
    """Returns the first path that exists, as the disk spells it; the first of all if none does."""
    for place in places:
        if is_url(place) or exists(place.partition("::")[0]):
            return place
    for place in places:
        file, mark, member = place.partition("::")
        found = None if file.isascii() else folders.find(file)
        if found is not None:
            return f"{found}{mark}{member}"
    return places[0]


def _no_column(path: Path, names: Sequence[str], wanted: str) -> DataError:
    present = ", ".join(map(repr, names[:20])) or "none"
    if wanted:
        return DataError(f"{path} has no column {wanted!r}; it has {present}")
    return DataError(f"{path} has no column of images; name it with --column (it has {present})")


_Reader = Callable[[Path, str, ImageList], Iterable[str]]
_READERS: dict[str, _Reader] = {
    **dict.fromkeys((".txt", ".lst"), _list),
    **dict.fromkeys((".csv", ".tsv"), _csv),
    **dict.fromkeys((".jsonl", ".ndjson"), _json_lines),
    ".parquet": _parquet,
    ".tar": _tar,
}
