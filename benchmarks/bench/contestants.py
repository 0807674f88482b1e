"""Contestants of the training benchmark, each in its own process."""

import contextlib
import importlib.util
import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, cast

from bench.entry import Entry, Round

if TYPE_CHECKING:
    from bench.training_data import TrainingData


class Contestant:
    """A process that has prepared its model and waits for requests.

    Attributes:
        peak: peak growth of the process in MB while it built its model and trained, and its total memory then.
    """

    def __init__(self, entry: Entry) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads, and its memory
        self._connection, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, entry), daemon=True)
        self._process.start()
        child.close()
        self.peak: tuple[float, float] = self._receive()

    def round(self) -> Round:
        """Run a round and return its results: captions, seconds, and more for ours."""
        self._connection.send("round")
        return cast("Round", self._receive())

    def close(self) -> None:
        """Stop the process."""
        self._connection.send(None)
        self._process.join()

    def _receive(self) -> Any:
        try:
            result = self._connection.recv()
        except EOFError:
            raise SystemExit("a process of the benchmark has died; see its output above") from None
        if isinstance(result, str):
            raise SystemExit(result)
        return result


def _serve(connection: Connection, entry: Entry) -> None:
    if entry.system != "tensorflow":
        sys.modules["tensorflow"] = cast("Any", None)  # otherwise TensorBoard loads it, and its memory counts as ours
    # Imported here: the parent process does not need it.
    import torch

    from bench.measuring import peak_memory
    from bench.training_data import load_training_data
    from seesay.allocation import keep_freed_memory
    from seesay.errors import SeesayError

    keep_freed_memory()  # as `seesay train` does; for all contestants
    torch.set_num_threads(entry.threads)
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent process has ended
        try:
            work = _prepare(entry, load_training_data(entry.data, entry.store, entry.images))
        except (SeesayError, SystemExit) as error:
            connection.send(str(error))
            return
        connection.send(tuple(peak_memory(work)))  # libraries and data are loaded; model and optimizer are not
        while connection.recv() is not None:
            connection.send(work())


def _prepare(entry: Entry, data: "TrainingData") -> Callable[[], Round]:
    if entry.system == "ours":
        from bench.our_training import ours

        return ours(entry, data)
    from bench.tutorial import tutorial

    return tutorial(entry, data)


def has_tensorflow() -> bool:
    """Return whether TensorFlow is installed, without importing it."""
    return importlib.util.find_spec("tensorflow") is not None
