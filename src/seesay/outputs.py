"""Checks of output paths: no output replaces an input or a file not written by seesay.

Files written by seesay are detected by their content (`FileKind`), folders by a signature file (`FolderKind`). The
folder of a run or a search also has the marker file `.seesay` with the process that writes to it. Deletion removes only
the files listed by a kind.
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
"""Marker file of a run or search folder: its kind and the last writing process."""

_HEAD = 1 << 16
"""Number of bytes read to detect the kind of a file."""


@dataclass(frozen=True)
class FileKind:
    """A kind of file written by seesay.

    Attributes:
        name: name for messages, such as "a page of seesay".
        recognise: returns whether the first bytes of a file are of this kind.
    """

    name: str
    recognise: Callable[[bytes], bool]


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder written by seesay.

    Attributes:
        name: name for messages, such as "run".
        files: glob patterns of all files that seesay writes there, relative to the folder.
        signature: name of a file that only seesay writes, and bytes in its first part.
    """

    name: str
    files: tuple[str, ...]
    signature: tuple[str, bytes]


HTML_PAGE = FileKind(
    "a page written by seesay", lambda head: b'<meta name="generator" content="seesay">' in head[:2048]
)
PNG_IMAGE = FileKind(
    "an image written by seesay", lambda head: head[:8] == b"\x89PNG\r\n\x1a\n" and b"tEXtSoftware\0seesay" in head
)
ARRAYS = FileKind("an array archive written by seesay", lambda head: head[:4] == b"PK\3\4" and b"seesay" in head[30:40])


def check_name(path: str | Path, flag: str = "--out") -> None:
    """Checks that an output has a name: not empty, `.`, `..` or the root.

    Raises:
        DataError: it has none.
    """
    if Path(path).name in ("", ".."):
        raise DataError(f"{flag} is {str(path)!r}, which is not the name of a file or folder; pass a name")


def check_inputs(path: str | Path, inputs: Iterable[str | Path | None], flag: str = "--out") -> None:
    """Checks that an output is not an input and does not contain one.

    Args:
        path: the file or folder to write.
        inputs: files and folders that are read; None and values that are not paths, such as URLs, are ignored.
        flag: the option of the output, for the message.

    Raises:
        DataError: it is an input or contains one.
    """
    target = os.path.realpath(path)
    real = functools.cache(os.path.realpath)  # cached for folders only: a collection may have a million files
    for input_path in inputs:
        text = "" if input_path is None else str(input_path).partition("::")[0]
        if not text or "\0" in text:
            continue
        folder, name = os.path.split(os.path.abspath(text))  # noqa: PTH100
        source = os.path.join(real(folder), name)  # noqa: PTH118
        # `Path` raises an error for invalid names, `os.path` does not.
        source = os.path.realpath(source) if os.path.islink(source) else source  # noqa: PTH114
        if source == target:
            raise DataError(f"{flag} {path} is an input and would be replaced; choose another {flag}")
        if source.startswith(os.path.join(target, "")) and exists(source):  # noqa: PTH118
            raise DataError(f"{flag} {path} contains the input {input_path}; choose another {flag}")


def check_file(path: str | Path, kind: FileKind, flag: str = "--out", inputs: Iterable[str | Path | None] = ()) -> None:
    """Checks that an output file does not replace an input or a foreign file; empty files may be replaced.

    Args:
        path: the file to write.
        kind: kind of an existing output that may be replaced.
        flag: the option of the output, for the message.
        inputs: see `check_inputs`.

    Raises:
        DataError: the path has no name, is an input, or is a file of another kind.
        SeesayError: the existing file cannot be read.
    """
    path = Path(path)
    check_name(path, flag)
    check_inputs(path, inputs, flag)
    if path.is_dir():
        raise DataError(f"cannot write {path}, which is a folder; pass a file with {flag}")
    head = _head(path)
    if head and not kind.recognise(head):
        raise DataError(f"{path} exists and is not {kind.name}; move it, or choose another {flag}")


def check_folder(
    folder: str | Path, kind: FolderKind, flag: str = "--out", inputs: Iterable[str | Path | None] = ()
) -> None:
    """Checks that an output folder is not and does not contain an input, and that no foreign file would be replaced.

    Args:
        folder: the folder to write to; it may contain other files.
        kind: kind of the output.
        flag: the option of the output, for the message.
        inputs: see `check_inputs`.

    Raises:
        DataError: the path has no name, is a file, is or contains an input, or contains a foreign file with the name of
            an output.
    """
    folder = Path(folder)
    check_name(folder, flag)
    check_inputs(folder, inputs, flag)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"cannot write {folder}, which is a file; choose another {flag}")
    if not is_own(folder, kind) and (foreign := next(_files(folder, kind.files), None)):
        raise DataError(
            f"{foreign} would be replaced, but {folder} is not a {kind.name} of seesay; choose another {flag}"
        )


def is_own(folder: str | Path, kind: FolderKind) -> bool:
    """Returns whether a folder contains a complete or partial output of a kind."""
    folder = Path(folder)
    name, content = kind.signature
    return _read_marker(folder).get("kind") == kind.name or content in _head(folder / name)


@contextlib.contextmanager
def only_writer_of(folder: str | Path, kind: FolderKind, flag: str = "--out") -> Iterator[None]:
    """Creates, marks and locks a folder until the end of the block or process; an unused folder is deleted.

    Raises:
        DataError: another process has the lock.
        SeesayError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not is_own(folder, kind) or not (folder / MARKER).exists():
            _write_marker(folder, kind)
    except OSError as error:
        raise SeesayError(f"cannot write {folder} ({error.strerror}); check it or choose another path") from error
    with lock_file(folder / MARKER) as locked:
        if not locked:
            holder = _read_marker(folder)
            raise DataError(
                f"another process (pid {holder.get('pid', '?')} on {holder.get('host', '?')}) is writing to {folder}; "
                f"wait for it, or choose another {flag}"
            )
        _write_marker(folder, kind, pid=os.getpid(), host=socket.gethostname())
        try:
            yield
        finally:
            if [path.name for path in folder.iterdir()] == [MARKER]:  # nothing was written
                (folder / MARKER).unlink()
                folder.rmdir()


def delete_own(folder: str | Path, kind: FolderKind, keep: Sequence[str] = ()) -> None:
    """Deletes the files of an output and folders that become empty; other files are kept.

    Args:
        folder: the folder; unchanged if it is not of the kind.
        kind: kind of the output, with its files.
        keep: names in the folder to keep; `MARKER` if this process holds the lock.

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
    """Returns the first bytes of a file, empty if it does not exist."""
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
    """Writes the marker in place, because it is the locked file."""
    content = json.dumps({"kind": kind.name, **holder}).encode() + b"\n"
    handle = os.open(folder / MARKER, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.write(handle, content)
        os.ftruncate(handle, len(content))
    finally:
        os.close(handle)
