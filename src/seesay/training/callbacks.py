"""Callbacks of training: checkpoints and resuming, logs and metrics, and the run's files."""

import csv
import io
import logging
import math
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from seesay.checkpoint import RunInfo, unwritable, update_progress
from seesay.config import TrainingConfig
from seesay.data.batches import ImageBatches
from seesay.errors import CheckpointError, ConfigError
from seesay.files import write_atomically
from seesay.formatting import format_duration
from seesay.training.base import TrainingModule
from seesay.training.distributed import sum_over_ranks
from seesay.training.interruption import StopRequest, StopRequestedError, describe_place

log = logging.getLogger("seesay")

StepProgress = Callable[[str, int, int], None]
"""Called with a description of the stage, the steps completed and the total number of steps."""

COLUMNS = (
    "step",
    "epoch",
    "train_loss",
    "val_loss",
    "val_cider",
    "learning_rate",
    "captions_per_second",
    "seconds",
    "reward",
    "baseline",
)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically and loads them without executing code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write to a temporary file, then rename it.

        Raises:
            CheckpointError: the disk is full or not writable; the previous checkpoint is kept.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError
            temporary.unlink(missing_ok=True)
            raise unwritable(target, error) from error
        temporary.replace(target)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Return the checkpoint at `path`.

        Raises:
            CheckpointError: the file is missing or truncated, or contains more than plain data.
        """
        try:
            loaded: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except FileNotFoundError as error:
            raise CheckpointError(f"no checkpoint at {path}") from error
        except Exception as error:
            raise CheckpointError(f"checkpoint {path} is damaged or truncated; delete it to start again") from error
        return loaded


class ResumePoint(Checkpoint):
    """Saves the training state every `every` steps, at the end of each epoch and before a requested stop.

    It does not save after the last step of an epoch, since Lightning would then skip that epoch's validation on
    resuming; it saves after the validation instead.

    Args:
        path: file of the state.
        every: steps between two saves.
        stop: the stop request; its `place` is kept at the last saved state.
    """

    def __init__(self, path: Path, every: int, stop: StopRequest) -> None:
        self.path = path
        self.every = every
        self.stop = stop
        self._saved = 0
        self._stop_logged = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from the step at which training starts or resumes, and handle signals."""
        self._mark_saved(trainer)
        if self._saved:
            log.info("resuming at %s", self.stop.place)
        self.stop.listen()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is due, and stop if requested."""
        if trainer.is_last_batch:
            return
        assert isinstance(pl_module, TrainingModule)
        pl_module.count_time()
        requested = self._requested(trainer, pl_module)
        if requested or trainer.global_step - self._saved >= self.every:
            self._save(trainer, pl_module)
        if requested:
            raise requested

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Log once that a requested stop waits for the validation."""
        if self.stop.signal == signal.SIGINT and not self._stop_logged:
            self._stop_logged = True
            log.info("stopping after this validation; Ctrl-C again stops at once and resumes at %s", self.stop.place)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, and stop if requested, except at the end of training, which the state does not record."""
        assert isinstance(pl_module, TrainingModule)
        if trainer.should_stop:
            return
        pl_module.restart_clock()  # validation is not counted
        requested = self._requested(trainer, pl_module)
        self._save(trainer, pl_module)
        if requested and trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            raise requested

    def _save(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        if trainer.global_step > self._saved:
            trainer.save_checkpoint(self.path)
            module.restart_clock()
            self._mark_saved(trainer)

    def _mark_saved(self, trainer: pl.Trainer) -> None:
        self._saved = trainer.global_step
        self.stop.place = describe_place(self._saved, int(trainer.num_training_batches), trainer.max_epochs or 0)

    def _requested(self, trainer: pl.Trainer, module: TrainingModule) -> Exception | None:
        """Return why training stops here, or None; with several processes they agree every `log_every` steps."""
        if trainer.world_size == 1:
            return self.stop.reason
        if trainer.global_step % module.config.training.log_every and not trainer.is_last_batch:
            return None
        if sum_over_ranks(torch.tensor(int(self.stop.reason is not None))):
            self.stop.ask(StopRequestedError())
        return self.stop.reason


class MetricsLog(Callback):
    """Writes metrics.csv, log lines and the metrics of every logger."""

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every
        self._since: tuple[int, float] = (0, 0.0)
        self._captions = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Create metrics.csv, or remove its rows after the step from which training resumes."""
        assert isinstance(pl_module, TrainingModule)
        self._captions, self._since = 0, (0, pl_module.seconds)
        if not trainer.is_global_zero:
            return
        rows: list[dict[str, str]] = []
        if self.path.is_file() and trainer.global_step > 0:
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= trainer.global_step]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, text.getvalue().encode())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log a step if it is due."""
        assert isinstance(pl_module, TrainingModule)
        self._captions += batch.totals.captions
        if trainer.global_step % self.every:
            return
        pl_module.count_time()
        captions, seconds = self._captions, pl_module.seconds
        rate = (captions - self._since[0]) / max(1e-9, seconds - self._since[1])
        self._since = (captions, seconds)
        loss = _mean_loss(pl_module.last_loss)
        steps = trainer.num_training_batches
        _check_divergence(loss, trainer.global_step)
        left = (
            pl_module.seconds
            / max(1, trainer.global_step)
            * (pl_module.config.training.epochs * float(steps) - trainer.global_step)
        )
        rewards = _rewards(pl_module, epoch=False)
        log.info(
            "epoch %d step %d/%d  loss %.3f%s  %.0f captions/s  at most %s left",
            trainer.current_epoch + 1,
            batch_idx + 1,
            steps,
            loss,
            _format_rewards(rewards),
            rate,
            format_duration(left),
        )
        self._write(trainer, pl_module, train_loss=loss, captions_per_second=rate, **rewards)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log an epoch."""
        assert isinstance(pl_module, TrainingModule)
        values = {name: float(trainer.callback_metrics[name]) for name in ("val_loss", "val_cider")}
        mean = _mean_loss(pl_module.epoch_loss)
        _check_divergence(mean, trainer.global_step)
        _check_divergence(values["val_loss"], trainer.global_step)
        rewards = _rewards(pl_module, epoch=True)
        log.info(
            "epoch %d done  loss %.3f%s  val loss %.3f  val CIDEr %.1f  %s of training",
            trainer.current_epoch + 1,
            mean,
            _format_rewards(rewards),
            values["val_loss"],
            values["val_cider"],
            format_duration(pl_module.seconds),
        )
        self._write(trainer, pl_module, train_loss=mean, **values, **rewards)
        self._log_samples(trainer, pl_module)

    def _log_samples(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        """Log the captions of a few validation images."""
        for name, caption, reference in module.samples:
            log.info("  %s: %s (reference: %s)", name, caption or "(empty)", reference)
        rows = [
            "| image | caption | reference |",
            "|---|---|---|",
            *(f"| {' | '.join(row)} |" for row in module.samples),
        ]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                logger.experiment.add_text("validation captions", "\n".join(rows), trainer.global_step)

    def _write(self, trainer: pl.Trainer, module: TrainingModule, **values: float) -> None:
        if not trainer.is_global_zero:
            return
        epoch = trainer.current_epoch + 1
        row = {"learning_rate": module.learning_rate, "seconds": round(module.seconds, 3), **values}
        for logger in trainer.loggers:
            logger.log_metrics({**row, "epoch": epoch}, step=trainer.global_step)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS).writerow({"step": trainer.global_step, "epoch": epoch, **row})


