"""Who takes part in the training benchmark, each in a process of its own, asked in turn."""

import contextlib
import importlib.util
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from bench.material import TrainingData

Precision = Literal["float32", "bfloat16"]
Round = dict[str, float]


@dataclass(frozen=True)
class Entry:
    """What a process of the benchmark does.

    Attributes:
        system: ours, or the tutorial in torch or tensorflow.
        preset: of ours.
        precision: of the arithmetic; TensorFlow's is float32 always, as the tutorial's.
        threads: as many.
        padding: tokens to which the tutorial pads and cuts every caption; 0 = the longest of the data.
        steps: of a tutorial's round.
        data: data set; None = made-up captions.
        store: its features; None = random ones.
        images: how many of them.
    """

    system: Literal["ours", "torch", "tensorflow"]
    preset: str
    precision: Precision
    threads: int
    padding: int
    steps: int
    data: Path | None
    store: Path | None
    images: int


class Contestant:
    """A process that has made ready and waits to be asked for a round.

    Attributes:
        peak: MB by which the process grew at most while it built its model and trained, and all it held then.
    """

    def __init__(self, entry: Entry) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads, and its memory
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, entry), daemon=True)
        self._process.start()
        theirs.close()
        self.peak: tuple[float, float] = self._receive()

    def round(self) -> Round:
        """Returns what the contestant says of one more round: captions, seconds, and ours more than that."""
        self._connection.send("round")
        return cast("Round", self._receive())

    def close(self) -> None:
        """Ends the process."""
        self._connection.send(None)
        self._process.join()

    def _receive(self) -> Any:
        try:
            found = self._connection.recv()
        except EOFError:
            raise SystemExit("a process of the benchmark has ended; what it said is above") from None
        if isinstance(found, str):
            raise SystemExit(found)
        return found


def _serve(connection: Connection, entry: Entry) -> None:
    if entry.system != "tensorflow":
        sys.modules["tensorflow"] = cast("Any", None)  # TensorBoard would load it, and its memory would count as ours
    # Loaded here: whoever asks needs nothing of it.
    import torch

    from bench.material import load_material
    from bench.measuring import peak_memory
    from seesay.allocation import keep_freed_memory
    from seesay.errors import SeesayError

    keep_freed_memory()  # as `seesay train` does; for all contestants
    torch.set_num_threads(entry.threads)
    with contextlib.suppress(EOFError, BrokenPipeError):  # whoever asked is gone
        try:
            work = _prepare(entry, load_material(entry.data, entry.store, entry.images))
        except (SeesayError, SystemExit) as error:
            connection.send(str(error))
            return
        connection.send(tuple(peak_memory(work)))  # libraries and data are there; model and optimizer are not
        while connection.recv() is not None:
            connection.send(work())


def _prepare(entry: Entry, material: "TrainingData") -> Callable[[], Round]:
    if entry.system == "ours":
        from bench.our_training import ours

        return ours(entry, material)
    from bench.tutorial import tutorial

    return tutorial(entry, material)


def has_tensorflow() -> bool:
    """Tells whether TensorFlow is installed, without loading it."""
    return importlib.util.find_spec("tensorflow") is not None
