"""Processes that die in the middle of what they do, as by `kill -9`.

They are forked from a server that has imported everything once: a process then starts in milliseconds, not in
the seconds that torch and Lightning take. A process kills itself, at a call that is counted, and not at a time,
which would be another on every machine.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

_PRELOADED = ["seesay.training.fit", "seesay.cli", "tests.tiny", "timm"]

TIMEOUT = 300.0
"""Seconds after which a process that does not end is given up."""


def run(function: Callable[..., object], *arguments: Any) -> int:
    """Runs a function in a process of its own and returns the exit code, -9 where it was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    process = context.Process(target=function, args=arguments)
    process.start()
    try:
        process.join(TIMEOUT)
        assert process.exitcode is not None, "the process does not end"
        return process.exitcode
    finally:
        process.kill()
        process.join()
        process.close()


def run_together(function: Callable[..., object], environments: Sequence[dict[str, str]], *arguments: Any) -> list[int]:
    """Runs a function in a process for each of the environments at once and returns their exit codes.

    Args:
        function: what to run.
        environments: variables that are set before it.
        arguments: its arguments.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    processes = [context.Process(target=_within, args=(each, function, arguments)) for each in environments]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(TIMEOUT)
            assert process.exitcode is not None, "a process does not end"
        return [int(process.exitcode or 0) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()
            process.close()


def _within(environment: dict[str, str], function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    function(*arguments)


def die() -> NoReturn:
    """Ends this process at once: no handler runs, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def die_at(owner: Any, name: str, call: int, before: Callable[..., object] = lambda *_: None) -> None:
    """Makes the so-manieth call of `owner.name` the end of this process, after `before` with its arguments."""
    real, calls = getattr(owner, name), [0]

    def maybe(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            before(*arguments)
            die()
        return real(*arguments, **options)

    setattr(owner, name, maybe)
