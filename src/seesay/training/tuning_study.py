"""The record of a search in a SQLite file: what was tried, what came of it, and what to try next."""

import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from seesay.config import Config
from seesay.errors import CheckpointError, ConfigError, MissingDependencyError
from seesay.training.tuning_space import Choices, Dimension, Space, value_of
from seesay.training.validation import differences

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

STUDY_FILE = "study.db"
_RANDOM_TRIALS = 8
"""Trials drawn at random before the sampler goes by what came of them."""
_COMPLETE_BEFORE_PRUNING = 4
_COMPLETE_BEFORE_IMPORTANCE = 12


@dataclass(frozen=True)
class TrialRecord:
    """What came of a trial.

    Attributes:
        number: counted from 0, the trial of the defaults.
        state: "complete", "pruned" or "failed".
        value: CIDEr (times 100, as in published tables) of the weights it kept, on validation; a pruned trial's is that
            of its best epoch; None of one that failed.
        epochs: done, and `best_epoch` that of the weights kept, 0 if there are none.
        seconds: in training steps.
        config: all of its settings, and `settings` those that are searched.
        reason: why it failed.
    """

    number: int
    state: Literal["complete", "pruned", "failed"]
    value: float | None
    epochs: int
    best_epoch: int
    seconds: float
    config: Config
    settings: Mapping[str, Any]
    reason: str = ""


@dataclass(frozen=True)
class Attempt:
    """A trial that is to be trained, or to be trained on.

    Attributes:
        number: as in `TrialRecord`.
        trial: Optuna's.
        told: epoch -> CIDEr, of attempts at the same trial that were broken off.
        is_retry: there were such attempts.
    """

    number: int
    trial: "Trial"
    told: Mapping[int, float]
    is_retry: bool


def require_optuna() -> None:
    """Raises the error that says how to install Optuna, if it is not.

    Raises:
        MissingDependencyError: it is not.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("Optuna", "tune", "a search for settings") from error


@contextmanager
def open_study(folder: Path, warmup_epochs: int) -> Iterator["optuna.Study"]:
    """Yields the study of a folder, new or to go on with; no other process has it meanwhile.

    Args:
        folder: holds or will hold it.
        warmup_epochs: before this epoch no trial is pruned.

    Raises:
        ConfigError: another process is at work in the folder.
        CheckpointError: the study is damaged, or cannot be written.
    """
    import optuna

    connect = partial(sqlite3.connect, folder / STUDY_FILE, check_same_thread=False)
    pruner = optuna.pruners.MedianPruner(_COMPLETE_BEFORE_PRUNING, warmup_epochs, n_min_trials=_COMPLETE_BEFORE_PRUNING)
    with _told_in_a_line(folder), _quiet_optuna():
        with _told_in_a_line(folder, RuntimeError):  # what Optuna raises at a file of another version
            storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": connect})
        try:
            yield optuna.create_study(
                storage=storage, study_name="tune", direction="maximize", pruner=pruner, load_if_exists=True
            )
        finally:
            storage.remove_session()
            storage.engine.dispose()


@contextmanager
def _told_in_a_line(folder: Path, *further: type[Exception]) -> Iterator[None]:
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    storage_errors: tuple[type[Exception], ...] = (StorageInternalError, SQLAlchemyError, sqlite3.Error, *further)
    try:
        yield
    except storage_errors as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise CheckpointError(
            f"{folder / STUDY_FILE} is damaged or cannot be written ({reason}); mend that, or begin with --overwrite"
        ) from error


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    from optuna import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)


def hold_to(study: "optuna.Study", settings: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Keeps the settings of a study without trials with it, and refuses others later: trials would not be comparable.

    Args:
        study: new or to go on with.
        settings: sections of named values that JSON can hold.
        folder: of the study, for the message.

    Raises:
        ConfigError: the study has others.
    """
    if "settings" not in study.user_attrs or not study.get_trials(deepcopy=False):
        study.set_user_attr("settings", settings)
    if found := differences(study.user_attrs["settings"], settings):
        raise ConfigError(
            f"{folder} holds a search with other settings ({'; '.join(found[:3])}); choose another --out, or throw "
            "it away with --overwrite"
        )


