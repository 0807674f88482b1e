"""The queue by itself, with work that waits until the test lets it go on."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

import pytest

from seesay.serving.batching import Batcher
from tests.serving.servers import PATIENCE, wait_until

Deliver = Callable[[int, int | Exception], None]


class Worker:
    """Doubles numbers; each batch waits for a permit where there are any."""

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


def held(worker: Worker, batcher: Batcher[int, int]) -> "Future[int]":
    """A job that is being worked on until a permit comes."""
    worker.permits = threading.Semaphore(0)
    future = batcher.submit(100)
    wait_until(lambda: worker.batches == [[100]])
    return future


def test_what_waits_is_worked_on_together_in_order(worker: Worker, batcher: Batcher[int, int]) -> None:
    held(worker, batcher)
    futures = [batcher.submit(number) for number in range(1, 11)]
    assert batcher.waiting == 10
    assert worker.permits is not None
    worker.permits.release(100)
    assert [future.result(PATIENCE) for future in futures] == [2 * number for number in range(1, 11)]
    assert worker.batches[1:] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


def test_a_cancelled_job_leaves_the_queue_and_one_at_work_does_not(worker: Worker, batcher: Batcher[int, int]) -> None:
    running = held(worker, batcher)
    first, second, third = (batcher.submit(number) for number in (1, 2, 3))
    assert second.cancel()
    assert batcher.waiting == 2
    assert not running.cancel()
    assert worker.permits is not None
    worker.permits.release(100)
    assert (first.result(PATIENCE), third.result(PATIENCE), running.result(PATIENCE)) == (2, 6, 200)
    assert worker.batches == [[100], [1, 3]]


def test_a_queue_that_was_cancelled_whole_waits_for_the_next(worker: Worker, batcher: Batcher[int, int]) -> None:
    held(worker, batcher)
    assert batcher.submit(1).cancel()
    assert worker.permits is not None
    worker.permits.release(100)
    assert batcher.submit(2).result(PATIENCE) == 4


def test_an_error_of_one_is_no_error_of_another(worker: Worker, batcher: Batcher[int, int]) -> None:
    held(worker, batcher)
    futures = [batcher.submit(number) for number in (1, 0, -5, 3)]
    assert worker.permits is not None
    worker.permits.release(100)
    assert (futures[0].result(PATIENCE), futures[3].result(PATIENCE)) == (2, 6)
    with pytest.raises(ValueError, match="zero"):
        futures[1].result(PATIENCE)
    with pytest.raises(ValueError, match="-5 is bad"):
        futures[2].result(PATIENCE)
    assert batcher.submit(7).result(PATIENCE) == 14, "the thread did not survive"


def test_a_job_that_is_never_delivered_is_an_error() -> None:
    batcher: Batcher[int, int] = Batcher(lambda jobs, deliver: None, 4, 0.0)
    with pytest.raises(RuntimeError, match="no answer was delivered"):
        batcher.submit(1).result(PATIENCE)
    batcher.close(PATIENCE)


def test_closing_finishes_what_was_submitted(worker: Worker, batcher: Batcher[int, int]) -> None:
    held(worker, batcher)
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


def test_a_batch_waits_for_as_many_as_came_last_and_a_lone_job_for_none() -> None:
    """With a wait as long as this test's patience, only what is not waited for can be answered."""
    worker = Worker()
    batcher: Batcher[int, int] = Batcher(worker, max_batch=4, max_wait=10 * PATIENCE)
    assert batcher.submit(1).result(PATIENCE) == 2
    held_back = threading.Semaphore(0)
    worker.permits = held_back
    futures = [batcher.submit(2)]
    wait_until(lambda: worker.batches[-1] == [2])
    futures += [batcher.submit(number) for number in (3, 4, 5)]
    held_back.release(2)
    assert [future.result(PATIENCE) for future in futures] == [4, 6, 8, 10]
    assert worker.batches[-1] == [3, 4, 5]
    futures = [batcher.submit(number) for number in (6, 7)]  # the last batch had three
    assert not held_back.acquire(timeout=0.05)
    assert worker.batches[-1] == [3, 4, 5]
    held_back.release(2)
    futures.append(batcher.submit(8))
    assert [future.result(PATIENCE) for future in futures] == [12, 14, 16]
    assert worker.batches[-1] == [6, 7, 8]
    waiting = batcher.submit(9)
    batcher.close(PATIENCE)  # which does not wait for more either
    assert waiting.result(0) == 18
