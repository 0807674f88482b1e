"""`train`: data, features, model and Lightning's trainer put together into a run folder."""

import contextlib
import logging
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from seesay import config as configuration
from seesay.checkpoint import LAST_FILE, Run, RunInfo, is_run, load_run, save_run, update_progress
from seesay.config import Config
from seesay.data.annotations import load_dataset
from seesay.data.batches import CaptionBatches, Example, make_examples
from seesay.data.records import Annotations
from seesay.devices import choose_device, computes_bfloat16
from seesay.errors import ConfigError, DataError
from seesay.features import FeatureStore, JoinedStores, extract_features, store_path
from seesay.features.extraction import Progress
from seesay.models.captioning import build_model, count_parameters
from seesay.models.encoders import SMALL_CNN, Encoder, build_encoder
from seesay.tokenizer import Tokenizer
from seesay.training.callbacks import AtomicCheckpointIO, BestModel, MetricsLog, ResumePoint, readable_time
from seesay.training.module import CaptioningModule
from seesay.visualise import training_curves

log = logging.getLogger("seesay")

VALIDATION_CAPTIONS = 320
"""Captions of a validation batch."""


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    Attributes:
        folder: the run.
        epochs: epochs done.
        best: the monitor's best value, and `best_epoch` when.
        stopped_by: "epochs", "patience", or "nothing to do" where the run was finished already.
        seconds: time spent in training steps.
    """

    folder: Path
    epochs: int
    best: float
    best_epoch: int
    stopped_by: str
    seconds: float


@dataclass(frozen=True)
class Inputs:
    """What training reads: examples of both splits and where their features come from."""

    train: list[Example]
    val: list[Example]
    annotations: Annotations
    store: JoinedStores | None
    encoder: Encoder | None


def train(
    config: Config,
    data: str | Path,
    out: str | Path,
    *,
    features: str | Path = "features",
    stores: Sequence[str | Path] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TrainingResult:
    """Trains a captioner and returns how it went; the run folder holds everything else.

    An unfinished run in `out` with the same configuration goes on exactly where it stopped.

    Args:
        config: the whole configuration.
        data: anything `load_annotations` reads.
        out: the run folder.
        features: folder of feature stores; the one for this data and encoder is made if it is absent.
        stores: given stores to use instead, joined along F.
        overwrite: throw away a run that is there.
        progress: told of pictures encoded, if any have to be.

    Raises:
        SeesayError: bad data, a configuration that cannot work, a store of another encoder, a full disk.
    """
    out = Path(out)
    resumed = _existing_run(out, config, overwrite)
    if resumed is not None and resumed.info.progress.get("finished"):
        log.info("%s is finished already; --overwrite trains it anew", out)
        return _result(out, resumed.info, "nothing to do")
    annotations = load_dataset(data, config.data)
    for problem in annotations.problems:
        log.warning("%s", problem)
    tokenizer = resumed.tokenizer if resumed else _build_tokenizer(annotations, config)
    encoder, store = _prepare_features(config, annotations, data, features, stores, progress)
    inputs = _make_inputs(annotations, tokenizer, encoder, store)
    if resumed is None:
        info = _describe_run(config, data, tokenizer, inputs)
        (out / LAST_FILE).unlink(missing_ok=True)  # a remnant of a run that was not wholly deleted
        save_run(out, config, info, tokenizer)
    else:
        info = resumed.info
        if store is not None:
            store.require(info.features)
    return _fit(config, out, info, tokenizer, inputs)


def _fit(config: Config, out: Path, info: RunInfo, tokenizer: Tokenizer, inputs: Inputs) -> TrainingResult:
    module = _build_module(config, info, tokenizer, inputs)
    in_loop = inputs.store is None
    stored = inputs.encoder if info.encoder_stored and not in_loop else None
    best = BestModel(out, info, stored, config.training.monitor)
    with _quiet_lightning():
        trainer = _build_trainer(config, out, [MetricsLog(out / "metrics.csv", config.training.log_every), best])
    last = out / LAST_FILE
    log.info(
        "training %s parameters on %d captions of %d pictures%s",
        f"{count_parameters(module.model):,}",
        module.batches.captions,
        len(inputs.train),
        ", going on from a saved state" if last.is_file() else "",
    )
    validation = CaptionBatches(
        inputs.val,
        inputs.store,
        inputs.encoder.preprocessing if inputs.encoder else None,
        VALIDATION_CAPTIONS,
        shuffle=False,
    )
    with _quiet_lightning(), _interruptible(trainer):
        trainer.fit(module, module.batches, validation, ckpt_path=last if last.is_file() else None)
    epochs = int(best.info.progress["epochs"])
    stopped_by = "epochs" if epochs >= config.training.epochs else "patience"
    training_curves(out / "metrics.csv", out / "curves.png")
    final = update_progress(out, best.info, finished=True, stopped_by=stopped_by)
    log.info(
        "best %s %.4f at epoch %d; stopped by %s after %s of training",
        config.training.monitor,
        best.best,
        best.best_epoch,
        stopped_by,
        readable_time(module.seconds),
    )
    return _result(out, final, stopped_by)


def _result(out: Path, info: RunInfo, stopped_by: str) -> TrainingResult:
    done = info.progress
    return TrainingResult(out, done["epochs"], done["best"], done["best_epoch"], stopped_by, done["seconds"])


def _existing_run(out: Path, config: Config, overwrite: bool) -> Run | None:
    """Returns the run in `out` that this training goes on with, if any.

    Raises:
        ConfigError: the run there has another configuration.
    """
    if overwrite and is_run(out):
        shutil.rmtree(out)
    if not is_run(out):
        return None
    run = load_run(out)
    differing = _differences(configuration.to_dict(run.config), configuration.to_dict(config))
    if differing:
        raise ConfigError(
            f"{out} holds a run with other settings ({'; '.join(differing[:3])}); "
            "go on with it by --resume, choose another --out, or throw it away with --overwrite"
        )
    return run


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    return [
        f"{section}.{name} is {there[section][name]!r} there, {value!r} here"
        for section, values in here.items()
        for name, value in values.items()
        if there[section][name] != value
    ]


def _build_tokenizer(annotations: Annotations, config: Config) -> Tokenizer:
    captions = [caption for item in annotations.split("train") for caption in item.captions]
    if not captions:
        raise DataError(f"{annotations.source} has no training captions")
    tokenizer = Tokenizer.build(captions, config.text)
    log.info(
        "vocabulary of %d words; %.2f %% of the words of training captions are outside it",
        len(tokenizer),
        100 * tokenizer.oov_rate(captions),
    )
    return tokenizer


def _prepare_features(
    config: Config,
    annotations: Annotations,
    data: str | Path,
    folder: str | Path,
    given: Sequence[str | Path],
    progress: Progress | None,
) -> tuple[Encoder | None, JoinedStores | None]:
    """Returns the encoder (None where given stores stand for it) and the stores (None if it is in the loop)."""
    torch.manual_seed(config.training.seed)  # for the weights of encoders that start from nothing
    if given:
        return _given_stores(config, [Path(path) for path in given])
    encoder = build_encoder(config.encoder)
    if config.encoder.encoder_training != "cached":
        encoder.requires_grad_(config.encoder.encoder_training == "full")
        return encoder, None
    used = [item for split in ("train", "val", "test") for item in annotations.split(split)]
    path = store_path(folder, data, encoder)
    report = extract_features(
        {item.id: item.image for item in used},
        encoder,
        path,
        device=choose_device(config.training.device),
        progress=progress,
    )
    if report.extracted:
        log.info(
            "%d pictures encoded into %s: %.0f pictures/s (%.0f of the encoder alone)",
            report.extracted,
            path,
            report.rate,
            report.encoder_rate,
        )
    for line in report.unreadable:
        log.warning("left out: %s", line)
    return encoder, JoinedStores([FeatureStore(path)])


def _given_stores(config: Config, paths: Sequence[Path]) -> tuple[Encoder | None, JoinedStores]:
    """Opens stores named by the user; a single one made by an encoder must be the configuration's."""
    stores = JoinedStores([FeatureStore(path) for path in paths])
    if len(paths) > 1 or "encoder" not in stores.identity:
        return None, stores
    encoder = build_encoder(config.encoder)
    stores.stores[0].require(encoder.identity)
    return encoder, stores


