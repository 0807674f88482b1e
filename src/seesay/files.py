"""Files that are whole or absent at any moment, and files that only one process writes."""

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
_TURN_SECONDS = 0.2
_HAS_LOCKS = os.name == "posix"
"""Windows has no such locks: there it is left to the user."""


def exists(path: Path | str) -> bool:
    """Returns whether there is something at a path; False for a name that no file can have, such as one too long.

    `Path.exists` raises OSError for such names, which stops a job over many.
    """
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def text_bytes(text: str) -> bytes:
    r"""Returns text as UTF-8; bytes of a file name that are not UTF-8 become escapes of JSON, such as `\udce9`."""
    return text.encode("utf-8", "backslashreplace")


def unescape_name(text: str) -> str:
    """Returns the file name that `text_bytes` wrote to a file without escapes of its own, such as a Parquet file."""
    return re.sub(r"\\udc([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), text)


def require_suffix(path: Path, suffixes: Mapping[str, str], flag: str) -> None:
    """Refuses an output whose suffix names none of the known formats.

    Args:
        path: the output.
        suffixes: format by lower-case suffix.
        flag: the option that names the output, for the message.

    Raises:
        ConfigError: the suffix is unknown; the known ones are listed.
    """
    if path.suffix.lower() not in suffixes:
        known = ", ".join(f"{suffix} ({format})" for suffix, format in suffixes.items())
        raise ConfigError(f"{flag} {path}: the suffix selects the format; use one of {known}")


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yields the path of an empty file that replaces `path` when the block ends, so that no reader meets half of it.

    The file gets the permissions that the umask gives to new files, also where a library makes it anew as a private
    one.

    Args:
        path: the file to write.
        durable: for what cannot be made again: the content is on the disk before it replaces the old file, whose
            permissions it keeps.

    Raises:
        SeesayError: it cannot be written.
    """
    part = path.with_name(f".{path.name[:40]}.{os.getpid()}.part")  # a whole long name would be too long with more
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
        raise SeesayError(f"cannot write {path} ({error.strerror}); free it or name another place") from error


def write_atomically(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Writes a file as `replacing` does.

    Args:
        path: the file.
        data: all of its content.
        durable: as of `replacing`.

    Raises:
        SeesayError: it cannot be written.
    """
    with replacing(path, durable=durable) as part:
        part.write_bytes(data)


def check_readable(path: Path) -> None:
    """Opens a file for reading: safetensors reports a file without read permission as absent.

    Raises:
        OSError: it cannot be opened; the error says why.
    """
    with path.open("rb"):
        pass


def append(path: Path, data: bytes) -> None:
    """Adds to the end of a file in one write, which a kill can only cut short at its end.

    Raises:
        SeesayError: if it cannot be written; a part of the data may have been.
    """
    try:
        with path.open("ab", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
    except OSError as error:
        raise SeesayError(
            f"cannot write {path} ({error.strerror}); make room and run the same command again: it goes on"
        ) from error


@contextlib.contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Waits until no other process is within such a block of the same path, whose file may be replaced in it.

    What is locked is a file beside it, which goes with the block; the end of a process gives it free, too.

    Raises:
        OSError: the folder cannot be written.
    """
    if not _HAS_LOCKS:
        yield
        return
    handle, beside = _wait_for(path)
    try:
        yield
    finally:
        try:
            beside.unlink(missing_ok=True)
        finally:
            os.close(handle)


def _wait_for(path: Path) -> tuple[int, Path]:
    """Returns the locked file beside another, open, and where it lies."""
    beside = path.with_name(f".{hashlib.sha256(text_bytes(path.name)).hexdigest()[:16]}.lock")
    told = False
    while True:
        try:
            handle = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:  # another user's, which can be locked nevertheless
            handle = os.open(beside, os.O_RDONLY)
        if _locked(handle) and _is_at(handle, beside):
            return handle, beside
        os.close(handle)  # another's, or one that another has taken away when it left
        if not told:
            log.info("waiting for another process that writes %s", path)
        told = True
        time.sleep(_TURN_SECONDS)


def _locked(handle: int) -> bool:
    """Tells whether an open file could be locked, as it can wherever there are no locks."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Tells whether an open file is the one that lies at a path."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[bool]:
    """Yields whether this process could lock a file or folder that exists; the lock ends with the block or the process.

    Where there are no locks it yields True.
    """
    if not _HAS_LOCKS:
        yield True
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        yield _locked(handle) and _is_at(handle, path)
    finally:
        os.close(handle)


@contextlib.contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Keeps a second process from writing to a file or folder that exists, until the block or the process ends.

    Raises:
        DataError: another process has it.
    """
    with lock_file(path) as locked:
        if not locked:
            raise DataError(f"another process is writing to {path}; wait for it, or choose another --out")
        yield
