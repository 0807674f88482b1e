"""Sources of image bytes: files, URLs and archive members.

A source is a path, an http(s) URL, an archive member (`photos.tar::name.jpg`, or `table.parquet::COLUMN::ROW` with a
column of bytes or {bytes, path} structs, also of an `.arrow` file of the datasets library), or the content of an image
file as bytes or named `ImageBytes`. Unreadable sources raise an `ImageError` of one line. All functions are
thread-safe.

Limits of downloads: `URL_TIMEOUT`, `URL_DEADLINE`, `URL_ATTEMPTS` and `MAX_URL_BYTES`.
"""

import functools
import http.client
import io
import re
import tarfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from seesay.errors import ImageError
from seesay.files import exists
from seesay.names import Folders
from seesay.retries import is_temporary, wait_seconds

URL_TIMEOUT = 20.0  # seconds without data
URL_DEADLINE = 120.0  # seconds per image, including waits between attempts
URL_ATTEMPTS = 4  # for busy servers and broken connections
URL_RETRY_DELAY = 1.0  # seconds before the first retry; doubled for each further retry
MAX_URL_BYTES = 100_000_000
CACHED_ARCHIVES = 64  # cached tar indices per process
CACHED_ROW_GROUPS = 4  # cached Parquet row groups per process; one may contain 100 MB of images

ARROW_SUFFIX = ".arrow"
_MEMBER = re.compile(r"(.+?\.(tar|parquet|arrow))::(.+)", re.IGNORECASE | re.DOTALL)

# Prevents two threads from indexing the same archive.
_archive_lock = threading.Lock()


@dataclass(frozen=True)
class ImageBytes:
    """An image file in memory.

    Attributes:
        name: name for messages.
        content: bytes of the file.
    """

    name: str
    content: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.name


Source = str | Path | bytes | ImageBytes