def _make_inputs(
    annotations: Annotations, tokenizer: Tokenizer, encoder: Encoder | None, store: JoinedStores | None
) -> Inputs:
    examples = {}
    for split in ("train", "val"):
        annotated = annotations.split(split)
        items = [item for item in annotated if store is None or item.id in store]
        if len(items) < len(annotated):
            log.warning("%d %s pictures have no features and are left out", len(annotated) - len(items), split)
        examples[split] = make_examples(items, tokenizer.encode)
        if not examples[split]:
            raise DataError(
                f"{annotations.source} has no usable {split} picture; it has the splits "
                f"{', '.join(annotations.splits) or 'none'}"
            )
    return Inputs(examples["train"], examples["val"], annotations, store, encoder)


def _describe_run(config: Config, data: str | Path, tokenizer: Tokenizer, inputs: Inputs) -> RunInfo:
    source: Any = inputs.store if inputs.store is not None else inputs.encoder
    identity = source.identity
    from_hub = config.encoder.encoder_weights == "pretrained" and config.encoder.encoder != SMALL_CNN
    return RunInfo(
        vocabulary_size=len(tokenizer),
        feature_size=source.feature_size,
        grid=source.grid,
        max_length=max(example.length for example in inputs.train) - 2,
        features=identity,
        encoder_stored=inputs.encoder is not None and (inputs.store is None or not from_hub),
        data=str(data),
    )


