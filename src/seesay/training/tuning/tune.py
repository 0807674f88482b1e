"""`tune`: a search for better options by training many times on the same images, with Optuna."""

import csv
import io
import json
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from seesay.allocation import return_freed_memory
from seesay.checkpoint import RUN, is_run
from seesay.config import Config, replace, save_config, to_dict
from seesay.data.records import Annotations
from seesay.devices import choose_device
from seesay.errors import CheckpointError, ConfigError, SeesayError
from seesay.features.extraction import Progress
from seesay.files import write_atomically
from seesay.outputs import MARKER, FolderKind, check_folder, delete_own, only_writer_of
from seesay.training.callbacks import StepProgress, StepReport
from seesay.training.inputs import LazyInputs, TrainingData, describe_captions, open_training_data, read_captions
from seesay.training.interruption import StopRequest
from seesay.training.module import CaptioningModule
from seesay.training.train import train_on
from seesay.training.tuning.space import Space, default_space, read_space, samples
from seesay.training.tuning.study import (
    TrialRecord,
    config_of,
    next_trial,
    open_study,
    records,
    require_optuna,
)
from seesay.training.validation import check_config, differences

if TYPE_CHECKING:
    import optuna

log = logging.getLogger("seesay")

BEST_FILE = "best.yaml"
TRIALS_FILE = "trials.csv"
STUDY_FILE = "study.db"
SEARCH = FolderKind(
    "search",
    (BEST_FILE, TRIALS_FILE, f"{STUDY_FILE}-journal", STUDY_FILE),  # a killed process may leave a journal
    signature=(TRIALS_FILE, b"trial,state,val_cider,"),
)
"""The folder of a search; its trials are run folders in it."""
_KEPT = ("config.yaml", "metrics.csv", "curves.png", "tensorboard", MARKER)
"""Files kept of trials other than the best."""


@dataclass(frozen=True)
class TuningResult:
    """The outcome of a search so far.

    Attributes:
        folder: of the search; contains `best.yaml` and `trials.csv`.
        trials: all that have an outcome; the first has the defaults.
        best: the best of those that were trained to their end.
        run: the best trial's run folder.
        stopped_by: "trials" or "timeout".
    """

    folder: Path
    trials: tuple[TrialRecord, ...]
    best: TrialRecord
    run: Path
    stopped_by: str

    @property
    def default(self) -> TrialRecord:
        """The trial of the options that the search started from."""
        return self.trials[0]


