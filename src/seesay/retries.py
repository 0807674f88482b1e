"""Retries of HTTP requests: temporary failures and the delay before the next attempt."""

import email.utils
import http.client
import time
import urllib.error

TEMPORARY_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))
MAX_WAIT = 60.0
"""Maximum delay in seconds, regardless of Retry-After."""


def is_temporary_status(status: int) -> bool:
    """Returns whether a request that got this HTTP status may succeed later."""
    return status in TEMPORARY_STATUS


def is_temporary(error: BaseException) -> bool:
    """Returns whether a retry may succeed: the server is busy, or the connection broke."""
    if isinstance(error, urllib.error.HTTPError):
        return is_temporary_status(error.code)
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return is_temporary(error.reason)
    broken = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, http.client.IncompleteRead)
    return isinstance(error, broken)


def wait_seconds(attempt: int, error: BaseException | None, delay: float) -> float:
    """Returns the delay before the next attempt: `delay`, doubled per attempt, or the server's Retry-After if longer.

    Args:
        attempt: number of failed attempts.
        error: error of the last attempt.
        delay: seconds after the first failure.
    """
    header = error.headers.get("Retry-After", "") if isinstance(error, urllib.error.HTTPError) else ""
    return backoff_seconds(attempt, delay, header)


def backoff_seconds(attempt: int, delay: float, retry_after: str = "") -> float:
    """Returns the delay before the next attempt; see `wait_seconds`.

    Args:
        attempt: number of failed attempts.
        delay: seconds after the first failure.
        retry_after: the Retry-After header of the last response; empty if there is none.
    """
    backoff: float = delay * 2 ** max(0, attempt - 1)
    return min(MAX_WAIT, max(backoff, _retry_after(retry_after)))


def _retry_after(value: str) -> float:
    """Returns the seconds of a Retry-After header (seconds or a date), 0 if it is empty or invalid."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0
