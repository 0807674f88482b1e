"""`tune`: many trainings on the same images, each with the settings that those before it recommend."""

import json
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seesay.allocation import return_freed_memory
from seesay.checkpoint import is_run
from seesay.config import Config, replace, to_dict
from seesay.data.records import Annotations
from seesay.devices import choose_device
from seesay.errors import ConfigError
from seesay.features.extraction import Progress
from seesay.formatting import format_duration
from seesay.outputs import check_folder, only_writer_of
from seesay.training.callbacks import StepProgress
from seesay.training.inputs import LazyInputs, TrainingData, describe_captions, open_training_data, read_captions
from seesay.training.tuning_files import SEARCH, best_of, clear, settle, trial_folder
from seesay.training.tuning_space import Space, default_space, read_space, value_of
from seesay.training.tuning_study import (
    Attempt,
    TrialRecord,
    begin,
    close_broken,
    hold_to,
    importances,
    open_study,
    records,
    require_optuna,
)
from seesay.training.tuning_trial import TrialWatch, run_trial
from seesay.training.validation import check_config

if TYPE_CHECKING:
    import optuna

log = logging.getLogger("seesay")


@dataclass(frozen=True)
class TuningResult:
    """What a search has found so far.

    Attributes:
        folder: of the search; `best.yaml` and `trials.csv` are in it.
        trials: all that came to an end, the first with the defaults.
        best: of those that were trained to their end.
        run: the best trial's run folder.
        importance: share of each setting in what made good trials good; empty after few trials.
        stopped_by: "trials" or "timeout".
    """

    folder: Path
    trials: tuple[TrialRecord, ...]
    best: TrialRecord
    run: Path
    importance: Mapping[str, float]
    stopped_by: str

    @property
    def default(self) -> TrialRecord:
        """The trial of the settings that the search started from."""
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
    """Searches for settings by which the validation's CIDEr is higher, and returns what it found.

    A trial is a training; what it is worth is the CIDEr of the weights that it would keep. The first has the settings
    of `config`, the next eight are drawn at random, the rest by the tree-structured Parzen estimator (Bergstra et al.
    2011, "Algorithms for Hyper-Parameter Optimization"). A search that was stopped goes on by the same call, the
    trial that it was at too; it ends as if it had not been stopped.

    Args:
        config: every setting where a trial says nothing else; `training.seed` is the search's too.
        data: anything `load_annotations` reads.
        out: folder of the search.
        trials: how many in all, those of earlier calls among them.
        timeout: minutes from the first trial on after which this call ends, in the midst of a trial that the next call
            goes on with; 0 = never.
        space: what is searched, see `read_space`; None = `default_space`.
        fixed: settings that the search leaves alone.
        prune: give up a trial that, after a quarter of its epochs, has done worse than half of the others had.
        features: folder of feature stores; those for this data and encoder are made if they are absent.
        stores: given stores to use instead, joined along F, those of mirrored images among them.
        overwrite: throw away a search that is there.
        progress: told of images encoded, if any have to be.
        step_progress: called after each step of training and validation.

    Raises:
        MissingDependencyError: Optuna is not installed.
        ConfigError: a space or settings that cannot work, or no trial came to its end.
        SeesayError: as by `train`, where it is no fault of a trial's own settings.
    """
    require_optuna()
    folder = Path(out)
    _refuse(config, folder, trials, timeout)
    named_space = space if isinstance(space, (str, Path)) else None
    check_folder(folder, SEARCH, inputs=[data, named_space, *stores])
    searched = None if space is None else read_space(config, space, fixed)

    def open_(annotations: Annotations) -> TrainingData:
        return open_training_data(_reading_most(config, searched), annotations, data, features, stores, progress)

    annotations = read_captions(config, data)
    material = open_(annotations)
    if searched is None:
        captions = sum(len(item.captions) for item in annotations.split("train"))
        searched = default_space(config, fixed, captions)
    in_loop = material.store is None  # then every trial needs an encoder of its own to train
    with only_writer_of(folder, SEARCH):
        if overwrite:
            clear(folder)
        with open_study(folder, warmup_epochs=1 + config.training.epochs // 4) as study:
            hold_to(study, _identity(searched, material), folder)
            close_broken(study)
            deadline = time.monotonic() + 60 * timeout if timeout else None
            inputs = LazyInputs(lambda: annotations, open_ if in_loop else lambda _: material)
            search = _Search(study, searched, folder, inputs, prune, deadline, step_progress)
            return search.run(trials)


@dataclass
class _Search:
    """A search at work."""

    study: "optuna.Study"
    space: Space
    folder: Path
    inputs: LazyInputs
    prune: bool
    deadline: float | None
    step_progress: StepProgress | None

    def run(self, trials: int) -> TuningResult:
        """Trains until there are so many trials, or the time is up."""
        done, stopped_by = self._settle(), "trials"
        while len(done) < trials and stopped_by == "trials":
            attempt = begin(self.study, self.space, self.space.base.training.seed)
            config = self.space.config(attempt.trial.params)
            self._announce(attempt, config, trials)
            run = trial_folder(self.folder, attempt.number)
            watch = TrialWatch(attempt, self.prune, self.deadline)
            run_trial(self.study, watch, config, self.inputs, run, step_progress=self.step_progress)
            return_freed_memory()  # or each trial leaves the process some 300 MB larger
            done = self._settle()
            if len(done) > attempt.number:
                log.info("%s", _outcome(done))
            if self.deadline is not None and time.monotonic() >= self.deadline and len(done) < trials:
                stopped_by = "timeout"
        return self._result(done, stopped_by)

    def _settle(self) -> list[TrialRecord]:
        """Brings the folder to what the study holds, and returns that."""
        done = records(self.study, self.space)
        settle(self.folder, done)
        return done

    def _announce(self, attempt: Attempt, config: Config, trials: int) -> None:
        changed = [name for name in self.space.dimensions if value_of(config, name) != value_of(self.space.base, name)]
        words = ", ".join(f"{name} {value_of(config, name)}" for name in changed) or "the defaults"
        again = ", begun before" if attempt.is_retry else ""
        log.info("trial %d (%d of %d%s): %s", attempt.number, attempt.number + 1, trials, again, words)

    def _result(self, done: Sequence[TrialRecord], stopped_by: str) -> TuningResult:
        best = best_of(done)
        if best is None:
            if stopped_by == "timeout":
                raise ConfigError("the time was up before a trial came to its end; the same command goes on from here")
            first = next(trial for trial in done if trial.reason)
            raise ConfigError(
                f"none of the {len(done)} trials came to its end, the first because: {first.reason} "
                "(after mending it, begin with --overwrite)"
            )
        run = trial_folder(self.folder, best.number)
        return TuningResult(self.folder, tuple(done), best, run, importances(self.study), stopped_by)


def _refuse(config: Config, folder: Path, trials: int, timeout: float) -> None:
    """Refuses what no trial could work with, before anything is read."""
    check_config(config)
    choose_device(config.training.device)
    if config.training.scst:
        raise ConfigError("training.scst is a second stage; search the settings of the first, without --scst")
    if trials < 1 or not timeout >= 0:
        raise ConfigError(f"a search takes 1 or more trials, not {trials}, and a timeout of 0 or more minutes")
    if is_run(folder):
        raise ConfigError(f"{folder} holds a run; choose another --out for the search")


def _reading_most(config: Config, space: Space | None) -> Config:
    """Returns settings that read all which any trial may: mirrored images, where only some trials show them."""
    dimension = None if space is None else space.dimensions.get("hflip_prob")
    return config if dimension is None else replace(config, hflip_prob=max(dimension.samples()))


def _identity(space: Space, material: TrainingData) -> dict[str, Any]:
    """Returns what all trials of a search have in common, in sections, as JSON gives it back."""
    sections = {
        **to_dict(space.base),
        "space": {name: dimension.plain() for name, dimension in space.dimensions.items()},
        "data": {**to_dict(space.base)["data"], **describe_captions(material.annotations)},
        "features": {} if material.store is None else material.store.identity,
    }
    plain: dict[str, Any] = json.loads(json.dumps(sections))
    return plain


def _outcome(done: Sequence[TrialRecord]) -> str:
    """Returns a line on the last trial."""
    trial, best = done[-1], best_of(done)
    if trial.value is None:
        told = "failed"
    else:
        given_up = "given up at" if trial.state == "pruned" else "has"
        told = f"{given_up} CIDEr {trial.value:.1f} after {format_duration(trial.seconds)} of training"
    leader = f"; best is trial {best.number} with {best.value or 0:.1f}" if best else ""
    return f"trial {trial.number} {told}{leader}"
