"""`train`: trains a captioner from a configuration and writes its run folder."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch.callbacks import Callback

from seesay.checkpoint import LAST_FILE, RUN, RunInfo, RunRecord, read_run, save_used_images, update_progress
from seesay.config import Config
from seesay.errors import ConfigError, DataError
from seesay.explanation import training_curves
from seesay.features.extraction import Progress
from seesay.formatting import format_duration
from seesay.logs import visible_log
from seesay.models.captioning import count_parameters
from seesay.notebook import ResultTable
from seesay.outputs import check_folder, only_writer_of
from seesay.training.callbacks import BestModel, MetricsLog, ShareBatches, StepProgress, StepReport
from seesay.training.distributed import rank, rank_zero_first
from seesay.training.inputs import LazyInputs, describe_captions, open_training_data, read_captions
from seesay.training.interruption import StopRequest, interruptible
from seesay.training.network import NetworkRecipe
from seesay.training.recipe import PreparedRun, Recipe
from seesay.training.schedule import warn_of_warmup
from seesay.training.trainer import build_trainer, quiet_lightning
from seesay.training.validation import differences, existing_run

if TYPE_CHECKING:
    from rich.table import Table

log = logging.getLogger("seesay")


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

    def table(self) -> ResultTable:
        """Return the result, as notebooks and `rich.print` show it."""
        rows = [
            ("epochs", str(self.epochs)),
            ("best value", f"{self.best:.2f}"),
            ("best epoch", str(self.best_epoch)),
            ("stopped by", self.stopped_by),
            ("time in training steps", format_duration(self.seconds)),
        ]
        return ResultTable(f"run {self.folder}", ("training", "value"), rows)

    def __rich__(self) -> "Table":
        return self.table().rich()

    def _repr_html_(self) -> str:
        return self.table().html()


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
    The progress is logged at level INFO to the logger `seesay`, which writes to stderr unless logging is configured.

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
    recipe: Recipe
    if config.finetuning.model:
        from seesay.training.finetuning.recipe import FinetuningRecipe  # imports transformers

        recipe = FinetuningRecipe(config, data, stores)
    else:
        recipe = NetworkRecipe(
            config,
            LazyInputs(
                lambda: read_captions(config, data),
                lambda annotations: open_training_data(config, annotations, data, features, stores, progress),
            ),
        )
    check_folder(out, RUN, inputs=[data, *stores])
    callbacks = [StepReport(step_progress)] if step_progress else []
    with visible_log():
        return _train(recipe, out, overwrite=overwrite, callbacks=callbacks)


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
    return _train(NetworkRecipe(config, inputs), out, overwrite=overwrite, callbacks=callbacks, stop=stop)


def _train(
    recipe: Recipe,
    out: str | Path,
    *,
    overwrite: bool,
    callbacks: Sequence[Callback] = (),
    stop: StopRequest | None = None,
) -> TrainingResult:
    recipe.check()
    config, out = recipe.config, Path(out)
    if config.training.init_from and Path(config.training.init_from).resolve() == out.resolve():
        raise ConfigError(
            f"training.init_from is {config.training.init_from}, the run folder itself; choose another --out"
        )
    check_folder(out, RUN)
    with ExitStack() as stack:
        with rank_zero_first(config.training):
            if rank() == 0:
                stack.enter_context(only_writer_of(out, RUN))
            prepared = _prepare(recipe, out, overwrite and rank() == 0)
        if prepared is None:
            return _result(out, read_run(out).info, "nothing to do")
        return _fit(config, out, prepared, callbacks, stop or StopRequest())


def _prepare(recipe: Recipe, out: Path, overwrite: bool) -> PreparedRun | None:
    """Create or open the run folder and the inputs; return None if the run is finished."""
    annotations = recipe.annotations()  # first: an error here leaves the run as it is
    run = existing_run(out, recipe.config, overwrite)
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
    prepared = recipe.prepare(annotations, resumed)
    if resumed is None:
        prepared.info = replace(prepared.info, captions=captions)
        (out / LAST_FILE).unlink(missing_ok=True)  # left by an interrupted deletion
        prepared.save(out, recipe.config)
        save_used_images(out, {split: [item.id for item in annotations.split(split)] for split in ("train", "val")})
    return prepared


def _changes(run: RunRecord | None, captions: dict[str, str]) -> str:
    """Return how the captions differ from those of a run; empty if they do not."""
    if run is None or not run.info.captions:
        return ""
    return "; ".join(differences({"data": run.info.captions}, {"data": captions}))


def _resumed(run: RunRecord | None, out: Path, changes: str) -> RunRecord | None:
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
    config: Config, out: Path, prepared: PreparedRun, callbacks: Sequence[Callback], stop: StopRequest
) -> TrainingResult:
    last = out / LAST_FILE
    built = prepared.build(out, start=not last.is_file())
    module, batches = built.module, built.module.batches
    best = BestModel(out, prepared.info, config.training.monitor, built.save)
    shared = ShareBatches([batches, built.validation])
    with quiet_lightning():
        metrics = MetricsLog(out / "metrics.csv", config.training.log_every)
        trainer = build_trainer(config, out, [shared, metrics, *callbacks, best], stop)
    log.info(
        "training %s parameters on %d captions of %d images; %d images for validation",
        f"{count_parameters(module.model):,}",
        batches.captions,
        len(batches.examples),
        len(built.validation.examples),
    )
    warn_of_warmup(config.training, config.training.epochs * len(batches))
    with quiet_lightning(), interruptible(trainer, stop, out):
        trainer.fit(module, batches, built.validation, ckpt_path=last if last.is_file() else None)
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
