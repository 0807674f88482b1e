"""Ordered prefetching with threads."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def prefetch(
    work: Callable[[Job], Result],
    jobs: Iterable[Job],
    workers: int,
    ahead: int,
    on_abort: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """Yield `work(job)` for each job in order, computed by threads at most `ahead` jobs in advance.

    Args:
        work: function of a job.
        jobs: the jobs.
        workers: number of threads.
        ahead: maximum number of jobs that are started before their result is requested.
        on_abort: called if the iteration ends early, by an error or by its consumer, before running jobs are awaited.
    """
    remaining = iter(jobs)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            waiting.extend(pool.submit(work, job) for job in islice(remaining, max(1, ahead)))
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(work, job) for job in islice(remaining, 1))
                yield result
        except BaseException:
            on_abort()
            raise
        finally:
            for future in waiting:
                future.cancel()


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
