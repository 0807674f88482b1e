"""Atomic creation of a folder."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from seesay.captioners.onnx.manifest import EXPORT
from seesay.data.records import name_some
from seesay.errors import DataError, SeesayError
from seesay.outputs import check_folder


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that is moved to `target` when the block ends, and removed if it raises.

    An earlier export at `target` is replaced when the block ends.

    Raises:
        DataError: `target` is something else.
        SeesayError: the folder cannot be written.
    """
    check_target(target)
    part, old = (target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        part.mkdir(parents=True)
        yield part
        check_target(target)  # again: an export takes minutes
        if target.exists():
            target.replace(old)
        part.replace(target)
    except OSError as error:
        if old.exists() and not target.exists():
            old.replace(target)
        raise SeesayError(f"cannot write {target} ({error.strerror}); make room or choose another --out") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_target(target: Path, inputs: Iterable[str | Path] = ()) -> None:
    """Check that `target` does not exist or is an earlier export.

    Args:
        target: folder of the export.
        inputs: files and folders that the export reads.

    Raises:
        DataError: `target` is or contains something else.
    """
    check_folder(target, EXPORT, inputs=inputs)
    names = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    foreign = [name for name in names if name not in EXPORT.files]
    if foreign:
        raise DataError(f"{target} contains {name_some(foreign)}, which is not part of an export; choose another --out")
