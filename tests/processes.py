"""Processes that die in the middle of what they do, as by `kill -9`.

They are forked from a server that has imported everything once: a process then starts in milliseconds, not in
the seconds that torch and Lightning take. A process kills itself, at a call that is counted, and not at a time,
which would be another on every machine.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any, NoReturn

TIMEOUT = 120.0
"""Seconds after which a process that does not end is given up."""


def run(function: Callable[..., object], *arguments: Any) -> int:
    """Runs a function in a process of its own and returns the exit code, -9 where it was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["seesay.training.fit", "seesay.cli", "tests.tiny", "timm"])
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
