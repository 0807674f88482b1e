"""Builds Lightning's trainer for a run."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from seesay.checkpoint import LAST_FILE
from seesay.config import Config
from seesay.devices import choose_device, supports_bfloat16
from seesay.errors import ConfigError
from seesay.training.callbacks import AtomicCheckpointIO, BestCheckpoints, ResumePoint
from seesay.training.distributed import process_counts
from seesay.training.ema import EmaWeights
from seesay.training.interruption import StopRequest


def build_trainer(config: Config, out: Path, callbacks: list[Callback], stop: StopRequest | None = None) -> pl.Trainer:
    """Return the trainer of a run, which saves its states, best checkpoints and curves in the folder `out`.

    Args:
        config: the configuration.
        out: the run folder.
        callbacks: called before those of early stopping, the best checkpoints and the resumable state.
        stop: request that stops training once its state is saved.

    Raises:
        ConfigError: a logger or a device is not available.
    """
    training = config.training
    devices, nodes = process_counts(training)
    several = devices * nodes > 1
    device = choose_device(training.device)
    _require_devices(device, devices)
    if training.patience:
        mode = "min" if training.monitor == "val_loss" else "max"
        callbacks.append(EarlyStopping(training.monitor, patience=training.patience, mode=mode))
    callbacks.append(BestCheckpoints((out / LAST_FILE).parent, training))
    if training.ema_decay:
        callbacks.append(EmaWeights(training.ema_decay))
    callbacks.append(ResumePoint(out / LAST_FILE, training.checkpoint_every, stop or StopRequest()))
    return pl.Trainer(
        accelerator=_accelerator(device),
        devices=devices,
        num_nodes=nodes,
        strategy=_strategy(config) if several else "auto",
        # `CaptionBatches` splits batches among ranks; batch norms of a trained encoder use the global batch.
        use_distributed_sampler=False,
        sync_batchnorm=several and device.startswith("cuda"),
        precision="bf16-mixed" if trains_in_bfloat16(config) else "32-true",
        max_epochs=training.epochs,
        gradient_clip_val=training.max_grad_norm or None,
        callbacks=callbacks,
        logger=[
            TensorBoardLogger(out, name="", version="tensorboard"),
            *_more_loggers(training.loggers, out),
        ],
        plugins=[AtomicCheckpointIO()],
        num_sanity_val_steps=0,
        log_every_n_steps=training.log_every,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=out,
    )


def _strategy(config: Config) -> str:
    """Return Lightning's strategy for several processes; pretrained models have weights that captions do not use."""
    return "ddp_find_unused_parameters_true" if config.finetuning.model else "ddp"


def _require_devices(device: str, wanted: int) -> None:
    """Check that there is a GPU per process.

    Raises:
        ConfigError: there are fewer.
    """
    available = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device.partition(":")[0], wanted)
    if wanted > available:
        raise ConfigError(f"training.devices is {wanted}, but only {available} of {device} are available; lower it")


def _more_loggers(names: Sequence[str], out: Path) -> list[Logger]:
    """Return further Lightning loggers by class name.

    Raises:
        ConfigError: Lightning has no such logger, or its library is not installed.
    """
    from lightning.pytorch import loggers

    made = []
    for name in names:
        kind: Callable[..., Logger] | None = getattr(loggers, name, None)
        if kind is None:
            known = [entry for entry in loggers.__all__ if entry != "Logger"]
            raise ConfigError(f"training.loggers: Lightning has no {name!r}; it has {', '.join(known)}")
        try:
            made.append(kind(save_dir=str(out)))
        except ImportError as error:
            raise ConfigError(f"training.loggers: {name} needs a library that is not installed: {error}") from error
    return made


def _accelerator(device: str) -> str:
    return device if device in ("cpu", "mps") else "cuda"


def trains_in_bfloat16(config: Config) -> bool:
    """Return whether training uses bfloat16; precision auto does where the device supports it natively."""
    wanted = config.training.precision
    if wanted == "auto":
        return supports_bfloat16(choose_device(config.training.device))
    return wanted == "bfloat16"


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Suppress Lightning's own log messages and warnings."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*TensorBoard.*|.*does not have many workers.*")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