def open_source(source: Source) -> IO[bytes]:
    """Return the bytes of a source as a seekable stream."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, ImageBytes):
        return io.BytesIO(source.content)
    name = str(source)
    if name.lower().startswith(("http://", "https://")):
        return io.BytesIO(_fetch(name))
    member = _MEMBER.fullmatch(name)
    if member and not exists(name):
        archive = _existing_file(member[1])
        reader = _read_tar if member[2].lower() == "tar" else _read_row
        return io.BytesIO(reader(archive, member[3], name))
    path = _existing_file(name)
    try:
        return path.open("rb")
    except OSError as error:
        raise source_error(source, f"cannot be opened ({error.strerror}); check its permissions") from error


def source_state(source: str) -> str:
    """Return a string that changes when the file of a source changes, without reading it; for a URL the URL itself.

    Raises:
        OSError: the file does not exist.
    """
    if source.lower().startswith(("http://", "https://")):
        return source
    member = _MEMBER.fullmatch(source)
    if member is None or exists(source):
        return _state(Path(source))
    return f"{_state(Path(member[1]))} {member[3]}"


def _state(path: Path) -> str:
    status = path.stat()
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def source_error(source: Source, problem: str) -> ImageError:
    """Return an error with a message of one line, also if the name contains line breaks."""
    name = f"image of {len(source)} bytes" if isinstance(source, bytes) else source
    return ImageError(" ".join(f"{name}: {problem}".splitlines()))


def _existing_file(name: str) -> Path:
    """Return the path of a regular file; raise ImageError if it is missing or something else."""
    path = Path(name)
    try:
        if path.is_file():
            return path
        if path.is_dir():
            raise source_error(name, "is a folder, not an image; pass a file in it")
        found = path.exists()
        spelled = None if found or name.isascii() else Folders().find(name)
    except OSError as error:
        raise source_error(name[:200], f"cannot be opened ({error.strerror}); check the path") from error
    if spelled is not None and spelled != name:
        return _existing_file(spelled)
    raise source_error(name, "is not a regular file" if found else "no such file; check the path")


def _fetch(url: str) -> bytes:
    """Download a URL within the limits of the module; temporary failures are retried."""
    deadline = time.monotonic() + URL_DEADLINE
    for attempt in range(1, URL_ATTEMPTS + 1):
        try:
            return _receive(url, deadline)
        except ImageError:
            raise
        except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: invalid URL
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            wait = wait_seconds(attempt, error, URL_RETRY_DELAY)
            retry = is_temporary(error)
            if not retry or attempt == URL_ATTEMPTS or time.monotonic() + wait > deadline:
                raise source_error(url, _failure(error, attempt if retry else 0)) from error
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _receive(url: str, deadline: float) -> bytes:
    """Return the response of one request.

    Raises:
        ImageError: it is too large, or the deadline passed.
    """
    quoted = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    content = bytearray()
    request = urllib.request.Request(quoted, headers={"User-Agent": "seesay"})
    with urllib.request.urlopen(request, timeout=URL_TIMEOUT) as response:
        expected = response.length
        # `read` would wait for all bytes, and slow data never triggers the timeout.
        while chunk := response.read1(1 << 16):
            content += chunk
            if len(content) > MAX_URL_BYTES:
                raise source_error(url, f"more than {MAX_URL_BYTES / 1e6:g} MB; download it manually")
            if time.monotonic() > deadline:
                raise source_error(url, f"not received within {URL_DEADLINE:g} s; try again or download it manually")
    if expected is not None and len(content) < expected:  # not detected by `read1`
        raise http.client.IncompleteRead(bytes(content), expected - len(content))
    return bytes(content)


def _failure(error: Exception, attempts: int) -> str:
    """Return the message for a failed request; `attempts` is 0 if a retry would not help."""
    if isinstance(error, urllib.error.HTTPError):
        problem, check = f"the server returned {error.code} {error.reason}", "check the URL"
    else:
        reason = getattr(error, "reason", None) or error
        problem, check = f"cannot be downloaded ({reason})", "check the URL and the network"
    return f"{problem}, attempt {attempts}; run the same command again later" if attempts else f"{problem}; {check}"


def _read_tar(archive: Path, member: str, source: str) -> bytes:
    """Return the bytes of a member of an uncompressed tar."""
    status = archive.stat()
    with _archive_lock:
        members = _tar_members(str(archive), status.st_mtime_ns, status.st_size)
    entry = members.get(member.removeprefix("./"))
    if entry is None:
        raise source_error(source, f"the archive has no such member among its {len(members)}; check the name")
    offset, size = entry
    # A new handle per read, so that nothing is shared between threads or forked workers.
    with archive.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)


@functools.lru_cache(maxsize=CACHED_ARCHIVES)
def _tar_members(archive: str, modified: int, size: int) -> dict[str, tuple[int, int]]:
    """Return (offset, size) of a tar's files by name; `modified` and `size` are cache keys.

    A truncated archive gives the members before the truncation.
    """
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if member.isreg():
                    members[member.name.removeprefix("./")] = (member.offset_data, member.size)
    except (OSError, tarfile.TarError) as error:
        if not members:
            raise source_error(archive, f"cannot be read as an uncompressed tar ({error}); unpack it") from error
    return members


def _read_row(archive: Path, reference: str, source: str) -> bytes:
    """Return the bytes at COLUMN::ROW of a Parquet or Arrow table."""
    column, separator, digits = reference.rpartition("::")
    if not separator or not digits.isdecimal():
        raise source_error(source, "an image in a table must be table.parquet::COLUMN::ROW")
    status = archive.stat()
    key = (str(archive), status.st_mtime_ns, status.st_size)
    arrow = archive.suffix.lower() == ARROW_SUFFIX
    with _archive_lock:
        starts, columns = (_arrow_layout if arrow else _parquet_layout)(*key)
        row = int(digits)
        if column not in columns:
            raise source_error(source, f"the table has no column {column} (columns: {', '.join(columns)})")
        if row >= starts[-1]:
            raise source_error(source, f"the table has only {starts[-1]} rows, counted from 0")
        group = int(np.searchsorted(starts, row, side="right")) - 1
        cells = _arrow_table(*key).column(column) if arrow else _parquet_column(*key, group, column)
    value = cells[row - starts[group]].as_py()
    if isinstance(value, dict):
        path, value = value.get("path"), value.get("bytes")
        if value is None and path:
            value = _existing_file(str(archive.parent / path)).read_bytes()
    if not isinstance(value, bytes):
        raise source_error(source, "contains no image; the column must contain bytes or {bytes, path}")
    return value


def open_arrow(path: Path) -> Any:
    """Return a file of the datasets library (an Arrow stream) as a memory-mapped table.

    Raises:
        OSError: it cannot be read.
        pyarrow.ArrowException: it is not an Arrow stream, or truncated.
    """
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_stream(source).read_all()


@functools.lru_cache(maxsize=CACHED_ARCHIVES)
def _arrow_table(archive: str, modified: int, size: int) -> Any:
    """Return a file of the datasets library as a table; its memory is that of the file."""
    import pyarrow as pa

    try:
        return open_arrow(Path(archive))
    except (OSError, pa.ArrowException) as error:
        raise source_error(archive, f"cannot be read as Arrow ({error})") from error


def _arrow_layout(archive: str, modified: int, size: int) -> tuple[list[int], list[str]]:
    """Return 0 and the number of rows, and the column names."""
    table = _arrow_table(archive, modified, size)
    return [0, table.num_rows], list(table.schema.names)


@functools.lru_cache(maxsize=CACHED_ARCHIVES)
def _parquet_layout(archive: str, modified: int, size: int) -> tuple[list[int], list[str]]:
    """Return the first row of each row group and the total number of rows, and the column names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(archive) as table:
            groups = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
            return [0, *np.cumsum(groups).tolist()], list(table.schema_arrow.names)
    except (OSError, pa.ArrowException) as error:
        raise source_error(archive, f"cannot be read as Parquet ({error})") from error


@functools.lru_cache(maxsize=CACHED_ROW_GROUPS)
def _parquet_column(archive: str, modified: int, size: int, group: int, column: str) -> Any:
    """Return a column of a row group (the unit of reading) as an Arrow array."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(archive) as table:
            return table.read_row_group(group, columns=[column]).column(column)
    except (OSError, pa.ArrowException) as error:
        raise source_error(archive, f"cannot be read as Parquet ({error})") from error
