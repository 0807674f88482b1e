import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seesay.images.prefetch import prefetch


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers()), st.integers(0, 4), st.integers(0, 9))
def test_results_equal_those_of_map(jobs: list[int], workers: int, ahead: int) -> None:
    assert list(prefetch(lambda job: job * 2, jobs, workers, ahead)) == [job * 2 for job in jobs]


def test_jobs_are_taken_at_most_ahead_jobs_in_advance() -> None:
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for job in range(1000):
            taken.append(job)
            yield job

    results = prefetch(lambda job: job, jobs(), 3, 5)
    assert not taken
    for used in range(20):
        assert next(results) == used
        assert len(taken) == used + 6
    results.close()  # type: ignore[attr-defined]
    assert len(taken) == 25


def test_jobs_run_concurrently() -> None:
    barrier = threading.Barrier(3, timeout=30)
    assert list(prefetch(lambda job: barrier.wait() >= 0, range(6), 3, 6)) == [True] * 6


def test_an_error_is_raised_at_the_position_of_its_job() -> None:
    def work(job: int) -> int:
        if job == 3:
            raise ValueError("job 3")
        return job

    results = prefetch(work, range(9), 2, 4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="job 3"):
        next(results)


def test_closing_cancels_waiting_jobs() -> None:
    go, done = threading.Event(), []

    def work(job: int) -> None:
        if job:
            go.wait(30)
        done.append(job)

    results = prefetch(work, range(100), 1, 50)
    next(results)
    go.set()
    results.close()  # type: ignore[attr-defined]
    assert len(done) < 100
