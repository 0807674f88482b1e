"""The record of a search: an Optuna study in a SQLite file. It proposes the next trial and resumes unfinished ones."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from seesay.config import Config
from seesay.errors import CheckpointError, MissingDependencyError
from seesay.training.tuning.space import Space, value_of

if TYPE_CHECKING:
    import optuna

_RANDOM_TRIALS = 9
"""Trials before the sampler uses the earlier ones: the defaults and eight drawn at random."""
_COMPLETE_BEFORE_PRUNING = 4
_STATES: Mapping[str, Literal["complete", "pruned", "failed"]] = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
}


@dataclass(frozen=True)
class TrialRecord:
    """The outcome of a trial.

    Attributes:
        number: counted from 0, the trial of the defaults.
        state: "complete", "pruned" or "failed".
        value: validation CIDEr (times 100, as in published tables) of the weights kept, or of the best epoch of a
            pruned trial; None if the trial failed.
        epochs: epochs done.
        best_epoch: epoch of the weights kept; 0 if there are none.
        seconds: time spent in training steps.
        config: every option of the trial.
        settings: the options that are searched.
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


def require_optuna() -> None:
    """Raise an error that says how to install Optuna, if it is absent.

    Raises:
        MissingDependencyError: it is.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("Optuna", "tune", "a search for settings") from error


@contextmanager
def open_study(file: Path, warmup_epochs: int) -> Iterator["optuna.Study"]:
    """Yield the study in a file, which is created if it is absent; no other process may use it meanwhile.

    Args:
        file: a SQLite database.
        warmup_epochs: no trial is pruned before this epoch.

    Raises:
        CheckpointError: the file is damaged, or cannot be written.
    """
    import optuna

    # A URL would give characters of the path, such as ?, a meaning.
    connect = partial(sqlite3.connect, file, check_same_thread=False)
    pruner = optuna.pruners.MedianPruner(_COMPLETE_BEFORE_PRUNING, warmup_epochs, n_min_trials=_COMPLETE_BEFORE_PRUNING)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _one_line_errors(file):
        with _one_line_errors(file, RuntimeError):  # of a file of another version of Optuna
            storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": connect})
        try:
            yield optuna.create_study(
                storage=storage, study_name="tune", direction="maximize", pruner=pruner, load_if_exists=True
            )
        finally:
            storage.remove_session()
            storage.engine.dispose()


@contextmanager
def _one_line_errors(file: Path, *further: type[Exception]) -> Iterator[None]:
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    errors: tuple[type[Exception], ...] = (StorageInternalError, SQLAlchemyError, sqlite3.Error, *further)
    try:
        yield
    except errors as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise CheckpointError(
            f"{file} is damaged or cannot be written ({reason}); fix that, or start again with --overwrite"
        ) from error


def next_trial(study: "optuna.Study", space: Space, seed: int) -> "tuple[optuna.Trial, bool]":
    """Return the next trial, and whether an earlier process began it and did not finish it.

    It is a trial without an outcome, one enqueued by the user, the defaults, or a proposal of Optuna's
    tree-structured Parzen estimator. The proposal of a number depends on the seed and on the earlier trials only.
    """
    import optuna
    from optuna.trial import TrialState

    unfinished = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if not unfinished and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial(_propose(study, space, seed) if study.trials else space.defaults())
    trial = optuna.Trial(study, unfinished[0]._trial_id) if unfinished else study.ask()
    for name in space.dimensions if trial.number else space.defaults():
        trial._suggest(name, space.dimensions[name])  # of values that are fixed or stored already
    return trial, bool(unfinished)


def _propose(study: "optuna.Study", space: Space, seed: int) -> dict[str, Any]:
    """Return the values of the next trial, from a copy in memory: a kill must not leave half of a trial in the file."""
    import optuna

    seed = int(np.random.SeedSequence([seed, len(study.trials)]).generate_state(1)[0])
    copy = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS)
    )
    copy.add_trials(study.trials)
    return copy.ask(dict(space.dimensions)).params


def config_of(trial: "optuna.Trial | optuna.trial.FrozenTrial", space: Space) -> Config:
    """Return every option of a trial; the first has the defaults, whether the space contains them or not."""
    return space.config(trial.params) if trial.number else space.base


def records(study: "optuna.Study", space: Space) -> list[TrialRecord]:
    """Return the trials that have an outcome."""
    return [_record(trial, space) for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def _record(trial: "optuna.trial.FrozenTrial", space: Space) -> TrialRecord:
    state, reported, config = _STATES[trial.state.name], trial.intermediate_values, config_of(trial, space)
    return TrialRecord(
        trial.number,
        state,
        max(reported.values()) if state == "pruned" else trial.value,
        max(reported, default=0),
        trial.user_attrs.get("best_epoch", 0),
        trial.user_attrs.get("seconds", 0.0),
        config,
        {name: value_of(config, name) for name in space.dimensions},
        trial.user_attrs.get("reason", ""),
    )
