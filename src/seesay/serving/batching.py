"""Dynamic batching: a thread takes jobs from a queue in batches."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

Deliver = Callable[[int, Result | Exception], None]
Work = Callable[[Sequence[Job], Deliver[Result]], None]


class Batcher(Generic[Job, Result]):
    """A thread that processes queued jobs in batches.

    A new batch waits for more jobs only while more can be expected: until it is as large as the previous batch, and at
    most `max_wait`. A single client thus never waits, and clients answered together are batched together again.

    Args:
        work: processes a batch and delivers a result or an error under each job's index. If it raises, the jobs are
            retried one by one, so that one job's error does not affect the others.
        max_batch: maximum number of jobs per batch.
        max_wait: seconds.
        observe: called with the size of every batch before it is processed.
    """

    def __init__(
        self,
        work: Work[Job, Result],
        max_batch: int,
        max_wait: float,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._work, self._max_batch, self._max_wait, self._observe = work, max_batch, max_wait, observe
        self._waiting: deque[tuple[Job, Future[Result]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._last_size = 1
        self._thread = threading.Thread(target=self._run, name="seesay-batches", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> "Future[Result]":
        """Queue a job; cancelling the future of a queued job removes it from the queue.

        Raises:
            RuntimeError: the batcher is closed.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._waiting.append((job, future))
            self._changed.notify()
        future.add_done_callback(self._remove)
        return future

    @property
    def waiting(self) -> int:
        """Number of queued jobs."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def close(self, timeout: float | None = None) -> None:
        """Process all queued jobs, then stop; wait for that at most `timeout` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)

    def _remove(self, future: "Future[Result]") -> None:
        """Remove a cancelled job from the queue."""
        if future.cancelled():
            with self._changed:
                self._waiting = deque(pair for pair in self._waiting if pair[1] is not future)

    def _run(self) -> None:
        while batch := self._next_batch():
            self._observe(len(batch))
            self._last_size = len(batch)
            self._process(batch)

    def _next_batch(self) -> list[tuple[Job, "Future[Result]"]]:
        """Return the next jobs, which can no longer be cancelled; an empty list when closed and done."""
        batch: list[tuple[Job, Future[Result]]] = []
        with self._changed:
            while not batch:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return []
                self._wait_for_more()
                while self._waiting and len(batch) < self._max_batch:
                    job, future = self._waiting.popleft()
                    if future.set_running_or_notify_cancel():
                        batch.append((job, future))
        return batch

    def _wait_for_more(self) -> None:
        expected, deadline = min(self._max_batch, self._last_size), time.monotonic() + self._max_wait
        while len(self._waiting) < expected and not self._closed:
            left = deadline - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                return

    def _process(self, batch: list[tuple[Job, "Future[Result]"]]) -> None:
        def deliver(index: int, result: Result | Exception) -> None:
            future = batch[index][1]
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

        failure: Exception = RuntimeError("no result was delivered")
        try:
            self._work([job for job, _ in batch], deliver)
        except Exception as error:  # noqa: BLE001  any error is passed on to the futures
            failure = error
        open_jobs = [pair for pair in batch if not pair[1].done()]
        if len(batch) == 1:
            for _, future in open_jobs:
                future.set_exception(failure)
            return
        for pair in open_jobs:
            self._process([pair])
