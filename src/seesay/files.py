"""Files that are whole or absent at any moment."""

import os
from pathlib import Path

from seesay.errors import SeesayError


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file by way of another in the same folder, so that no reader ever meets half of it.

    Raises:
        SeesayError: if it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(data)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise SeesayError(f"cannot write {path} ({error.strerror}); free it or name another place") from error
