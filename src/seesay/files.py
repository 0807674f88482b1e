"""Atomic writes and locks of files."""

import contextlib
import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from seesay.errors import ConfigError, DataError, SeesayError

log = logging.getLogger("seesay")
_POLL_SECONDS = 0.2
_HAS_LOCKS = os.name == "posix"
"""Windows has no such locks; there concurrent writers are not prevented."""


def exists(path: Path | str) -> bool:
    """Returns whether a path exists; False for invalid names, for which `Path.exists` raises OSError."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def text_bytes(text: str) -> bytes:
    r"""Returns text as UTF-8; invalid bytes of file names become JSON escapes such as `\udce9`."""
    return text.encode("utf-8", "backslashreplace")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unescape_name(text: str) -> str:
    """Returns the file name of `text_bytes`, for formats without escapes such as Parquet."""
    return re.sub(r"\\udc([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), text)


def require_suffix(path: Path, suffixes: Mapping[str, str], flag: str) -> None:
    """Checks that the suffix of an output is a known format.

    Args:
        path: the output.
        suffixes: formats by lower-case suffix.
        flag: the option of the output, for the message.

    Raises:
        ConfigError: the suffix is unknown.
    """
    if path.suffix.lower() not in suffixes:
        known = ", ".join(f"{suffix} ({format})" for suffix, format in suffixes.items())
        raise ConfigError(f"{flag} {path}: the suffix selects the format; use one of {known}")


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yields the path of an empty file that atomically replaces `path` at the end of the block.

    The file gets default permissions, also if a library creates it with private ones.

    Args:
        path: the file to write.
        durable: for irreplaceable data: flush the content to disk before replacing the old file, and keep its
            permissions.

    Raises:
        SeesayError: it cannot be written.
    """
    part = path.with_name(f".{path.name[:40]}.{os.getpid()}.part")  # truncated to keep the name valid
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.touch()
            mode = (path if durable and path.exists() else part).stat().st_mode
            yield part
            part.chmod(stat.S_IMODE(mode))
            if durable:
                with part.open("rb") as file:
                    os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise SeesayError(f"cannot write {path} ({error.strerror}); check it or choose another path") from error


def write_atomically(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Writes a file atomically; see `replacing`.

    Args:
        path: the file.
        data: content of the file.
        durable: see `replacing`.

    Raises:
        SeesayError: it cannot be written.
    """
    with replacing(path, durable=durable) as part:
        part.write_bytes(data)


def check_readable(path: Path) -> None:
    """Checks that a file can be opened, because safetensors reports files without read permission as missing.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb"):
        pass


def cache_folder(name: str) -> Path:
    """Return a folder of the user's cache (`XDG_CACHE_HOME`, else `~/.cache`) for files of one kind, made if absent.

    Raises:
        OSError: It cannot be made.
        RuntimeError: There is no home folder.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seesay" / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def append(path: Path, data: bytes) -> None:
    """Appends data to a file in one write, which a kill can only truncate.

    Raises:
        SeesayError: it cannot be written; part of the data may have been.
    """
    try:
        with path.open("ab", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
    except OSError as error:
        raise SeesayError(
            f"cannot write {path} ({error.strerror}); free space and run the same command to resume"
        ) from error


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Waits for other processes in such a block for the same path, whose file may be replaced in the block.

    The lock is a separate file, which is removed at the end of the block and released at the end of the process.

    Raises:
        OSError: the folder cannot be written.
    """
    if not _HAS_LOCKS:
        yield
        return
    handle, lock_path = _wait_for(path)
    try:
        yield
    finally:
        try:
            lock_path.unlink(missing_ok=True)
        finally:
            os.close(handle)


def _wait_for(path: Path) -> tuple[int, Path]:
    """Returns the open lock file of a path, and its path."""
    lock_path = path.with_name(f".{hashlib.sha256(text_bytes(path.name)).hexdigest()[:16]}.lock")
    logged = False
    while True:
        try:
            handle = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:  # owned by another user, but can be locked
            handle = os.open(lock_path, os.O_RDONLY)
        if _try_lock(handle) and _is_at(handle, lock_path):
            return handle, lock_path
        os.close(handle)  # locked by another process, or removed by the one that held it
        if not logged:
            log.info("waiting for another process that writes %s", path)
        logged = True
        time.sleep(_POLL_SECONDS)


def _try_lock(handle: int) -> bool:
    """Locks an open file; returns whether it is locked (True without support for locks)."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # file system without locks
        pass
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Returns whether an open file is still the file at a path."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[bool]:
    """Locks an existing file or folder until the end of the block or process; yields whether it is locked.

    Yields True without support for locks.
    """
    if not _HAS_LOCKS:
        yield True
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        yield _try_lock(handle) and _is_at(handle, path)
    finally:
        os.close(handle)


@contextlib.contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Locks an existing file or folder against other writers until the end of the block or process.

    Raises:
        DataError: another process has the lock.
    """
    with lock_file(path) as locked:
        if not locked:
            raise DataError(
                f"another process is writing to {path}, or reviews it; wait for it, end it, or choose another --out"
            )
        yield
