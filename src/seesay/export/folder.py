"""A folder that is there whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seesay.errors import DataError, SeesayError
from seesay.onnx_runtime.manifest import is_export


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target` that takes its place once the block is through, and else is removed.

    An earlier export at `target` is replaced, and kept until then.

    Raises:
        DataError: something else is there.
        SeesayError: the folder cannot be written.
    """
    check_free(target)
    part, old = (target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        part.mkdir(parents=True)
        yield part
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


def check_free(target: Path) -> None:
    """Refuses a place where something else than an export is, before anything is computed.

    Raises:
        DataError: it is.
    """
    if target.is_dir() and (is_export(target) or not any(target.iterdir())):
        return
    if target.exists():
        raise DataError(f"{target} is there already and is no earlier export; name another --out")
