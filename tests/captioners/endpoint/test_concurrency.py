"""The limit of concurrency against simulated servers; no test waits for real time."""

import heapq
from collections.abc import Callable
from random import Random

import pytest

from seesay.captioners.endpoint.concurrency import MAX_IN_FLIGHT, ConcurrencyLimit

Service = Callable[[int, int], float]
"""Seconds of a request, from its number and the number of requests in flight."""


def simulate(
    limit: ConcurrencyLimit, capacity: int, service: Service, requests: int, start: float = 0.0
) -> list[tuple[float, int]]:
    """Send requests to a server that processes `capacity` of them at once, the others after that.

    Returns:
        Time of each completed request, and the limit after it.
    """
    now, sent = start, 0
    running: list[float] = []
    places = [0.0] * capacity  # when each place of the server is free
    history: list[tuple[float, int]] = []
    while len(history) < requests:
        while len(running) < limit.size and sent < requests:
            end = max(now, heapq.heappop(places)) + service(sent, len(running) + 1)
            heapq.heappush(places, end)
            heapq.heappush(running, end)
            sent += 1
        now = heapq.heappop(running)
        limit.finish(now, len(running), sent < requests)
        history.append((now, limit.size))
    return history


def jitter(number: int, in_flight: int) -> float:
    return 0.5 + (number * 7919 % 101) / 100  # 0.5 to 1.5 seconds, 1 on average


def varied(seed: int) -> Service:
    """Times of 0.3 seconds and more, 1 on average, with an exponential distribution."""
    random = Random(seed)
    return lambda *_: 0.3 + random.expovariate(1 / 0.7)


@pytest.mark.parametrize("capacity", [1, 2, 6, 8, 32, 64, 100])
@pytest.mark.parametrize("service", [lambda *_: 1.0, jitter], ids=["fixed", "jitter"])
def test_the_server_is_saturated_after_the_start(capacity: int, service: Service) -> None:
    history = simulate(ConcurrencyLimit(), capacity, service, 4000)
    (begin, _), (end, _) = history[2000], history[-100]
    possible = min(capacity, MAX_IN_FLIGHT)
    assert 1900 / (end - begin) >= 0.95 * possible
    assert max(size for _, size in history) <= MAX_IN_FLIGHT


def test_it_starts_at_one_and_soon_reaches_the_bound_if_the_server_can_do_more() -> None:
    history = simulate(ConcurrencyLimit(), 100, lambda *_: 1.0, 800)
    assert [size for _, size in history[:4]] == [1] * 4
    reached = next(time for time, size in history if size == MAX_IN_FLIGHT)
    assert reached <= 20


def test_it_stays_at_one_if_parallel_requests_are_slower() -> None:
    history = simulate(ConcurrencyLimit(), 1, lambda _, in_flight: 1 + 0.5 * (in_flight - 1), 1000)
    sizes = [size for _, size in history]
    assert max(sizes) == 2  # it was tried
    assert sizes.count(1) > 0.9 * len(sizes)


@pytest.mark.parametrize("seed", range(20))
def test_a_server_that_is_slower_with_parallel_requests_mostly_gets_one(seed: int) -> None:
    """Times vary by 30 %, which is more than many differences that the measurements have to find."""
    random = Random(seed)

    def service(_: int, in_flight: int) -> float:
        return random.uniform(0.7, 1.3) * (1 + 1.5 * (in_flight - 1))

    sizes = [size for _, size in simulate(ConcurrencyLimit(), 64, service, 1000)]
    assert max(sizes) == 2  # it was tried
    assert sizes.count(1) > 0.9 * len(sizes)


@pytest.mark.parametrize("capacity", [8, 32])
def test_a_server_is_saturated_although_the_times_of_requests_vary_widely(capacity: int) -> None:
    """Bug: four of twenty jobs used less than three quarters of a server of eight places."""
    rates = []
    for seed in range(20):
        history = simulate(ConcurrencyLimit(), capacity, varied(seed), 200 * capacity)
        rates.append(len(history) / history[-1][0] / capacity)
    assert sum(rates) / len(rates) > 0.9
    assert min(rates) > 0.6


@pytest.mark.parametrize(
    ("capacity", "service", "largest"),
    [(4, lambda *_: 1.0, 8), (32, lambda _, in_flight: 1 + in_flight**1.5, 2)],
    ids=["fewer places", "congested"],
)
def test_it_shrinks_if_the_throughput_falls(capacity: int, service: Service, largest: int) -> None:
    limit = ConcurrencyLimit()
    before = simulate(limit, 64, lambda *_: 1.0, 1500)
    assert limit.size == MAX_IN_FLIGHT
    sizes = [size for _, size in simulate(limit, capacity, service, 2000, start=before[-1][0])]
    assert sorted(sizes[1000:])[500] <= largest


def test_it_grows_again_if_the_server_becomes_faster() -> None:
    limit = ConcurrencyLimit()
    before = simulate(limit, 1, lambda *_: 1.0, 100)
    assert limit.size <= 4  # one more doubling is kept as a reserve, and another one may be under test
    simulate(limit, 16, lambda *_: 1.0, 1500, start=before[-1][0])
    assert limit.size >= 16


def test_it_does_not_grow_without_waiting_requests() -> None:
    limit = ConcurrencyLimit()
    for second in range(100):
        limit.finish(float(second), 0, False)
    assert limit.size == 1


def test_busy_responses_to_requests_sent_together_halve_it_once() -> None:
    limit = ConcurrencyLimit()
    simulate(limit, 100, lambda *_: 1.0, 800)
    assert limit.size == MAX_IN_FLIGHT
    for moment in range(20):
        limit.fail(1000.0 + moment, started=999.0)
    assert limit.size == MAX_IN_FLIGHT // 2
    for moment in range(3):
        limit.fail(1020.0 + moment, started=1011.0)
    assert limit.size == MAX_IN_FLIGHT // 4
    for moment in range(15):
        limit.fail(2000.0 + 10 * moment, started=2000.0 + 10 * moment)
    assert limit.size == 1


def test_isolated_failures_do_not_reduce_it() -> None:
    # Bug: each of 3 % busy responses halved the limit, so that it stayed at one or two.
    limit = ConcurrencyLimit()
    now = simulate(limit, 100, lambda *_: 1.0, 800)[-1][0]
    sizes = []
    for number in range(3000):
        now += 1 / limit.size
        if number % 33 == 0:
            limit.fail(now, started=now)
        limit.finish(now, limit.size - 1, True)
        sizes.append(limit.size)
    assert min(sizes) == MAX_IN_FLIGHT


def test_it_grows_again_soon_after_busy_responses() -> None:
    limit = ConcurrencyLimit()
    now = simulate(limit, 100, lambda *_: 1.0, 800)[-1][0]
    for _ in range(8):
        limit.fail(now, started=now)
    assert limit.size < MAX_IN_FLIGHT
    history = simulate(limit, 100, lambda *_: 1.0, 400, start=now)
    assert next(time for time, size in history if size == MAX_IN_FLIGHT) - now <= 12


def test_a_fixed_limit_does_not_change() -> None:
    limit = ConcurrencyLimit(fixed=5)
    simulate(limit, 100, lambda *_: 1.0, 200)
    for _ in range(50):
        limit.fail(1000.0, started=1000.0)
    assert (limit.size, limit.bound) == (5, 5)
