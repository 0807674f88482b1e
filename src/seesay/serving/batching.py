"""What waits is worked on together: a thread takes jobs from a queue in batches."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Job = TypeVar("Job")
Answer = TypeVar("Answer")

Deliver = Callable[[int, Answer | Exception], None]
Work = Callable[[Sequence[Job], Deliver[Answer]], None]


class Batcher(Generic[Job, Answer]):
    """A thread that works on jobs in batches of what waits.

    While a batch is worked on, others gather. The first of a new batch waits for more only where more can be expected:
    until there are as many as in the batch before, but no longer than `max_wait`. A lone client thus never waits, and
    clients that have just been answered together find each other again.

    Args:
        work: given a batch, delivers an answer, or an error, by each job's number in it. If it fails as a whole, the
            jobs are worked on one by one, so that none suffers for another.
        max_batch: jobs in a batch.
        max_wait: seconds.
        observe: told the size of every batch before it is worked on.
    """

    def __init__(
        self,
        work: Work[Job, Answer],
        max_batch: int,
        max_wait: float,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._work, self._max_batch, self._max_wait, self._observe = work, max_batch, max_wait, observe
        self._waiting: deque[tuple[Job, Future[Answer]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._latest = 1
        self._thread = threading.Thread(target=self._run, name="seesay-batches", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> "Future[Answer]":
        """Returns the answer to come; cancelled while it waits, the job leaves the queue.

        Raises:
            RuntimeError: the batcher is closed.
        """
        future: Future[Answer] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._waiting.append((job, future))
            self._changed.notify()
        future.add_done_callback(self._forget)
        return future

    @property
    def waiting(self) -> int:
        """How many jobs wait for their batch."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether jobs are worked on."""
        return self._thread.is_alive()

    def close(self, timeout: float | None = None) -> None:
        """Works on all that was submitted, then ends; waits for that, at most `timeout` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)

    def _forget(self, future: "Future[Answer]") -> None:
        """Takes a cancelled job out of the queue."""
        if future.cancelled():
            with self._changed:
                self._waiting = deque(pair for pair in self._waiting if pair[1] is not future)

    def _run(self) -> None:
        while batch := self._next_batch():
            self._observe(len(batch))
            self._latest = len(batch)
            self._answer(batch)

    def _next_batch(self) -> list[tuple[Job, "Future[Answer]"]]:
        """Returns the next jobs, which can no longer be cancelled; none when closed and all is done."""
        batch: list[tuple[Job, Future[Answer]]] = []
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
        expected, deadline = min(self._max_batch, self._latest), time.monotonic() + self._max_wait
        while len(self._waiting) < expected and not self._closed:
            left = deadline - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                return

    def _answer(self, batch: list[tuple[Job, "Future[Answer]"]]) -> None:
        def deliver(number: int, answer: Answer | Exception) -> None:
            future = batch[number][1]
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

        failure: Exception = RuntimeError("no answer was delivered")
        try:
            self._work([job for job, _ in batch], deliver)
        except Exception as error:  # noqa: BLE001  whatever it is, those who wait are told
            failure = error
        open_jobs = [pair for pair in batch if not pair[1].done()]
        if len(batch) == 1:
            for _, future in open_jobs:
                future.set_exception(failure)
            return
        for pair in open_jobs:
            self._answer([pair])
