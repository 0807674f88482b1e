"""`train`: trains a captioner from a configuration and writes its run folder."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.callbacks import Callback

from seesay.checkpoint import LAST_FILE, RUN, Run, RunInfo, load_run, save_run, update_progress
from seesay.config import Config
from seesay.data.augmentation import Augmentation
from seesay.data.batches import CaptionBatches
from seesay.errors import ConfigError, DataError
from seesay.explanation import training_curves
from seesay.features.extraction import Progress
from seesay.formatting import format_duration
from seesay.models.captioning import build_model, count_parameters
from seesay.models.encoders import SMALL_CNN
from seesay.models.vocabulary import init_bias_from_frequencies
from seesay.outputs import check_folder, only_writer_of
from seesay.tokenizer import Tokenizer
from seesay.training.callbacks import BestModel, MetricsLog, ShareBatches, StepProgress, StepReport
from seesay.training.cuda_graphs import GraphedCritic, GraphedTrainStep, uses_graphs
from seesay.training.distributed import rank, rank_zero_first
from seesay.training.inputs import (
    Inputs,
    LazyInputs,
    build_tokenizer,
    count_words,
    describe_captions,
    make_inputs,
    open_training_data,
    read_captions,
)
from seesay.training.interruption import StopRequest, interruptible
from seesay.training.module import CaptioningModule
from seesay.training.schedule import warn_of_warmup
from seesay.training.scst import SelfCritic, make_critic
from seesay.training.trainer import build_trainer, quiet_lightning
from seesay.training.validation import check_config, differences, existing_run
from seesay.training.warm_start import warm_start

log = logging.getLogger("seesay")

VALIDATION_CAPTIONS = 320
"""Captions per validation batch."""


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run.

    Attributes:
        folder: the run folder.
        epochs: number of epochs trained.
        best: best value of the monitored metric (CIDEr times 100, as in published tables).
        best_epoch: its epoch, from 1.
        stopped_by: "epochs", "patience", or "nothing to do" if the run was already finished.
        seconds: time spent in training steps.
    """

    folder: Path
    epochs: int
    best: float
    best_epoch: int
    stopped_by: str
    seconds: float


def train(
    config: Config,
    data: str | Path,
    out: str | Path,
    *,
    features: str | Path = "features",
    stores: Sequence[str | Path] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
    step_progress: StepProgress | None = None,
) -> TrainingResult:
    """Train a captioner and write its run folder.

    An unfinished run in `out` with the same configuration and captions resumes exactly from its last saved state,
    which is saved every `training.checkpoint_every` steps, at the end of each epoch, and on SIGINT or SIGTERM.

    Args:
        config: the configuration.
        data: any data set that `load_annotations` reads.
        out: the run folder.
        features: folder of feature stores; missing stores of this data and encoder are extracted.
        stores: feature stores to use instead, concatenated along F; may include stores of mirrored images.
        overwrite: delete an existing run.
        progress: called with the number of images encoded.
        step_progress: called after each step of training and validation.

    Raises:
        SeesayError: invalid data or configuration, a store of another encoder, a full disk; or `out` contains the data,
            has foreign files under a run's names, or is in use by another process.
    """
    inputs = LazyInputs(
        lambda: read_captions(config, data),
        lambda annotations: open_training_data(config, annotations, data, features, stores, progress),
    )
    check_folder(out, RUN, inputs=[data, *stores])
    callbacks = [StepReport(step_progress)] if step_progress else []
    return train_on(config, inputs, out, overwrite=overwrite, callbacks=callbacks)


