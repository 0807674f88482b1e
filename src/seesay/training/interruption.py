"""Stops training on SIGINT, SIGTERM or its caller's request, after saving its state."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

log = logging.getLogger("seesay")

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process terminated by SIGTERM."""


class StopRequestedError(Exception):
    """Training has saved its state and stops on request."""


class StopRequest:
    """A request to stop training once its state is saved.

    Attributes:
        reason: the exception that stops training; None: no request.
        signal: the signal that made the request, if any.
        place: description of the step at which training would resume; None before the first step.
    """

    def __init__(self) -> None:
        self.reason: Exception | None = None
        self.signal: int | None = None
        self.place: str | None = None

    def ask(self, reason: Exception) -> None:
        """Request a stop; the first reason counts."""
        self.reason = self.reason or reason

    def listen(self) -> None:
        """Treat SIGINT and SIGTERM as requests until Lightning restores the handlers at the end of training."""
        if threading.current_thread() is threading.main_thread():  # other threads cannot set handlers
            signal.signal(signal.SIGINT, self._receive)
            signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, number: int, _: Any) -> None:
        if number == signal.SIGINT == self.signal:
            raise KeyboardInterrupt  # a second Ctrl-C stops at once
        self.signal = self.signal or number
        self.ask(StopRequestedError())

    def end(self, out: Path, is_rank_zero: bool) -> None:
        """Exit according to the signal, with a message that names the step at which training resumes.

        Args:
            out: the run folder.
            is_rank_zero: False: exit without a message.

        Raises:
            KeyboardInterrupt: on SIGINT, with the message.
            SystemExit: on SIGTERM, after logging the message; and in other ranks.
        """
        place = self.place or "the beginning"
        message = f"stopped; {out} resumes at {place}: run the same command again, without --overwrite"
        if not is_rank_zero:
            raise SystemExit(TERMINATED) from None
        if self.signal == signal.SIGTERM:
            log.warning("%s", message)
            raise SystemExit(TERMINATED) from None
        raise KeyboardInterrupt(message) from None


def describe_place(step: int, steps_per_epoch: int, epochs: int) -> str:
    """Return a description of the step that follows `step` completed steps.

    Args:
        step: number of completed steps.
        steps_per_epoch: steps per epoch.
        epochs: number of epochs.
    """
    epoch, done = divmod(step, steps_per_epoch)
    if step == 0:
        return "the beginning"
    if epoch >= epochs:
        return "the end of its last epoch"
    return f"epoch {epoch + 1}, step {done + 1} of {steps_per_epoch}"


@contextlib.contextmanager
def interruptible(trainer: pl.Trainer, stop: StopRequest, out: Path) -> Iterator[None]:
    """Run training in the block and exit with `StopRequest.end` if it was stopped.

    Lightning itself would exit the process on KeyboardInterrupt and ignore further SIGINTs.

    Args:
        trainer: the trainer that runs in the block.
        stop: its stop request.
        out: the run folder.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except StopRequestedError:
        stop.end(out, trainer.is_global_zero)
    except SystemExit:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)
        stop.end(out, trainer.is_global_zero)
    if trainer.interrupted:
        stop.end(out, trainer.is_global_zero)
