"""Find the images of a collection: folders, globs, lists, tables and archives, as one list of names.

`seesay.images.sources` opens every such name, so that nothing is unpacked: `photos/a.jpg`, a URL, `shard.tar::a.jpg`,
`table.parquet::COLUMN::ROW`.
"""

import csv
import fnmatch
import glob
import io
import json
import os
import sys
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seesay.data.readers.columns import find_image_column
from seesay.data.readers.image_tables import open_table
from seesay.data.readers.images import Identities, ImageListing, is_url, unsupported_images, walk_files
from seesay.data.readers.saved import find_saved_files
from seesay.data.readers.text import read_text, text_lines
from seesay.data.records import count, name_some
from seesay.errors import DataError
from seesay.files import exists
from seesay.images.sources import ARROW_SUFFIX
from seesay.names import Folders

STANDARD_INPUT = "-"
_DELIMITERS = ",\t;|"


@dataclass
class ImageList:
    """The images of a collection.

    Attributes:
        images: names in the order of the sources; the first name of each image.
        broken: partly unreadable sources -> reason.
        unsupported: files of unsupported image formats, which are skipped.
        wanted: columns of tables to keep.
        columns: values of these columns by image name; of images from tables only.
        column_names: names of all columns of the tables.
    """

    images: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    unsupported: list[str] = field(default_factory=list)
    wanted: frozenset[str] = frozenset()
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    column_names: dict[str, None] = field(default_factory=dict)

    def keep(self, names: Iterable[str]) -> list[str]:
        """Record the names of a table's columns and return those to keep."""
        names = list(names)
        self.column_names |= dict.fromkeys(names)
        return [name for name in names if name in self.wanted]

    def remark(self) -> str | None:
        """Return a line that names the skipped images; None if there are none."""
        return unsupported_images(self.unsupported)


def find_images(sources: Sequence[str], column: str = "", wanted: Collection[str] = ()) -> ImageList:
    """Return the images of the sources.

    A source is an image; a URL; a folder, searched recursively; a glob; `-`, one name per line on stdin; a `.txt` file
    of names; a `.csv`, `.tsv`, `.jsonl`, `.parquet` or `.arrow` file with a column of names or bytes; a `.tar` file; or
    a data set of the Hugging Face hub (`hf:NAME`) or a folder of `save_to_disk`. In a folder without images, its tar
    and Parquet files are read. Names in a file are relative to its folder or, if no such
    image exists, to the current folder.

    Args:
        sources: see above.
        column: image column of tables; empty = the first with a common name.
        wanted: further columns of tables to read.

    Raises:
        DataError: a source contains no images, or a table lacks the column.
    """
    found = ImageList(wanted=frozenset(wanted))
    identities = Identities()
    files = (path for source in sources for path in _files(source, found))
    names = identities.distinct(name for path in files for name in _images(path, column, found))
    found.images = [name for name in names if "\0" not in name]
    invalid = [name for name in names if "\0" in name]
    found.broken |= {name: f"{name.replace(chr(0), '?')}: no file can have this name" for name in invalid}
    found.unsupported = identities.distinct(found.unsupported)
    return found


def _files(source: str, found: ImageList) -> list[str]:
    """Return the files of a folder or glob; for any other source, the source itself."""
    if not source.strip():
        raise DataError("a source is empty; is a shell variable unset?")
    if source == STANDARD_INPUT or is_url(source):
        return [source]
    if (saved := find_saved_files(source)) is not None:
        return [str(path) for paths in saved.values() for path in paths]
    source = _first_existing([source], Folders())
    if "::" in source:
        return [source]
    if exists(source) and Path(source).is_dir():
        return _folder(source, found)
    if glob.has_magic(source) and not exists(source):
        matches = sorted(path for path in _matches(source) if Path(path).is_file())
        if not matches:
            raise DataError(f"no file matches {source}")
        return matches
    if not exists(source) and not Path(source).suffix:  # a folder; a single missing image is a failure of the job
        raise DataError(f"{source}: no such file or folder; check the path")
    return [source]


def _matches(pattern: str) -> Iterable[str]:
    """Return the matches of a glob; below `**` each folder is listed once, even if several links lead to it."""
    parts = pattern.split("/")
    if "**" not in parts:
        return glob.glob(pattern)  # noqa: PTH207
    index = parts.index("**")
    head, tail = "/".join(parts[:index]), parts[index:]
    roots = glob.glob(f"{head}/") if head else ["/" if index else "."]  # noqa: PTH207
    return (
        file
        for root in roots
        for file in walk_files(Path(root), depth=None)
        if _match(Path(os.path.relpath(file, root)).parts, tail)
    )


