"""The guard of all outputs: no output replaces an input or a file that seesay did not write.

A file is recognised as seesay's own by its content (`FileKind`), a folder by a file that only seesay writes
(`FolderKind`). The folder of a run or a search also has the marker file `.seesay` from its first moment on, which
names the process that writes to it. Deletion removes only the files that a kind lists.
"""

import contextlib
import functools
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seesay.errors import DataError, SeesayError
from seesay.files import exists, lock_file

MARKER = ".seesay"
"""In the folder of a run or a search: what the folder holds, and which process has written to it last."""

_HEAD = 1 << 16
"""Bytes of a file that are read to recognise it."""


@dataclass(frozen=True)
class FileKind:
    """A kind of file that seesay writes.

    Attributes:
        name: how messages name it, such as "a page of seesay".
        recognise: returns whether the beginning of a file shows that seesay wrote it.
    """

    name: str
    recognise: Callable[[bytes], bool]


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that seesay writes.

    Attributes:
        name: how messages name it, such as "run".
        files: glob patterns, relative to the folder, of everything that seesay writes there.
        signature: a file that only seesay writes, and bytes that its beginning contains.
    """

    name: str
    files: tuple[str, ...]
    signature: tuple[str, bytes]


HTML_PAGE = FileKind(
    "a page that seesay wrote", lambda head: b'<meta name="generator" content="seesay">' in head[:2048]
)
PNG_IMAGE = FileKind(
    "an image that seesay drew", lambda head: head[:8] == b"\x89PNG\r\n\x1a\n" and b"tEXtSoftware\0seesay" in head
)
ARRAYS = FileKind(
    "an archive of arrays that seesay wrote", lambda head: head[:4] == b"PK\3\4" and b"seesay" in head[30:40]
)
JSON_REPORT = FileKind("a report that seesay wrote", lambda head: head.startswith(b'{\n  "seesay": "'))


def check_name(path: str | Path, flag: str = "--out") -> None:
    """Refuses an output that has no name of its own: an empty one, `.`, `..` or the root.

    Raises:
        DataError: it has none.
    """
    if Path(path).name in ("", ".."):
        raise DataError(f"{flag} is {str(path)!r}, which names no file or folder of its own; give it a name")


def check_inputs(path: str | Path, inputs: Iterable[str | Path | None], flag: str = "--out") -> None:
    """Refuses an output that is an input or that contains one.

    Args:
        path: the file or folder to write.
        inputs: files and folders that are read; None and what is no path, such as an address, are passed over.
        flag: names the output in the message.

    Raises:
        DataError: it is one or contains one.
    """
    target = os.path.realpath(path)
    real = functools.cache(os.path.realpath)  # of folders alone: a collection may have a million files
    for given in inputs:
        text = "" if given is None else str(given).partition("::")[0]
        if not text or "\0" in text:
            continue
        folder, name = os.path.split(os.path.abspath(text))  # noqa: PTH100
        source = os.path.join(real(folder), name)  # noqa: PTH118
        # `Path` raises an error for a name that no file can have, `os.path` does not.
        source = os.path.realpath(source) if os.path.islink(source) else source  # noqa: PTH114
        if source == target:
            raise DataError(f"{flag} {path} is an input, which would be replaced; choose another {flag}")
        if source.startswith(os.path.join(target, "")) and exists(source):  # noqa: PTH118
            raise DataError(f"{flag} {path} contains the input {given}; choose another {flag}")


def check_file(path: str | Path, kind: FileKind, flag: str = "--out", inputs: Iterable[str | Path | None] = ()) -> None:
    """Refuses a file as an output where an input or a foreign file is; an empty file may be replaced.

    Args:
        path: the file to write.
        kind: what an earlier output there is.
        flag: names the output in the message.
        inputs: as of `check_inputs`.

    Raises:
        DataError: the path has no name, is an input, or holds something that is not of the kind.
        SeesayError: the file there cannot be read.
    """
    path = Path(path)
    check_name(path, flag)
    check_inputs(path, inputs, flag)
    if path.is_dir():
        raise DataError(f"cannot write {path}, which is a folder; name a file with {flag}")
    head = _head(path)
    if head and not kind.recognise(head):
        raise DataError(f"{path} exists and is not {kind.name}; move it, or choose another {flag}")


def check_folder(
    folder: str | Path, kind: FolderKind, flag: str = "--out", inputs: Iterable[str | Path | None] = ()
) -> None:
    """Refuses a folder as an output where it is or contains an input, or where a foreign file would be replaced.

    Args:
        folder: where the output goes; other files there are no obstacle.
        kind: of the output.
        flag: names the output in the message.
        inputs: as of `check_inputs`.

    Raises:
        DataError: the path has no name, is a file, is or contains an input, or holds a file of a name that the output
            uses, which seesay did not write.
    """
    folder = Path(folder)
    check_name(folder, flag)
    check_inputs(folder, inputs, flag)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"cannot write {folder}, which is a file; name another {flag}")
    if not is_own(folder, kind) and (foreign := next(_files(folder, kind.files), None)):
        raise DataError(
            f"{foreign} would be replaced, and {folder} holds no {kind.name} of seesay; choose another {flag}"
        )


def is_own(folder: str | Path, kind: FolderKind) -> bool:
    """Returns whether seesay wrote an output of a kind to a folder, or began to."""
    folder = Path(folder)
    name, content = kind.signature
    return _read_marker(folder).get("kind") == kind.name or content in _head(folder / name)


@contextlib.contextmanager
def only_writer_of(folder: str | Path, kind: FolderKind, flag: str = "--out") -> Iterator[None]:
    """Makes and marks a folder and keeps other processes from writing to it, until the block or the process ends.

    A folder in which nothing was written is deleted.

    Raises:
        DataError: another process holds the folder; the message names it.
        SeesayError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not is_own(folder, kind) or not (folder / MARKER).exists():
            _write_marker(folder, kind)
    except OSError as error:
        raise SeesayError(f"cannot write {folder} ({error.strerror}); free it or name another place") from error
    with lock_file(folder / MARKER) as locked:
        if not locked:
            held = _read_marker(folder)
            raise DataError(
                f"another process (pid {held.get('pid', '?')} on {held.get('host', '?')}) is writing to {folder}; "
                f"wait for it, or choose another {flag}"
            )
        _write_marker(folder, kind, pid=os.getpid(), host=socket.gethostname())
        try:
            yield
        finally:
            if [path.name for path in folder.iterdir()] == [MARKER]:  # refused before anything was written
                (folder / MARKER).unlink()
                folder.rmdir()


