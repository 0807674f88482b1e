"""Processes that are killed in the middle of their work, as by `kill -9`.

They are forked from a server that has imported everything once, so that a process starts in milliseconds, not in the
seconds that importing torch and Lightning takes. A process kills itself at the n-th call of a function, not after a
time, which would differ between machines.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

_PRELOADED = ["seesay.training.train", "seesay.cli.main", "tests.tiny", "timm"]

TIMEOUT = 300.0
"""Timeout of a process in seconds."""


def run(function: Callable[..., object], *arguments: Any) -> int:
    """Run a function in a new process and return the exit code, -9 if it was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    process = context.Process(target=function, args=arguments)
    process.start()
    try:
        process.join(TIMEOUT)
        assert process.exitcode is not None, "the process did not end"
        return process.exitcode
    finally:
        process.kill()
        process.join()
        process.close()


def run_together(function: Callable[..., object], environments: Sequence[dict[str, str]], *arguments: Any) -> list[int]:
    """Run a function concurrently in one process per environment and return the exit codes.

    Args:
        function: the function.
        environments: environment variables of each process.
        arguments: arguments of the function.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    processes = [
        context.Process(target=_run_with_environment, args=(each, function, arguments)) for each in environments
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(TIMEOUT)
            assert process.exitcode is not None, "a process did not end"
        return [int(process.exitcode or 0) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()
            process.close()


def _run_with_environment(
    environment: dict[str, str], function: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(environment)
    function(*arguments)


def die() -> NoReturn:
    """Kill this process: no handler runs, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def die_at(owner: Any, name: str, call: int, before: Callable[..., object] = lambda *_: None) -> None:
    """Kill this process at the given call of `owner.name`, after calling `before` with its arguments."""
    function, calls = getattr(owner, name), [0]

    def count_and_call(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            before(*arguments)
            die()
        return function(*arguments, **options)

    setattr(owner, name, count_and_call)
