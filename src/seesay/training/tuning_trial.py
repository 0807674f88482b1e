"""One trial of a search: a training that is watched, and may be given up."""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from seesay.checkpoint import RUN
from seesay.config import Config
from seesay.errors import CheckpointError, SeesayError
from seesay.outputs import delete_own
from seesay.training.callbacks import StepProgress, StepReport
from seesay.training.fit import train_on
from seesay.training.inputs import LazyInputs
from seesay.training.stopping import StopRequest
from seesay.training.tuning_files import epoch_values
from seesay.training.tuning_study import Attempt

if TYPE_CHECKING:
    import optuna

log = logging.getLogger("seesay")


class _PrunedError(Exception):
    """A trial is given up."""


class _TimeUpError(Exception):
    """The search's time is up in the midst of a trial."""


class TrialWatch(Callback):
    """Tells the study of every validation, gives up a trial that is behind, and ends one whose time is up.

    Args:
        attempt: the trial; what an earlier attempt at it has told is told again as training gets past it.
        prune: whether it may be given up.
        deadline: `time.monotonic()` at which it is over; None = never.

    Attributes:
        stop: request to the training, which saves its state first.
    """

    def __init__(self, attempt: Attempt, prune: bool, deadline: float | None) -> None:
        self.attempt = attempt
        self.prune = prune
        self.deadline = deadline
        self.stop = StopRequest()

    def catch_up(self, epochs: int) -> None:
        """Tells of the first so many epochs, which an earlier attempt has done."""
        for epoch, value in sorted(self.attempt.told.items()):
            if epoch <= epochs:
                self.attempt.trial.report(value, epoch)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tells of what training goes on from."""
        self.catch_up(trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends the trial if the time is up."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            self.stop.ask(_TimeUpError())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tells of the epoch, and gives the trial up if it is behind and not at its end."""
        epoch, trial = trainer.current_epoch + 1, self.attempt.trial
        trial.report(float(trainer.callback_metrics["val_cider"]), epoch)
        if self.prune and epoch < (trainer.max_epochs or 0) and trial.should_prune():
            raise _PrunedError


def run_trial(
    study: "optuna.Study",
    watch: TrialWatch,
    config: Config,
    inputs: LazyInputs,
    run: Path,
    *,
    step_progress: StepProgress | None = None,
) -> None:
    """Trains a trial and tells the study what came of it; nothing if the time was up before.

    Args:
        study: that the attempt is from.
        watch: of the trial.
        config: its settings.
        inputs: as of `train_on`.
        run: its run folder, which an earlier attempt at it may have left.
        step_progress: called after each step.

    Raises:
        CheckpointError: a full disk or a damaged file, which are no fault of the trial's settings.
    """
    from optuna.trial import TrialState

    attempt = watch.attempt
    if not attempt.is_retry:
        delete_own(run, RUN)  # a remnant of a study that is not there any more
    callbacks = [watch, *([StepReport(step_progress)] if step_progress else [])]
    try:
        result = train_on(config, inputs, run, callbacks=callbacks, stop=watch.stop)
    except _TimeUpError:
        return
    except _PrunedError:
        attempt.trial.set_user_attr("seconds", epoch_values(run)[-1][1])
        study.tell(attempt.trial, state=TrialState.PRUNED)
        return
    except CheckpointError:
        raise
    except SeesayError as error:
        _fail(study, attempt, str(error))
        return
    except torch.OutOfMemoryError:
        _fail(study, attempt, "the device has not enough memory for it")
        return
    if result.stopped_by == "nothing to do":  # the last attempt was broken off between its end and the telling of it
        watch.catch_up(result.epochs)
    for name in ("epochs", "best_epoch", "seconds"):
        attempt.trial.set_user_attr(name, getattr(result, name))
    study.tell(attempt.trial, epoch_values(run)[result.best_epoch - 1][0])


def _fail(study: "optuna.Study", attempt: Attempt, reason: str) -> None:
    from optuna.trial import TrialState

    log.warning("trial %d failed: %s", attempt.number, reason)
    attempt.trial.set_user_attr("reason", reason)  # a trial without one would be tried again
    study.tell(attempt.trial, state=TrialState.FAIL)
