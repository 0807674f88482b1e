"""The batcher alone, with work that waits for the test."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

import pytest

from seesay.serving.batching import Batcher
from tests.serving.servers import PATIENCE, wait_until

Deliver = Callable[[int, int | Exception], None]


class Worker:
    """Doubles numbers; each batch waits for a permit if `permits` is set."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.permits: threading.Semaphore | None = None

    def __call__(self, jobs: Sequence[int], deliver: Deliver) -> None:
        self.batches.append(list(jobs))
        if self.permits:
            assert self.permits.acquire(timeout=PATIENCE)
        for number, job in enumerate(jobs):
            if job < 0:
                raise ValueError(f"{job} is bad")
            deliver(number, ValueError("zero") if job == 0 else 2 * job)


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def batcher(worker: Worker) -> Iterator[Batcher[int, int]]:
    made = Batcher(worker, max_batch=4, max_wait=0.0)
    yield made
    if worker.permits:
        worker.permits.release(100)
    made.close(PATIENCE)
    assert not made.alive


def blocked_job(worker: Worker, batcher: Batcher[int, int]) -> "Future[int]":
    """A job that is processed until a permit is released."""
    worker.permits = threading.Semaphore(0)
    future = batcher.submit(100)
    wait_until(lambda: worker.batches == [[100]])
    return future


def test_queued_jobs_are_processed_in_batches_in_order(worker: Worker, batcher: Batcher[int, int]) -> None:
    blocked_job(worker, batcher)
    futures = [batcher.submit(number) for number in range(1, 11)]
    assert batcher.waiting == 10
    assert worker.permits is not None
    worker.permits.release(100)
    assert [future.result(PATIENCE) for future in futures] == [2 * number for number in range(1, 11)]
    assert worker.batches[1:] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


def test_queued_jobs_can_be_cancelled_and_running_ones_cannot(worker: Worker, batcher: Batcher[int, int]) -> None:
    running = blocked_job(worker, batcher)
    first, second, third = (batcher.submit(number) for number in (1, 2, 3))
    assert second.cancel()
    assert batcher.waiting == 2
    assert not running.cancel()
    assert worker.permits is not None
    worker.permits.release(100)
    assert (first.result(PATIENCE), third.result(PATIENCE), running.result(PATIENCE)) == (2, 6, 200)
    assert worker.batches == [[100], [1, 3]]


def test_the_batcher_continues_after_all_jobs_were_cancelled(worker: Worker, batcher: Batcher[int, int]) -> None:
    blocked_job(worker, batcher)
    assert batcher.submit(1).cancel()
    assert worker.permits is not None
    worker.permits.release(100)
    assert batcher.submit(2).result(PATIENCE) == 4


def test_an_error_of_one_job_does_not_affect_others(worker: Worker, batcher: Batcher[int, int]) -> None:
    blocked_job(worker, batcher)
    futures = [batcher.submit(number) for number in (1, 0, -5, 3)]
    assert worker.permits is not None
    worker.permits.release(100)
    assert (futures[0].result(PATIENCE), futures[3].result(PATIENCE)) == (2, 6)
    with pytest.raises(ValueError, match="zero"):
        futures[1].result(PATIENCE)
    with pytest.raises(ValueError, match="-5 is bad"):
        futures[2].result(PATIENCE)
    assert batcher.submit(7).result(PATIENCE) == 14, "the thread has stopped"


def test_a_job_that_is_never_delivered_is_an_error() -> None:
    batcher: Batcher[int, int] = Batcher(lambda jobs, deliver: None, 4, 0.0)
    with pytest.raises(RuntimeError, match="no result was delivered"):
        batcher.submit(1).result(PATIENCE)
    batcher.close(PATIENCE)


def test_closing_finishes_submitted_jobs(worker: Worker, batcher: Batcher[int, int]) -> None:
    blocked_job(worker, batcher)
    futures = [batcher.submit(number) for number in range(1, 8)]
    closer = threading.Thread(target=batcher.close)
    closer.start()
    wait_until(lambda: batcher._closed)
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(9)
    assert worker.permits is not None
    worker.permits.release(100)
    closer.join(PATIENCE)
    assert [future.result(0) for future in futures] == [2 * number for number in range(1, 8)]
    assert not batcher.alive


def test_a_batch_waits_until_it_is_as_large_as_the_last_one() -> None:
    """`max_wait` exceeds the test's timeout, so that only batches that do not wait can finish."""
    worker = Worker()
    batcher: Batcher[int, int] = Batcher(worker, max_batch=4, max_wait=10 * PATIENCE)
    assert batcher.submit(1).result(PATIENCE) == 2
    permits = threading.Semaphore(0)
    worker.permits = permits
    futures = [batcher.submit(2)]
    wait_until(lambda: worker.batches[-1] == [2])
    futures += [batcher.submit(number) for number in (3, 4, 5)]
    permits.release(2)
    assert [future.result(PATIENCE) for future in futures] == [4, 6, 8, 10]
    assert worker.batches[-1] == [3, 4, 5]
    futures = [batcher.submit(number) for number in (6, 7)]  # the last batch had three
    assert not permits.acquire(timeout=0.05)
    assert worker.batches[-1] == [3, 4, 5]
    permits.release(2)
    futures.append(batcher.submit(8))
    assert [future.result(PATIENCE) for future in futures] == [12, 14, 16]
    assert worker.batches[-1] == [6, 7, 8]
    waiting = batcher.submit(9)
    batcher.close(PATIENCE)  # does not wait for more jobs either
    assert waiting.result(0) == 18