def _match(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether the parts of a path match those of a glob, in which `**` matches any number of folders."""
    if not patterns or not parts:
        return not parts and not patterns
    if patterns[0] == "**":
        rest = patterns[1:] or ["*"]
        return any(_match(parts[skip:], rest) for skip in range(len(parts)))
    hidden = parts[0].startswith(".") and not patterns[0].startswith(".")
    return not hidden and fnmatch.fnmatch(parts[0], patterns[0]) and _match(parts[1:], patterns[1:])


def _folder(folder: str, found: ImageList) -> list[str]:
    """Return the images below a folder; without images, its tar and Parquet files."""

    def record(error: OSError) -> None:
        found.broken[str(error.filename)] = f"{error.filename} cannot be listed ({error.strerror})"

    files = sorted(walk_files(Path(folder), depth=None, on_error=record))
    listing = ImageListing.of(files)
    shards = [file for file in files if file.lower().endswith((".tar", ".parquet"))]
    if not listing.images and not shards:
        raise _no_images(f"the folder {folder}", listing)
    found.unsupported += listing.unsupported
    return listing.images or shards


def _images(path: str, column: str, found: ImageList) -> Iterable[str]:
    """Return the images in a list, table or archive; for an image, the image itself."""
    if path == STANDARD_INPUT:
        folders = Folders()
        return [_first_existing([name], folders) for name in text_lines(sys.stdin.read()) if name.strip()]
    if is_url(path) or "::" in path:
        return [path]
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 (creating millions of Path objects takes seconds)
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
    index, kept = header.index(chosen), {name: header.index(name) for name in found.keep(header)}

    def cell(cells: list[str], place: int) -> str:
        return cells[place] if place < len(cells) else ""

    table = ((cell(row, index), {name: cell(row, place) for name, place in kept.items()}) for row in rows[1:])
    return _named(path, table, found)


def _json_lines(path: Path, column: str, found: ImageList) -> Iterator[str]:
    rows: list[_TableRow] = []
    keys: set[str] = set()
    for number, line in enumerate(text_lines(read_text(path)), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} line {number} is not JSON ({error}); fix or remove it") from error
        names = [str(name) for name in row] if isinstance(row, dict) else []
        keys.update(names)
        chosen = find_image_column(names, column)
        rows.append((None, {}) if chosen is None else (row[chosen], {name: row[name] for name in found.keep(names)}))
    if not any(cell for cell, _ in rows):
        raise _no_column(path, sorted(keys), column)
    return _named(path, rows, found)


def _table(path: Path, column: str, found: ImageList) -> Iterator[str]:
    with open_table(path) as table:
        image, embedded, _ = table.image_column(column)
        kept = found.keep(table.names)
        if embedded:
            images = [f"{path}::{image}::{row}" for row in range(table.num_rows)]
            if kept:
                found.columns |= zip(images, map(_as_texts, table.rows(kept)), strict=True)
            return iter(images)
        chosen = find_image_column(table.names, column) or image
        if chosen is None:
            raise _no_column(path, table.names, column)
        rows = [(row[chosen], {name: row[name] for name in kept}) for row in table.rows([chosen, *kept])]
    # A struct without bytes contains paths.
    cells = ((cell.get("path") if isinstance(cell, dict) else cell, values) for cell, values in rows)
    return _named(path, cells, found)


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
        raise DataError(f"{path} cannot be read as a tar ({broken}); unpack compressed archives") from broken
    if broken is not None:
        images = count(len(listing.images), "image")
        found.broken[str(path)] = f"{path}: truncated after {images} ({broken}); download it again"
    if not listing.images:
        raise _no_images(str(path), listing)
    found.unsupported += [f"{path}::{name}" for name in listing.unsupported]
    return (f"{path}::{name}" for name in listing.images)


def _no_images(source: str, listing: ImageListing) -> DataError:
    return DataError("; ".join(filter(None, (f"{source} contains no images", listing.remark()))))


_TableRow = tuple[Any, Mapping[str, Any]]
"""The image of a row, and the columns to keep."""


def _named(path: Path, rows: Iterable[_TableRow], found: ImageList) -> Iterator[str]:
    """Yield the images of a table and record their columns; record rows without an image."""
    empty = []
    folders = Folders()
    for number, (cell, values) in enumerate(rows, start=1):
        if isinstance(cell, str) and cell.strip():
            name = _located(cell.strip(), path.parent, folders)
            if values:
                found.columns.setdefault(name, _as_texts(values))
            yield name
        else:
            empty.append(str(number))
    if empty:
        found.broken[str(path)] = f"{path}: {count(len(empty), 'row')} without an image: {name_some(empty)}"


def _as_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the values of a row as text: none as empty, a list with commas."""
    return {
        name: ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else "" if value is None else str(value)
        for name, value in values.items()
    }


def _located(name: str, base: Path, folders: Folders) -> str:
    """Resolve a name in a file relative to the file's folder or the current one."""
    if is_url(name):
        return name
    return _first_existing([name] if os.path.isabs(name) else [str(base / name), name], folders)  # noqa: PTH117


def _first_existing(paths: Sequence[str], folders: Folders) -> str:
    """Return the first path that exists, with the Unicode form on disk; the first path if none exists."""
    for path in paths:
        if is_url(path) or exists(path.partition("::")[0]):
            return path
    for path in paths:
        file, mark, member = path.partition("::")
        found = None if file.isascii() else folders.find(file)
        if found is not None:
            return f"{found}{mark}{member}"
    return paths[0]


def _no_column(path: Path, names: Sequence[str], column: str) -> DataError:
    present = ", ".join(map(repr, names[:20])) or "none"
    if column:
        return DataError(f"{path} has no column {column!r} (columns: {present})")
    return DataError(f"{path} has no image column (columns: {present}); choose one with --column")


_Reader = Callable[[Path, str, ImageList], Iterable[str]]
_READERS: dict[str, _Reader] = {
    **dict.fromkeys((".txt", ".lst"), _list),
    **dict.fromkeys((".csv", ".tsv"), _csv),
    **dict.fromkeys((".jsonl", ".ndjson"), _json_lines),
    **dict.fromkeys((".parquet", ARROW_SUFFIX), _table),
    ".tar": _tar,
}
