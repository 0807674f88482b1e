"""Stopping a training on SIGINT or SIGTERM, or by its caller, after its state has been saved."""

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
"""Exit code of a process that SIGTERM has ended."""


class StopRequestedError(Exception):
    """Training has saved its state and ends, as a signal asked it to."""


class StopRequest:
    """A request to stop, which training obeys as soon as it has saved its state.

    Attributes:
        reason: the exception that ends training then; None = no request.
        signal: the signal that made the request; None = no signal did.
        place: where a training that is started again resumes, in words; None before its first step.
    """

    def __init__(self) -> None:
        self.reason: Exception | None = None
        self.signal: int | None = None
        self.place: str | None = None

    def ask(self, reason: Exception) -> None:
        """Asks training to stop; the first reason counts."""
        self.reason = self.reason or reason

    def listen(self) -> None:
        """Makes SIGINT and SIGTERM requests, until Lightning restores the handlers at the end of training."""
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            signal.signal(signal.SIGINT, self._receive)
            signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, number: int, _: Any) -> None:
        if number == signal.SIGINT == self.signal:
            raise KeyboardInterrupt  # the second Ctrl-C: the user does not want to wait
        self.signal = self.signal or number
        self.ask(StopRequestedError())

    def end(self, out: Path, leads: bool) -> None:
        """Ends the process's work as its signal demands, with a message that names the place to resume at.

        Args:
            out: the run folder.
            leads: False = silently, in the processes beside the first.

        Raises:
            KeyboardInterrupt: on SIGINT, with the message.
            SystemExit: on SIGTERM, after the message was logged.
        """
        place = self.place or "the beginning"
        message = f"stopped; {out} resumes at {place}: run the same command again, without --overwrite"
        if not leads:
            raise SystemExit(TERMINATED) from None
        if self.signal == signal.SIGTERM:
            log.warning("%s", message)
            raise SystemExit(TERMINATED) from None
        raise KeyboardInterrupt(message) from None


def describe_place(step: int, steps_per_epoch: int, epochs: int) -> str:
    """Returns in words which step follows so many steps.

    Args:
        step: steps that are done.
        steps_per_epoch: steps of an epoch.
        epochs: of the training.
    """
    epoch, done = divmod(step, steps_per_epoch)
    if step == 0:
        return "the beginning"
    if epoch >= epochs:
        return "the end of its last epoch"
    return f"epoch {epoch + 1}, step {done + 1} of {steps_per_epoch}"


@contextlib.contextmanager
def interruptible(trainer: pl.Trainer, stop: StopRequest, out: Path) -> Iterator[None]:
    """Ends a training that was stopped as `StopRequest.end` does.

    Lightning answers a KeyboardInterrupt with the end of the process instead, and ignores any further SIGINT.

    Args:
        trainer: at work in the block.
        stop: its request.
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
