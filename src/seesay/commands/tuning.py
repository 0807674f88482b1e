"""The search for settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from seesay import config as configuration
from seesay.commands.parameters import (
    DEFAULT_PRESET,
    NOT_GIVEN,
    ConfigFile,
    Features,
    Flat,
    Preset,
    Stores,
    TrainFlags,
)
from seesay.console import progress, say, show_table, step_progress
from seesay.flags import provided_flags

if TYPE_CHECKING:
    from seesay.training.tune import TuningResult
    from seesay.training.tuning_study import TrialRecord

_ROWS = 20
"""Trials that are shown; the file has all."""


def tune(
    data: Path,
    *,
    preset: Preset = DEFAULT_PRESET,
    out: Path | None = None,
    config: ConfigFile = None,
    trials: int = 20,
    timeout: float = 0.0,
    space: Annotated[Path | None, Parameter(help="YAML file of what is searched; docs/tuning.md shows one")] = None,
    prune: bool = True,
    features: Features = Path("features"),
    store: Stores = None,
    overwrite: bool = False,
    flags: Annotated[TrainFlags, Flat] = NOT_GIVEN["TrainFlags"],
) -> None:
    """Search for settings of a preset that do better on validation; the first trial has the preset's own.

    A setting that is given as a flag stays what it is in all trials. A search that was stopped goes on by the same
    command.

    Args:
        data: captions and images in any form `seesay data check` can read.
        out: folder of the search [default: runs/PRESET-tune].
        trials: trainings in all, those before a stop among them.
        timeout: minutes after which to stop, in the midst of a trial that the same command goes on with; 0 = never.
        prune: give up trials that are behind the others after a quarter of their epochs.
        overwrite: throw away the search in --out.
    """
    from seesay.training.tune import tune as search

    overrides = provided_flags(flags)
    settings = configuration.resolve_config(preset, config, overrides)
    with progress("encoding", "images") as advance, step_progress() as step:
        result = search(
            settings,
            data,
            out or Path("runs") / f"{preset or 'config'}-tune",
            trials=trials,
            timeout=timeout,
            space=space,
            fixed=overrides,
            prune=prune,
            features=features,
            stores=store or (),
            overwrite=overwrite,
            progress=advance,
            step_progress=step,
        )
    _show(result, data)


def _show(result: "TuningResult", data: Path) -> None:
    """Prints the best trials, the best against the defaults, and what to do with it."""
    ranked = sorted(result.trials, key=lambda trial: (trial.state != "complete", -(trial.value or 0.0), trial.number))
    rows = [_row(trial) for trial in ranked[:_ROWS]]
    title = f"{len(rows)} of {len(ranked)} trials, the best first (all in {result.folder}/trials.csv)"
    show_table(title, ("trial", "state", "val CIDEr", "best epoch", "epochs", "minutes"), rows)
    for trial in ranked:
        if trial.reason:
            say(f"trial {trial.number} failed: {trial.reason}")
    best, default = result.best, result.default
    share = {name: f"{100 * value:.0f} %" for name, value in result.importance.items()}
    header = ("setting", "default", "best", *(("importance",) if share else ()))
    names = sorted(best.settings, key=lambda name: -result.importance.get(name, 0.0))
    table = [
        (name, _text(default.settings[name]), _text(best.settings[name]), *((share.get(name, ""),) if share else ()))
        for name in names
    ]
    table.insert(0, ("val CIDEr", _score(default), _score(best), *(("",) if share else ())))
    against = f"trial {best.number} against the defaults" if best.number else "no trial did better than the defaults"
    show_table(against, header, table)
    stopped = "" if result.stopped_by == "trials" else "the time is up; the same command goes on\n"
    say(
        f"{stopped}the best of many on validation is better there than elsewhere: judge it on the test split with\n"
        f"  seesay evaluate {result.run} {data}\n"
        f"and with further seeds:\n"
        f"  seesay train {data} --config {result.folder}/best.yaml --seed 1 --out {result.folder}-seed-1"
    )


def _row(trial: "TrialRecord") -> Sequence[str]:
    name = f"{trial.number} (defaults)" if trial.number == 0 else str(trial.number)
    best_epoch = str(trial.best_epoch or "")
    return name, trial.state, _score(trial), best_epoch, str(trial.epochs), f"{trial.seconds / 60:.1f}"


def _score(trial: "TrialRecord") -> str:
    return "" if trial.value is None else f"{trial.value:.1f}"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
