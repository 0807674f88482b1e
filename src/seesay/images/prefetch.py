"""Ordered prefetching with threads."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

_ABORT_SECONDS = 0.1

Job = TypeVar("Job")
Result = TypeVar("Result")


def prefetch(
    work: Callable[[Job], Result],
    jobs: Iterable[Job],
    workers: int,
    ahead: int,
    on_abort: Callable[[], None] = lambda: None,
    *,
    keep_finished: bool = False,
) -> Iterator[Result]:
    """Yield `work(job)` for each job in order, computed by threads at most `ahead` jobs in advance.

    Args:
        work: function of a job.
        jobs: the jobs.
        workers: number of threads.
        ahead: maximum number of jobs that are started before their result is requested.
        on_abort: called if the iteration ends early, by an error or by its consumer, until no job is running.
        keep_finished: if a job fails, yield the results of later jobs that are finished before raising its error.
    """
    remaining = iter(jobs)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            waiting.extend(pool.submit(work, job) for job in islice(remaining, max(1, ahead)))
            while waiting:
                result = waiting[0].result()
                waiting.popleft()
                waiting.extend(pool.submit(work, job) for job in islice(remaining, 1))
                yield result
        except BaseException as error:
            for future in waiting:
                future.cancel()
            on_abort()
            while wait(waiting, timeout=_ABORT_SECONDS).not_done:
                on_abort()  # a job may have started in the meantime
            if keep_finished and isinstance(error, Exception):
                yield from (future.result() for future in waiting if not (future.cancelled() or future.exception()))
            raise
        finally:
            for future in waiting:
                future.cancel()


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