def train_on(
    config: Config,
    inputs: LazyInputs,
    out: str | Path,
    *,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
    stop: StopRequest | None = None,
) -> TrainingResult:
    """Train like `train` on inputs that the caller opens, so that several runs can share them.

    Args:
        config: the configuration.
        inputs: the captions and features; the features are opened only if there is something to train.
        out: the run folder.
        overwrite: delete an existing run.
        callbacks: Lightning callbacks, called after a validation is written to metrics.csv and before its weights are
            saved.
        stop: request by which the caller can stop training once its state is saved.

    Raises:
        SeesayError: see `train`.
    """
    check_config(config)
    out = Path(out)
    if config.training.init_from and Path(config.training.init_from).resolve() == out.resolve():
        raise ConfigError(
            f"training.init_from is {config.training.init_from}, the run folder itself; choose another --out"
        )
    check_folder(out, RUN)
    with ExitStack() as stack:
        with rank_zero_first(config.training):
            if rank() == 0:
                stack.enter_context(only_writer_of(out, RUN))
            prepared = _prepare(config, inputs, out, overwrite and rank() == 0)
        if prepared is None:
            return _result(out, load_run(out).info, "nothing to do")
        return _fit(config, out, prepared, callbacks, stop or StopRequest())


class _Prepared(NamedTuple):
    """The inputs and metadata with which training starts or resumes."""

    info: RunInfo
    tokenizer: Tokenizer
    inputs: Inputs


def _prepare(config: Config, source: LazyInputs, out: Path, overwrite: bool) -> _Prepared | None:
    """Create or open the run folder and the features; return None if the run is finished."""
    run = existing_run(out, config, overwrite)
    annotations = source.annotations()
    captions = describe_captions(annotations)
    changes = _changes(run, captions)
    if run is not None and run.info.progress.get("finished"):
        log.log(
            logging.WARNING if changes else logging.INFO,
            "%s is already finished%s; --overwrite trains it again",
            out,
            f", on other data ({changes})" if changes else "",
        )
        return None
    resumed = _resumed(run, out, changes)
    training_data = source.training_data(annotations)
    tokenizer = resumed.tokenizer if resumed else build_tokenizer(annotations, config)
    inputs = make_inputs(training_data, tokenizer)
    if resumed is None:
        info = replace(_describe_run(config, training_data.data, tokenizer, inputs), captions=captions)
        (out / LAST_FILE).unlink(missing_ok=True)  # left by an interrupted deletion
        save_run(out, config, info, tokenizer)
    else:
        info = resumed.info
        if inputs.store is not None:
            inputs.store.require(info.features)
    return _Prepared(info, tokenizer, inputs)


def _changes(run: Run | None, captions: dict[str, str]) -> str:
    """Return how the captions differ from those of a run; empty if they do not."""
    if run is None or not run.info.captions:
        return ""
    return "; ".join(differences({"data": run.info.captions}, {"data": captions}))


def _resumed(run: Run | None, out: Path, changes: str) -> Run | None:
    """Return the unfinished run to resume, or None if training starts, as in a run without a saved state.

    Raises:
        DataError: the captions have changed since the state was saved.
    """
    if run is None or rank() > 0:  # rank 0 has checked it
        return run
    if not (out / LAST_FILE).is_file():
        if changes:
            log.warning("%s saved no state before its data changed (%s); training starts again", out, changes)
        return None
    if changes:
        raise DataError(
            f"{out} was started on other data ({changes}); restore the data, choose another --out, or discard the run "
            "with --overwrite"
        )
    return run


def _fit(
    config: Config, out: Path, prepared: _Prepared, callbacks: Sequence[Callback], stop: StopRequest
) -> TrainingResult:
    info, tokenizer, inputs = prepared
    module = _build_module(config, info, tokenizer, inputs)
    last = out / LAST_FILE
    if config.training.init_from and not last.is_file():
        warm_start(module.model, config, info, tokenizer)
    in_loop = inputs.store is None
    stored = inputs.encoder if info.encoder_stored and not in_loop else None
    best = BestModel(out, info, stored, config.training.monitor)
    preprocessing = inputs.encoder.preprocessing if inputs.encoder else None
    validation = CaptionBatches(inputs.val, inputs.store, preprocessing, VALIDATION_CAPTIONS, shuffle=False)
    shared = ShareBatches([module.batches, validation])
    with quiet_lightning():
        metrics = MetricsLog(out / "metrics.csv", config.training.log_every)
        trainer = build_trainer(config, out, [shared, metrics, *callbacks, best], stop)
    log.info(
        "training %s parameters on %d captions of %d images",
        f"{count_parameters(module.model):,}",
        module.batches.captions,
        len(inputs.train),
    )
    warn_of_warmup(config.training, config.training.epochs * len(module.batches))
    with quiet_lightning(), interruptible(trainer, stop, out):
        trainer.fit(module, module.batches, validation, ckpt_path=last if last.is_file() else None)
    result = _conclude(config, out, best, module.seconds, trainer.is_global_zero)
    if stop.signal is not None:  # received during the last validation
        stop.end(out, trainer.is_global_zero)
    return result