class StepReport(Callback):
    """Reports every step to a progress bar.

    Args:
        report: called with a description of the epoch, the steps completed in it, and their total.
    """

    def __init__(self, report: StepProgress) -> None:
        self.report = report

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report a training step."""
        self._report(trainer, "step", batch_idx, trainer.num_training_batches)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Report a validation step."""
        batches = trainer.num_val_batches
        self._report(trainer, "validation step", batch_idx, batches if isinstance(batches, int) else batches[0])

    def _report(self, trainer: pl.Trainer, what: str, batch_idx: int, batches: float) -> None:
        if trainer.is_global_zero:
            self.report(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs} {what}", batch_idx + 1, int(batches))


class BestCheckpoints(ModelCheckpoint):
    """Keeps the best checkpoints; their names count epochs from 1.

    Args:
        folder: folder of the checkpoints.
        training: the monitored metric and the number of checkpoints.
    """

    def __init__(self, folder: Path, training: TrainingConfig) -> None:
        digits = 4 if training.monitor == "val_loss" else 2
        super().__init__(
            dirpath=folder,
            filename=f"epoch{{epoch:03d}}-{training.monitor}{{{training.monitor}:.{digits}f}}",
            auto_insert_metric_name=False,
            monitor=training.monitor,
            mode="min" if training.monitor == "val_loss" else "max",
            save_top_k=training.keep_best,
            save_weights_only=True,
            enable_version_counter=False,
        )

    def format_checkpoint_name(self, metrics: dict[str, Tensor], *arguments: Any, **options: Any) -> str:
        """Return the path of a checkpoint."""
        metrics = {**metrics, "epoch": metrics["epoch"] + 1}
        return super().format_checkpoint_name(metrics, *arguments, **options)


