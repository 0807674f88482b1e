"""Resumable HTTP download of one large file."""

import errno
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seesay.errors import DownloadError
from seesay.retries import is_temporary, wait_seconds

Progress = Callable[[str, int, int | None], None]
"""Called with the name of the step, the bytes done, and the total if known."""

TIMEOUT = 30.0  # seconds without data
ATTEMPTS = 5  # consecutive attempts without new data
_LOCAL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG)
_CHUNK = 1 << 18


class Transfer:
    """Download of one file, over several connections if interrupted.

    Received data is in a partial file. The server's validator (ETag, else Last-Modified) is in a file beside
    it, so that two versions are never joined.
    """

    def __init__(
        self, url: str, partial: Path, size: int | None, progress: Progress | None, retry_delay: float
    ) -> None:
        self.url = url
        self.partial = partial
        self.size = size
        self._progress = progress
        self._retry_delay = retry_delay
        self._validator_file = partial.with_name(f"{partial.name}.version")

    def run(self) -> None:
        """Download the file; on return the partial file is complete.

        Raises:
            DownloadError: The server returns an error, the size differs from the published one, or the server stops
                responding.
        """
        idle = 0
        while True:
            before, failure = self._length(), None
            try:
                if self._connect():
                    self._validator_file.unlink(missing_ok=True)
                    return
                reason = "the connection was closed"
            except urllib.error.HTTPError as error:
                error.close()
                failure = error
                if not is_temporary(error):
                    raise DownloadError(f"{self.url}: the server returned {error.code} {error.reason}") from error
                reason = f"the server returned {error.code} {error.reason}"
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, DownloadError):
                    raise
                if getattr(error, "errno", None) in _LOCAL_ERRORS:
                    raise DownloadError(f"{self.partial} cannot be written: {error}") from error
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            idle = 0 if self._length() > before else idle + 1
            if idle >= ATTEMPTS:
                raise DownloadError(
                    f"{self.url}: {reason}; {self._length():,} bytes are kept, run the command again to resume"
                )
            time.sleep(wait_seconds(idle, failure, self._retry_delay))

    def _length(self) -> int:
        try:
            return self.partial.stat().st_size
        except FileNotFoundError:
            return 0

    def _connect(self) -> bool:
        """Receive data over one connection; return whether the file is complete."""
        start = self._length()
        validator = self._validator_file.read_text(encoding="utf-8") if start and self._validator_file.exists() else ""
        request = urllib.request.Request(self.url, headers={"User-Agent": "seesay", "Accept-Encoding": "identity"})
        if start:
            request.add_header("Range", f"bytes={start}-")
            if validator:
                request.add_header("If-Range", validator)
        try:
            response = urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            # The range is past the end: the file is complete, or the partial file belongs to another version.
            error.close()
            total = _number(error.headers.get("Content-Range", "").rpartition("/")[2])
            if total == start and self.size in (None, start):
                return True
            self.partial.unlink()
            return False
        with response:
            return self._receive(response, start)

    def _receive(self, response: Any, start: int) -> bool:
        """Append the response to the partial file, or restart the file if the server sends all of it."""
        sent = _number(response.headers.get("Content-Length", ""))
        resumes = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if response.status == 206 and not resumes:
            self.partial.unlink(missing_ok=True)
            return False
        start = start if resumes else 0
        total = None if sent is None else start + sent
        if self.size is not None and total not in (None, self.size):
            self.partial.unlink(missing_ok=True)
            raise DownloadError(f"{self.url} has {total:,} bytes, not {self.size:,}; the partial file was removed")
        self._save_validator(response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))
        with self.partial.open("ab" if resumes else "wb") as file:
            done = start
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if self._progress is not None:
                    self._progress(self.partial.stem, done, total or self.size)
        # Without a Content-Length only the published size is known; the archive's checksums are verified later.
        expected = total if total is not None else self.size if self.size is not None else done
        if done > expected:
            self.partial.unlink()
            raise DownloadError(f"{self.url} has more than {expected:,} bytes; the partial file was removed")
        return done == expected

    def _save_validator(self, etag: str, modified: str) -> None:
        # A weak validator (W/) does not guarantee equal bytes and must not be used in If-Range (RFC 9110, 13.1.5).
        validator = modified if not etag or etag.startswith("W/") else etag
        if validator:
            self._validator_file.write_text(validator, encoding="utf-8")
        else:
            self._validator_file.unlink(missing_ok=True)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