def _build_module(config: Config, info: RunInfo, tokenizer: Tokenizer, inputs: Inputs) -> CaptioningModule:
    torch.manual_seed(config.training.seed)
    in_loop = inputs.store is None
    model = build_model(config.model, info.vocabulary_size, info.feature_size, inputs.encoder if in_loop else None)
    model.train()  # Lightning keeps the modes it finds, and an encoder comes in evaluation mode
    batches = CaptionBatches(
        inputs.train,
        inputs.store,
        inputs.encoder.preprocessing if inputs.encoder else None,
        config.training.batch_captions,
        seed=config.training.seed,
    )
    references = {item.id: item.captions for item in inputs.annotations.split("val")}
    return CaptioningModule(model, config, tokenizer, batches, references, info.max_length)


def _build_trainer(config: Config, out: Path, callbacks: list[Callback]) -> pl.Trainer:
    training = config.training
    mode = "min" if training.monitor == "val_loss" else "max"
    if training.patience:
        callbacks.append(EarlyStopping(training.monitor, patience=training.patience, mode=mode))
    callbacks.append(
        ModelCheckpoint(
            dirpath=(out / LAST_FILE).parent,
            filename=f"epoch{{epoch:03d}}-{training.monitor}{{{training.monitor}:.4f}}",
            auto_insert_metric_name=False,
            monitor=training.monitor,
            mode=mode,
            save_top_k=training.keep_best,
            save_weights_only=True,
            enable_version_counter=False,
        )
    )
    callbacks.append(ResumePoint(out / LAST_FILE, training.checkpoint_every))
    return pl.Trainer(
        accelerator=_accelerator(choose_device(training.device)),
        devices=1,
        precision=_precision(config),  # type: ignore[arg-type]
        max_epochs=training.epochs,
        gradient_clip_val=training.clip_gradients or None,
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


def _more_loggers(names: Sequence[str], out: Path) -> list[Logger]:
    """Returns further Lightning loggers by class name.

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


def _precision(config: Config) -> str:
    """Returns Lightning's name of the arithmetic: bfloat16 where the processor computes in it, or as told."""
    wanted = config.training.precision
    if wanted == "auto":
        wanted = "bfloat16" if computes_bfloat16(choose_device(config.training.device)) else "float32"
    return "bf16-mixed" if wanted == "bfloat16" else "32-true"


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keeps Lightning's notes on its own machinery out of the user's log."""
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


@contextlib.contextmanager
def _interruptible(trainer: pl.Trainer) -> Iterator[None]:
    """Lets Ctrl-C through as what it is: Lightning ends the process instead, deaf to any further one."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from stop
    if trainer.interrupted:
        raise KeyboardInterrupt
