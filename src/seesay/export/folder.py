"""A folder that is there whole or not at all."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from seesay.data.records import name_some
from seesay.errors import DataError, SeesayError
from seesay.onnx_runtime.manifest import EXPORT
from seesay.outputs import check_folder


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target` that takes its place once the block is through, and else is removed.

    An earlier export at `target` is replaced when the block ends.

    Raises:
        DataError: something else is there.
        SeesayError: the folder cannot be written.
    """
    check_free(target)
    part, old = (target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        part.mkdir(parents=True)
        yield part
        check_free(target)  # again: an export takes minutes
        if target.exists():
            target.replace(old)
        part.replace(target)
    except OSError as error:
        if old.exists() and not target.exists():
            old.replace(target)
        raise SeesayError(f"cannot write {target} ({error.strerror}); make room or name another --out") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_free(target: Path, inputs: Iterable[str | Path] = ()) -> None:
    """Refuses a place where anything but an earlier export is, before anything is computed.

    Args:
        target: where the export goes.
        inputs: what is read for it.

    Raises:
        DataError: the folder holds, is or contains something else.
    """
    check_folder(target, EXPORT, inputs=inputs)
    found = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    foreign = [name for name in found if name not in EXPORT.files]
    if foreign:
        raise DataError(f"{target} holds {name_some(foreign)}, which is no part of an export; name another --out")
