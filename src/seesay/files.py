"""Files that are whole or absent at any moment, and files that only one process writes."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from seesay.errors import DataError, SeesayError


def write_atomically(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Writes a file by way of another in the same folder, so that no reader ever meets half of it.

    Args:
        path: the file.
        data: all of its content.
        durable: for what cannot be made again: the content is on the disk before it takes the old one's place, whose
            permissions it keeps.

    Raises:
        SeesayError: if it cannot be written.
    """
    part = path.with_name(f".{path.name[:40]}.{os.getpid()}.part")  # a whole long name would be too long with more
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            if durable and path.exists():
                shutil.copymode(path, part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise SeesayError(f"cannot write {path} ({error.strerror}); free it or name another place") from error


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
def only_writer(path: Path) -> Iterator[None]:
    """Keeps a second process from writing to a file or folder that exists; the end of this one gives it free.

    Raises:
        DataError: another process has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such locks: there it is left to the user
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"another process is writing to {path}; wait for it, or choose another --out") from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)