def _conclude(config: Config, out: Path, best: BestModel, seconds: float, is_rank_zero: bool) -> TrainingResult:
    """Plot the training curves and mark the run as finished."""
    epochs = int(best.info.progress["epochs"])
    stopped_by = "epochs" if epochs >= config.training.epochs else "patience"
    if is_rank_zero:
        training_curves(out / "metrics.csv", out / "curves.png")
    final = update_progress(out if is_rank_zero else None, best.info, finished=True, stopped_by=stopped_by)
    log.info(
        "best %s %.*f at epoch %d; stopped by %s after %s of training",
        config.training.monitor,
        4 if config.training.monitor == "val_loss" else 1,
        best.best,
        best.best_epoch,
        stopped_by,
        format_duration(seconds),
    )
    return _result(out, final, stopped_by)


def _result(out: Path, info: RunInfo, stopped_by: str) -> TrainingResult:
    done = info.progress
    return TrainingResult(out, done["epochs"], done["best"], done["best_epoch"], stopped_by, done["seconds"])


def _describe_run(config: Config, data: str, tokenizer: Tokenizer, inputs: Inputs) -> RunInfo:
    source: Any = inputs.store if inputs.store is not None else inputs.encoder
    joined = inputs.store.stores if inputs.store is not None else []
    identity = source.identity
    from_hub = config.encoder.encoder_weights == "pretrained" and config.encoder.encoder != SMALL_CNN
    return RunInfo(
        vocabulary_size=len(tokenizer),
        feature_size=source.feature_size,
        grid=source.grid,
        max_length=max(example.length for example in inputs.train) - 2,
        features=identity,
        encoder_stored=inputs.encoder is not None and (inputs.store is None or not from_hub),
        data=data,
        source_sizes=[store.feature_size for store in joined] if len(joined) > 1 else [],
    )


def _build_module(config: Config, info: RunInfo, tokenizer: Tokenizer, inputs: Inputs) -> CaptioningModule:
    torch.manual_seed(config.training.seed)
    in_loop = inputs.store is None
    model = build_model(config.model, info.vocabulary_size, info.feature_size, inputs.encoder if in_loop else None)
    if config.model.log_frequency_bias:
        init_bias_from_frequencies(model.decoder, count_words(inputs.train, info.vocabulary_size))
    model.train()  # Lightning keeps the modes of modules, and an encoder is in evaluation mode
    batches = CaptionBatches(
        inputs.train,
        inputs.store,
        inputs.encoder.preprocessing if inputs.encoder else None,
        config.training.batch_captions,
        seed=config.training.seed,
        augmentation=Augmentation(config.training.hflip_prob, config.training.crop_fraction),
        mirrored=inputs.mirrored,
    )
    references = {item.id: item.captions for item in inputs.annotations.split("val")}
    graphs, critic = uses_graphs(config.training, model), None
    if config.training.second_stage:
        kind = GraphedCritic if graphs else SelfCritic
        critic = make_critic(config.training, config.decoding, info.max_length, inputs.train, kind)
    steps = GraphedTrainStep(model, config.training.label_smoothing) if graphs else None
    return CaptioningModule(model, config, tokenizer, batches, references, info.max_length, critic, steps)
