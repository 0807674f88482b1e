"""Fetching one large file over HTTP, over as many connections as it takes, none starting from nothing."""

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
"""Called with what is being done, the bytes done, and their number where it is known."""

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # in a row that bring no new byte
_LOCAL_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG)
_CHUNK = 1 << 18


class Transfer:
    """The transfer of one file, over as many connections as it takes.

    What has come lies in a partial file, with the server's mark of the version (its ETag, else its date) in
    a file beside it, so that two versions are never joined.
    """

    def __init__(
        self, url: str, partial: Path, size: int | None, progress: Progress | None, retry_delay: float
    ) -> None:
        self.url = url
        self.partial = partial
        self.size = size
        self._progress = progress
        self._retry_delay = retry_delay
        self._mark = partial.with_name(f"{partial.name}.version")

    def run(self) -> None:
        """Fetches the file; on return the partial file is whole.

        Raises:
            DownloadError: The server refuses, has another size than was published, or stops answering.
        """
        idle = 0
        while True:
            before, failure = self._length(), None
            try:
                if self._connect():
                    self._mark.unlink(missing_ok=True)
                    return
                reason = "the connection broke off"
            except urllib.error.HTTPError as error:
                error.close()
                failure = error
                if not is_temporary(error):
                    raise DownloadError(f"{self.url}: the server answers {error.code} {error.reason}") from error
                reason = f"the server answers {error.code} {error.reason}"
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, DownloadError):
                    raise
                if getattr(error, "errno", None) in _LOCAL_FAULTS:
                    raise DownloadError(f"{self.partial} cannot be written: {error}") from error
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            idle = 0 if self._length() > before else idle + 1
            if idle >= ATTEMPTS:
                raise DownloadError(
                    f"{self.url}: {reason}; {self._length():,} bytes are kept, run the command again to go on"
                )
            time.sleep(wait_seconds(idle, failure, self._retry_delay))

    def _length(self) -> int:
        try:
            return self.partial.stat().st_size
        except FileNotFoundError:
            return 0

    def _connect(self) -> bool:
        """Takes what one connection gives; returns whether the file is whole."""
        start = self._length()
        mark = self._mark.read_text(encoding="utf-8") if start and self._mark.exists() else ""
        request = urllib.request.Request(self.url, headers={"User-Agent": "seesay", "Accept-Encoding": "identity"})
        if start:
            request.add_header("Range", f"bytes={start}-")
            if mark:
                request.add_header("If-Range", mark)
        try:
            reply = urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            # Nothing lies beyond what we have: it is whole, or belongs to another version.
            error.close()
            total = _number(error.headers.get("Content-Range", "").rpartition("/")[2])
            if total == start and self.size in (None, start):
                return True
            self.partial.unlink()
            return False
        with reply:
            return self._receive(reply, start)

    def _receive(self, reply: Any, start: int) -> bool:
        """Appends the reply to the partial file, or begins it anew where the server sends all of it."""
        sent = _number(reply.headers.get("Content-Length", ""))
        goes_on = reply.status == 206 and reply.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if reply.status == 206 and not goes_on:
            self.partial.unlink(missing_ok=True)
            return False
        start = start if goes_on else 0
        total = None if sent is None else start + sent
        if self.size is not None and total not in (None, self.size):
            self.partial.unlink(missing_ok=True)
            raise DownloadError(f"{self.url} has {total:,} bytes where {self.size:,} were published; nothing is kept")
        self._keep_mark(reply.headers.get("ETag", ""), reply.headers.get("Last-Modified", ""))
        with self.partial.open("ab" if goes_on else "wb") as file:
            done = start
            while chunk := reply.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if self._progress is not None:
                    self._progress(self.partial.stem, done, total or self.size)
        # Without a length only the size published can tell; the archive's checksums come later.
        whole = total if total is not None else self.size if self.size is not None else done
        if done > whole:
            self.partial.unlink()
            raise DownloadError(f"{self.url} has more than the {whole:,} bytes published; nothing is kept")
        return done == whole

    def _keep_mark(self, etag: str, modified: str) -> None:
        # A weak mark (W/) does not promise equal bytes and must not be used in If-Range (RFC 9110, 13.1.5).
        mark = modified if not etag or etag.startswith("W/") else etag
        if mark:
            self._mark.write_text(mark, encoding="utf-8")
        else:
            self._mark.unlink(missing_ok=True)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
