"""A file that this process alone writes, replaces atomically, and does not overwrite if another program changed it."""

import hashlib
import os
from contextlib import ExitStack
from pathlib import Path

from seesay.errors import DataError
from seesay.files import lock_file, replacing
from seesay.review.entries import ConflictError


def lock(stack: ExitStack, path: Path) -> None:
    """Lock an existing file or folder until the stack is closed.

    Raises:
        DataError: another process has the lock.
    """
    if not stack.enter_context(lock_file(path)):
        raise DataError(f"another process is writing to {path}; wait for it, or close the other review")


class LockedFile:
    """A file that is locked from `read` to `close`, also while it is replaced.

    Args:
        path: the file; a link is followed, so that saving keeps it.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))
        self._lock = ExitStack()
        self._digest = b""

    def read(self) -> bytes:
        """Lock the file and return its content.

        Raises:
            DataError: it cannot be read, or another process has the lock.
        """
        try:
            lock(self._lock, self.path)
            data = self.path.read_bytes()
        except OSError as error:
            raise DataError(f"{self.path} cannot be read ({error.strerror}); check the path") from error
        self._digest = _digest(data)
        return data

    def check(self) -> None:
        """Check that the file is as it was read; a file that was moved away may be written again.

        Raises:
            ConflictError: another program has changed it.
        """
        if self.path.exists() and _digest(self.path.read_bytes()) != self._digest:
            raise ConflictError(
                f"{self.path} was changed by another program after it was read; nothing was overwritten. "
                "Move that file away and save again, or restart the review"
            )

    def replace(self, data: bytes) -> None:
        """Replace the file atomically, after `check`; the new file is locked before it takes the old one's place.

        Raises:
            ConflictError: another program has changed it.
            SeesayError: it cannot be written.
        """
        self.check()
        with ExitStack() as stack:
            with replacing(self.path, durable=True) as part:
                part.write_bytes(data)
                lock(stack, part)
            self._lock.close()
            self._lock = stack.pop_all()
        self._digest = _digest(data)

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
