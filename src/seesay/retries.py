"""HTTP requests that are repeated: which failures are temporary, and how long to wait before the next attempt."""

import email.utils
import http.client
import time
import urllib.error

TEMPORARY_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))
MAX_WAIT = 60.0
"""Longest wait before an attempt in seconds, whatever the server asks for."""


def is_temporary(error: BaseException) -> bool:
    """Returns whether the same request may succeed later: the server is busy, or the connection was cut."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in TEMPORARY_STATUS
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return is_temporary(error.reason)
    cut = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, http.client.IncompleteRead)
    return isinstance(error, cut)


def wait_seconds(attempt: int, error: BaseException | None, delay: float) -> float:
    """Returns the wait before the next attempt: `delay`, doubled per attempt, or the server's Retry-After if longer.

    Args:
        attempt: failed attempts so far, from 1.
        error: of the last attempt.
        delay: seconds after the first failure.
    """
    backoff: float = delay * 2 ** max(0, attempt - 1)
    return min(MAX_WAIT, max(backoff, _retry_after(error)))


def _retry_after(error: BaseException | None) -> float:
    """Returns the seconds that the server asks to wait, 0 where it does not; the header holds seconds or a date."""
    value = error.headers.get("Retry-After", "") if isinstance(error, urllib.error.HTTPError) else ""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0