class BestModel(Checkpoint):
    """Keeps the weights of the best validation so far.

    Args:
        folder: the run folder.
        info: its metadata.
        monitor: the monitored metric.
        save: writes the current weights into the run folder.
    """

    def __init__(self, folder: Path, info: RunInfo, monitor: str, save: Callable[[], None]) -> None:
        self.folder = folder
        self.info = info
        self.monitor = monitor
        self.save = save
        self.best: float | None = None
        self.best_epoch = 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the weights if they are the best, and the progress of training."""
        assert isinstance(pl_module, TrainingModule)
        value = float(trainer.callback_metrics[self.monitor])
        better = self.best is None or (value < self.best if self.monitor == "val_loss" else value > self.best)
        if better:
            self.best, self.best_epoch = value, trainer.current_epoch + 1
            if trainer.is_global_zero:
                self.save()
        self.info = update_progress(
            self.folder if trainer.is_global_zero else None,
            self.info,
            finished=False,
            epochs=trainer.current_epoch + 1,
            best_epoch=self.best_epoch,
            monitor=self.monitor,
            best=self.best,
            seconds=round(pl_module.seconds, 1),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state needed to resume."""
        return {"best": self.best, "best_epoch": self.best_epoch, "progress": self.info.progress}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.info = replace(self.info, progress=state["progress"])


class ShareBatches(Callback):
    """Splits every batch among the processes.

    Args:
        batches: the training and validation batches.
    """

    def __init__(self, batches: Sequence[ImageBatches[Any]]) -> None:
        self.batches = batches

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Set the rank and the number of processes."""
        for batches in self.batches:
            batches.share(trainer.global_rank, trainer.world_size)


def _mean_loss(counted: torch.Tensor) -> float:
    """Return the mean loss from the summed nats and tokens (2,) of all processes; every process must call it."""
    total, tokens = sum_over_ranks(counted).tolist()
    return float(total / max(1.0, tokens))


def _rewards(module: TrainingModule, epoch: bool) -> dict[str, float]:
    """Return the metrics of SCST: CIDEr-D of the samples and of their baseline, times 100."""
    if not module.has_rewards:
        return {}
    return {name: 100 * value for name, value in zip(("reward", "baseline"), module.rewards(epoch), strict=True)}


def _format_rewards(rewards: dict[str, float]) -> str:
    return "  reward {reward:.1f} (baseline {baseline:.1f})".format(**rewards) if rewards else ""


def _check_divergence(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise ConfigError(
            f"the loss is {loss} at step {step}: training has diverged; start again (--overwrite) with a lower "
            "training.learning_rate, or set training.max_grad_norm"
        )