def close_broken(study: "optuna.Study") -> None:
    """Marks trials that a process left behind as failed, without a reason: `begin` takes them up again."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def records(study: "optuna.Study", space: Space) -> list[TrialRecord]:
    """Returns what came of each trial, those left out that were broken off."""
    return [_record(number, trial, space) for number, trial in enumerate(_counted(study))]


def begin(study: "optuna.Study", space: Space, seed: int) -> Attempt:
    """Returns the next trial: one that waits in Optuna's line, or was broken off, the defaults, or a new proposal.

    The sampler is seeded for each trial anew, by the seed and the trial's number: one that was seeded once would,
    after a stop, propose again what it proposed at first.

    Args:
        study: no trial of it is running.
        space: of the search.
        seed: of the search.
    """
    import optuna

    number, broken = len(_counted(study)), _broken_off(study)
    names = list(space.defaults() if number == 0 else space.dimensions)
    started = [trial.params for trial in broken if trial.params.keys() == set(names)]
    given = started[-1] if started else space.defaults() if number == 0 else {}
    if given and not study.get_trials(states=(optuna.trial.TrialState.WAITING,)):
        study.enqueue_trial(given)
    study.sampler = optuna.samplers.TPESampler(
        seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]), n_startup_trials=_RANDOM_TRIALS
    )
    trial = study.ask({name: _distribution(space.dimensions[name]) for name in names})
    told: dict[int, float] = {}
    same = [earlier for earlier in broken if earlier.params == trial.params]
    for earlier in same:  # another may have been put in line by hand, and is then tried instead
        told |= earlier.intermediate_values
    return Attempt(number, trial, told, bool(same))


def importances(study: "optuna.Study") -> dict[str, float]:
    """Returns the share of each setting in what made good trials good, the largest first; nothing after few trials.

    Watanabe et al. 2023, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces", of
    the best quarter of the trials. A hint, not a measurement: it comes from as many values as there are trials.
    """
    import optuna

    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < _COMPLETE_BEFORE_IMPORTANCE:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _record(number: int, trial: "FrozenTrial", space: Space) -> TrialRecord:
    told, kept = trial.intermediate_values, trial.user_attrs
    states: dict[str, Any] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    values = {"COMPLETE": trial.value, "PRUNED": max(told.values(), default=None)}
    config = space.config(trial.params)
    return TrialRecord(
        number,
        states[trial.state.name],
        values.get(trial.state.name),
        kept.get("epochs", max(told, default=0)),
        kept.get("best_epoch", 0),
        kept.get("seconds", 0.0),
        config,
        {name: value_of(config, name) for name in space.dimensions},
        kept.get("reason", ""),
    )


def _counted(study: "optuna.Study") -> list["FrozenTrial"]:
    """Returns the trials that came to an end."""
    return [trial for trial in study.get_trials(deepcopy=False) if _has_ended(trial)]


def _broken_off(study: "optuna.Study") -> list["FrozenTrial"]:
    """Returns the attempts at the trial whose turn it is: those after the last that came to an end."""
    broken: list[FrozenTrial] = []
    for trial in study.get_trials(deepcopy=False):
        if _has_ended(trial):
            broken = []
        elif trial.state.name == "FAIL":
            broken.append(trial)
    return broken


def _has_ended(trial: "FrozenTrial") -> bool:
    return trial.state.name in ("COMPLETE", "PRUNED") or (trial.state.name == "FAIL" and "reason" in trial.user_attrs)


def _distribution(dimension: Dimension) -> "BaseDistribution":
    from optuna import distributions

    if isinstance(dimension, Choices):
        return distributions.CategoricalDistribution(dimension.values)
    low, high, step, log = dimension.low, dimension.high, dimension.step, dimension.log
    if isinstance(low, int) and isinstance(high, int):
        return distributions.IntDistribution(low, high, log=log, step=int(step) or 1)
    return distributions.FloatDistribution(low, high, log=log, step=step or None)
