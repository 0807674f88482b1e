"""Processes that tests start and kill.

They are forked from a server that has imported everything once: a process then starts in milliseconds, not in
the seconds that torch and Lightning take.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

TIMEOUT = 120.0
"""Seconds after which a process that does not get on is given up."""


class Process:
    """A process that runs one function."""

    def __init__(self, function: Callable[..., object], *arguments: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["seesay.training.fit", "seesay.cli", "tests.tiny", "timm"])
        self._process = context.Process(target=function, args=arguments)
        self._process.start()

    def kill_when(self, reached: Callable[[], bool]) -> None:
        """Kills the process, as `kill -9` does, as soon as `reached()` holds; fails if it ends before."""
        deadline = time.monotonic() + TIMEOUT
        while not reached():
            assert self._process.is_alive(), "the process ended before it could be killed"
            assert time.monotonic() < deadline, "the process does not get on"
            time.sleep(0.001)
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join(TIMEOUT)
        assert self._process.exitcode == -signal.SIGKILL, "the process ended before it could be killed"

    def wait(self) -> int:
        """Returns the exit code when the process has ended."""
        self._process.join(TIMEOUT)
        assert self._process.exitcode is not None, "the process does not end"
        return self._process.exitcode

    def close(self) -> None:
        """Ends the process, if it is still there."""
        self._process.kill()
        self._process.join()
        self._process.close()