def delete_own(folder: str | Path, kind: FolderKind, keep: Sequence[str] = ()) -> None:
    """Deletes what seesay wrote to a folder of a kind, and folders that this leaves empty; anything else stays.

    Args:
        folder: is left alone where it is not of the kind.
        kind: lists the files.
        keep: names in the folder that stay; `MARKER` where this process holds the folder's lock.

    Raises:
        SeesayError: a file cannot be deleted.
    """
    folder = Path(folder)
    if not is_own(folder, kind):
        return
    try:
        parents = {folder}
        for path in list(_files(folder, kind.files)):
            if path.relative_to(folder).parts[0] not in keep:
                path.unlink()
                parents.update(parent for parent in path.parents if parent.is_relative_to(folder))
        if MARKER not in keep:
            (folder / MARKER).unlink(missing_ok=True)
        for parent in sorted(parents, key=lambda path: -len(path.parts)):
            if not any(parent.iterdir()):
                parent.rmdir()
    except OSError as error:
        raise SeesayError(f"cannot delete the {kind.name} in {folder} ({error.strerror or error})") from error


def _files(folder: Path, patterns: Sequence[str]) -> Iterator[Path]:
    for pattern in patterns:
        yield from (path for path in sorted(folder.glob(pattern)) if path.is_symlink() or not path.is_dir())


def _head(path: Path) -> bytes:
    """Returns the beginning of a file, empty where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        raise SeesayError(f"{path} cannot be read ({error.strerror})") from error


def _read_marker(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads(_head(folder / MARKER) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write_marker(folder: Path, kind: FolderKind, **holder: object) -> None:
    """Writes the marker in place: another file of that name would not be the locked one."""
    content = json.dumps({"kind": kind.name, **holder}).encode() + b"\n"
    handle = os.open(folder / MARKER, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.write(handle, content)
        os.ftruncate(handle, len(content))
    finally:
        os.close(handle)
