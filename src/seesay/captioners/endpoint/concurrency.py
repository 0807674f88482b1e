"""The number of concurrent requests, adjusted to the throughput of a server."""

import math
from collections import deque
from dataclasses import dataclass

MAX_IN_FLIGHT = 64
"""Maximum number of concurrent requests, unless a number is set."""

_MIN_WINDOW = 4  # completed requests per measurement; at a higher concurrency as many, or twice at a steady one
_GAIN = 1.05  # doubling goes on while the throughput grows by this factor
_UNCLEAR = (0.8, 1.4)  # after a doubling, factors between these are measured for up to three times as long
_DROP = (
    0.7  # a lower concurrency is tried if the throughput falls by this factor, or further if it was measured briefly
)
_NOISE = 1.6  # standard deviations of such a measurement, if the times of requests vary as much as their mean
_KEEP = 0.95  # it is kept if the throughput is at least this fraction of the previous one
_FIRST_HOLD = 4  # measurements after a failed attempt to grow, before the next one; doubled per attempt
_LONGEST_HOLD = 64
_ISOLATED = (2, 0.1)  # failures, and their share of the latest attempts, that do not reduce the limit
_LATEST = 30  # attempts that the share is taken of; at a higher limit as many as that
_SMOOTHING = 0.25  # weight of the latest measurement at a steady concurrency


@dataclass(frozen=True)
class _Measurement:
    """Throughput, in requests per second, at a concurrency."""

    size: int
    rate: float


class ConcurrencyLimit:
    """Limit that starts at 1 and doubles as long as the throughput grows.

    A server on a CPU may be slower with two requests than with one, and a server with many GPUs needs dozens: only the
    throughput shows which it is. One doubling that is not slower is kept as a reserve: with exactly as many requests as
    the server processes at once, a place is empty between a response and the next request. Any other doubling that does
    not help is undone. Doubling is tried again later. If the throughput falls, half the limit is tried.

    Busy responses halve the limit once they are more than isolated: more than two, and more than a tenth of the latest
    attempts. Doubling is tried again after one measurement; if it fails again, after two, four, and so on.

    The times of requests vary, mostly with the length of the captions. Therefore a doubling that neither clearly helped
    nor clearly failed is measured longer, and a short measurement must be far lower to count as a fall.

    The object does no input or output and reads no clock, so that it can be tested with simulated times.

    Args:
        fixed: limit that is never changed; 0: adjust it.

    Attributes:
        bound: largest limit.
        size: current limit.
    """

    def __init__(self, fixed: int = 0) -> None:
        self.bound = fixed or MAX_IN_FLIGHT
        self.size = fixed or 1
        self._fixed = bool(fixed)
        self._failures: deque[bool] = deque(maxlen=max(_LATEST, self.bound))  # whether the latest attempts failed
        self._before: _Measurement | None = None  # the measurement before a change that is being tried
        self._rate = 0.0  # throughput at a steady limit; 0: unknown
        self._reserve = False  # whether the last doubling did not raise the throughput
        self._hold, self._next_hold = 0, _FIRST_HOLD
        self._reduced_at = float("-inf")
        self._skip = 1  # the first request may load the model
        self._count, self._begin = 0, 0.0

    def finish(self, now: float, in_flight: int, waiting: bool) -> None:
        """Count a completed request.

        Args:
            now: time in seconds.
            in_flight: number of other requests that are being processed.
            waiting: whether requests wait for the limit; otherwise the throughput is limited by the client.
        """
        self._failures.append(False)
        if self._fixed:
            return
        if not waiting:
            self._restart(now, skip=0)
        elif self._skip:
            self._skip -= 1
            self._begin = now
        else:
            self._count += 1
            rate = self._count / max(now - self._begin, 1e-9)
            if self._count >= self._window(rate):
                self._adjust(rate, now, in_flight)

    def fail(self, now: float, started: float) -> None:
        """Count a busy response or a broken connection, and halve the limit if it is not isolated.

        Args:
            now: time in seconds.
            started: when the request was sent; requests sent before the last reduction do not reduce it again.
        """
        if started < self._reduced_at:
            return
        self._failures.append(True)
        latest = list(self._failures)[-max(_LATEST, self.size) :]
        count, share = _ISOLATED
        if self._fixed or sum(latest) <= max(count, share * len(latest)):
            return
        self._failures.clear()
        self._reduced_at = now
        self.size = max(1, self.size // 2)
        self._before, self._rate, self._reserve = None, 0.0, False
        self._hold, self._next_hold = self._next_hold // _FIRST_HOLD, min(2 * self._next_hold, _LONGEST_HOLD)
        self._restart(now, skip=0)

    def _window(self, rate: float) -> int:
        """Return the number of requests of a measurement, for the throughput that it has found so far."""
        if self._before is None:
            return max(_MIN_WINDOW, 2 * self.size)
        least, most = _UNCLEAR
        unclear = self.size > self._before.size and least < rate / self._before.rate < most
        return max(_MIN_WINDOW, self.size) * (3 if unclear else 1)

    def _adjust(self, rate: float, now: float, in_flight: int) -> None:
        before, self._before = self._before, None
        size = self.size
        if before is None:
            size = self._steady(rate)
        elif size > before.size and rate >= _GAIN * before.rate:
            self._next_hold, self._reserve = _FIRST_HOLD, False
            size *= 2
        elif size < before.size and rate >= _KEEP * before.rate:
            self._reserve = False
            size //= 2
        else:  # the change did not help
            self._hold, self._next_hold = self._next_hold, min(2 * self._next_hold, _LONGEST_HOLD)
            if size > before.size and rate >= before.rate and not self._reserve:
                self._reserve = True
            else:
                size, rate = before.size, before.rate
            self._rate = rate
            self._resize(size, now, in_flight)
            return
        self._rate = rate if self._rate == 0 else (1 - _SMOOTHING) * self._rate + _SMOOTHING * rate
        size = min(max(size, 1), self.bound)
        if size != self.size:
            self._before, self._rate = _Measurement(self.size, rate), rate
        self._resize(size, now, in_flight)

    def _steady(self, rate: float) -> int:
        """Return the limit to try after a measurement at a steady limit."""
        if rate < min(_DROP, 1 - _NOISE / math.sqrt(self._count)) * self._rate:
            return self.size // 2
        if self._hold:
            self._hold -= 1
            return self.size
        return 2 * self.size

    def _resize(self, size: int, now: float, in_flight: int) -> None:
        # Requests in flight were started at the old limit and are not measured at the new one.
        self._restart(now, skip=in_flight if size != self.size else 0)
        self.size = size

    def _restart(self, now: float, skip: int) -> None:
        self._count, self._begin, self._skip = 0, now, skip