def tune(
    config: Config,
    data: str | Path,
    out: str | Path,
    *,
    trials: int = 20,
    timeout: float = 0.0,
    space: str | Path | Mapping[str, Any] | None = None,
    fixed: Collection[str] = (),
    prune: bool = True,
    features: str | Path = "features",
    stores: Sequence[str | Path] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
    step_progress: StepProgress | None = None,
) -> TuningResult:
    """Search for options with a higher CIDEr on validation, and return the outcome.

    A trial is a training; its value is the CIDEr of the weights that it keeps. The first trial has the options of
    `config`, the next eight are random, the rest are proposed by the tree-structured Parzen estimator (Bergstra et al.
    2011, "Algorithms for Hyper-Parameter Optimization"). The same call resumes a search that was stopped, within a
    trial too, with the same outcome as without the stop.

    Args:
        config: the options of the first trial; `training.seed` seeds the search too.
        data: anything `load_annotations` reads.
        out: folder of the search.
        trials: number of trials, those of earlier calls included.
        timeout: minutes from the first trial of this call until it stops, within a trial if necessary; 0 = none.
        space: what is searched, see `read_space`; None = `default_space`.
        fixed: options that are not searched.
        prune: end a trial that, after a quarter of its epochs, is below the median of the others.
        features: folder of feature stores; those for this data and encoder are made if they are absent.
        stores: given stores to use instead, joined along F, those of mirrored images among them.
        overwrite: delete the search that is there.
        progress: called with the number of images encoded.
        step_progress: called after each step of training and validation.

    Raises:
        MissingDependencyError: Optuna is not installed.
        ConfigError: a space or options that cannot work, or no trial was trained to its end.
        SeesayError: as by `train`, unless the options of a trial are the cause.
    """
    require_optuna()
    folder = Path(out)
    _validate(config, folder, trials, timeout)
    space_file = space if isinstance(space, (str, Path)) else None
    check_folder(folder, SEARCH, inputs=[data, space_file, *stores])
    searched = None if space is None else read_space(config, space, fixed)

    def open_data(annotations: Annotations) -> TrainingData:
        return open_training_data(_with_mirrored(config, searched), annotations, data, features, stores, progress)

    annotations = read_captions(config, data)
    opened = open_data(annotations)
    if searched is None:
        searched = default_space(config, fixed, sum(len(item.captions) for item in annotations.split("train")))
    # Every trial needs an encoder of its own to train.
    inputs = LazyInputs(lambda: annotations, open_data if opened.store is None else lambda _: opened)
    with only_writer_of(folder, SEARCH):
        if overwrite:
            _delete(folder)
        with open_study(folder / STUDY_FILE, warmup_epochs=1 + config.training.epochs // 4) as study:
            _check_identity(study, _identity(searched, opened), folder)
            deadline = time.monotonic() + 60 * timeout if timeout else None
            return _Search(study, searched, folder, inputs, prune, deadline, step_progress).run(trials)


class _TimeUpError(Exception):
    """The search's time is up within a trial."""


class TrialWatch(Callback):
    """Reports each validation to the study; ends a trial that is to be pruned, or whose time is up.

    Args:
        trial: the trial.
        prune: whether it may be pruned.
        deadline: `time.monotonic()` at which it stops; None = never.

    Attributes:
        stop: request to the training, which saves its state first.
    """

    def __init__(self, trial: "optuna.Trial", prune: bool, deadline: float | None) -> None:
        self.trial = trial
        self.prune = prune
        self.deadline = deadline
        self.stop = StopRequest()
        self._reported = max(trial.study.trials[trial.number].intermediate_values, default=0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if the time is up."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            self.stop.ask(_TimeUpError())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the epoch, unless that was done before a kill; prune, except in the last epoch."""
        import optuna

        assert isinstance(pl_module, CaptioningModule)
        epoch = trainer.current_epoch + 1
        if epoch > self._reported:
            self.trial.set_user_attr("seconds", round(pl_module.seconds, 1))
            self.trial.report(float(trainer.callback_metrics["val_cider"]), epoch)
        if self.prune and epoch < (trainer.max_epochs or 0) and self.trial.should_prune():
            raise optuna.TrialPruned


@dataclass
class _Search:
    """A search in progress."""

    study: "optuna.Study"
    space: Space
    folder: Path
    inputs: LazyInputs
    prune: bool
    deadline: float | None
    step_progress: StepProgress | None

    def run(self, trials: int) -> TuningResult:
        """Train until there are so many trials, or the time is up."""
        done = self._update_files()
        stopped_by = "trials"
        while len(done) < trials and stopped_by == "trials":
            trial, resumed = next_trial(self.study, self.space, self.space.base.training.seed)
            config, run = config_of(trial, self.space), trial_folder(self.folder, trial.number)
            log.info("trial %d of %d%s: %s", trial.number, trials, ", resumed" * resumed, trial.params)
            if not resumed:
                delete_own(run, RUN)  # a remnant of a study that was deleted
            self._train(trial, config, run)
            return_freed_memory()  # or each trial leaves the process some 300 MB larger
            done = self._update_files()
            if len(done) > trial.number:
                log.info("trial %d %s: CIDEr %s %s", trial.number, done[-1].state, done[-1].value, done[-1].reason)
            if self.deadline is not None and time.monotonic() >= self.deadline and len(done) < trials:
                stopped_by = "timeout"
        return self._result(done, stopped_by)

    def _train(self, trial: "optuna.Trial", config: Config, run: Path) -> None:
        """Train a trial and record its outcome; none if the time was up before.

        Raises:
            CheckpointError: a full disk or a damaged file, which the trial's options did not cause.
        """
        import optuna

        watch = TrialWatch(trial, self.prune, self.deadline)
        callbacks = [watch, *([StepReport(self.step_progress)] if self.step_progress else [])]
        try:
            result = train_on(config, self.inputs, run, callbacks=callbacks, stop=watch.stop)
        except _TimeUpError:
            return
        except optuna.TrialPruned:
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except CheckpointError:
            raise
        except (SeesayError, torch.OutOfMemoryError) as error:
            is_ours = isinstance(error, SeesayError)
            trial.set_user_attr("reason", str(error) if is_ours else "the device has not enough memory for it")
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            trial.set_user_attr("best_epoch", result.best_epoch)
            value = self.study.trials[trial.number].intermediate_values[result.best_epoch]
            self.study.tell(trial, value)

    def _update_files(self) -> list[TrialRecord]:
        """Bring the folder's files up to date with the study, and return its records."""
        done = records(self.study, self.space)
        best = _best(done)
        for trial in done:
            if trial is not best:
                delete_own(trial_folder(self.folder, trial.number), RUN, keep=_KEPT)
        if best is not None:
            save_config(best.config, self.folder / BEST_FILE)
        if done:
            _write_table(self.folder / TRIALS_FILE, done)
        return done

    def _result(self, done: Sequence[TrialRecord], stopped_by: str) -> TuningResult:
        best = _best(done)
        if best is not None:
            run = trial_folder(self.folder, best.number)
            return TuningResult(self.folder, tuple(done), best, run, stopped_by)
        if stopped_by == "timeout":
            raise ConfigError("the time was up before the end of the first trial; run the same command to resume")
        raise ConfigError(
            f"none of the {len(done)} trials came to its end, the first because: {done[0].reason} "
            "(fix that, then start again with --overwrite)"
        )


def trial_folder(folder: Path, number: int) -> Path:
    """Return the run folder of a trial."""
    return folder / f"trial-{number:03d}"


def _validate(config: Config, folder: Path, trials: int, timeout: float) -> None:
    """Refuse what no trial could work with, before anything is read."""
    check_config(config)
    choose_device(config.training.device)
    if config.training.second_stage:
        raise ConfigError("training.scst_weight makes a second stage; search the settings of the first, without --scst")
    if trials < 1 or not timeout >= 0:
        raise ConfigError(f"a search takes 1 or more trials, not {trials}, and a timeout of 0 or more minutes")
    if is_run(folder):
        raise ConfigError(f"{folder} holds a run; choose another --out for the search")


def _with_mirrored(config: Config, space: Space | None) -> Config:
    """Return a configuration that reads the mirrored images which any trial may use."""
    dimension = None if space is None else space.dimensions.get("hflip_prob")
    return config if dimension is None else replace(config, hflip_prob=max(samples(dimension)))


def _identity(space: Space, opened: TrainingData) -> dict[str, Any]:
    """Return what all trials of a search have in common, in sections, as JSON returns it."""
    sections = {
        **to_dict(space.base),
        "space": {name: getattr(found, "choices", vars(found)) for name, found in space.dimensions.items()},
        "data": {**to_dict(space.base)["data"], **describe_captions(opened.annotations)},
        "features": {} if opened.store is None else opened.store.identity,
    }
    plain: dict[str, Any] = json.loads(json.dumps(sections))
    return plain


def _check_identity(study: "optuna.Study", identity: dict[str, Any], folder: Path) -> None:
    """Store what all trials have in common, or compare it with what an earlier call stored.

    Raises:
        ConfigError: they differ.
    """
    if not study.trials:
        study.set_user_attr("identity", identity)
    if found := differences(study.user_attrs["identity"], identity):
        raise ConfigError(
            f"{folder} holds a search with other settings ({'; '.join(found[:3])}); choose another --out, or start "
            "again with --overwrite"
        )


def _delete(folder: Path) -> None:
    """Delete a search; files that seesay did not write stay."""
    for run in folder.glob("trial-[0-9][0-9][0-9]*"):
        delete_own(run, RUN)
    delete_own(folder, SEARCH, keep=(MARKER,))  # whose lock this process holds


def _best(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the best of the trials that were trained to their end, the first of several; None if none was."""
    complete = [trial for trial in trials if trial.state == "complete"]
    return max(complete, key=lambda trial: trial.value or 0.0, default=None)


def _write_table(path: Path, trials: Sequence[TrialRecord]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["trial", "state", "val_cider", "epochs", "best_epoch", "seconds", *trials[0].settings, "reason"])
    for trial in trials:
        row = [trial.number, trial.state, trial.value, trial.epochs, trial.best_epoch, trial.seconds]
        writer.writerow([*row, *trial.settings.values(), trial.reason])
    write_atomically(path, text.getvalue().encode())
