"""`seesay tune`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from seesay import config as configuration
from seesay.cli.console import print_json, print_line, progress, show_table, step_progress
from seesay.cli.options import COMMON, Json
from seesay.cli.parameters import (
    DEFAULT_PRESET,
    ConfigFile,
    Features,
    Flat,
    Preset,
    Stores,
    TrainFlags,
)
from seesay.config.flags import given_flags

if TYPE_CHECKING:
    from seesay.training.tuning.study import TrialRecord
    from seesay.training.tuning.tune import TuningResult

_ROWS = 20
"""Maximum number of trials that are printed; the file has all."""


def tune(
    data: Annotated[Path, COMMON],
    *,
    preset: Preset = DEFAULT_PRESET,
    out: Annotated[Path | None, COMMON] = None,
    config: ConfigFile = None,
    trials: Annotated[int, COMMON] = 20,
    timeout: Annotated[float, COMMON] = 0.0,
    space: Annotated[
        Path | None, Parameter(help="YAML file of the search space, see docs/tuning.md", show=True)
    ] = None,
    prune: bool = True,
    features: Features = Path("features"),
    store: Stores = None,
    overwrite: Annotated[bool, COMMON] = False,
    json: Json = False,
    flags: Annotated[TrainFlags | None, Flat] = None,
) -> None:
    """Search for better settings of a preset by the validation score; the first trial uses the preset's settings.

    Args:
        data: captions and images in any format that `seesay data check` reads.
        out: folder of the search [default: runs/PRESET-tune].
        trials: total number of trials, including those of earlier calls.
        timeout: minutes after which to stop, even within a trial; 0: no limit.
        prune: stop trials that are below the median of the others after a quarter of their epochs.
        overwrite: delete the search in --out.
    """
    from seesay.training.tuning.tune import tune as search

    overrides = given_flags(flags)
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
    if json:
        print_json(_document(result))
    else:
        _print_result(result, data)


def _document(result: "TuningResult") -> dict[str, Any]:
    """Return the result for --json; `trials.csv` has all settings of each trial."""
    names = ("number", "state", "value", "epochs", "best_epoch", "seconds", "settings")
    trials = [{name: getattr(trial, name) for name in names} for trial in result.trials]
    return {
        "folder": result.folder,
        "run": result.run,
        "best": result.best.number,
        "stopped_by": result.stopped_by,
        "trials": trials,
    }


def _print_result(result: "TuningResult", data: Path) -> None:
    """Print the best trials, the best compared with the defaults, and the next commands."""
    ranked = sorted(result.trials, key=lambda trial: (trial.state != "complete", -(trial.value or 0.0), trial.number))
    title = f"{len(ranked[:_ROWS])} of {len(ranked)} trials, the best first (all in {result.folder}/trials.csv)"
    show_table(
        title, ("trial", "state", "val CIDEr", "best epoch", "epochs", "minutes"), list(map(_row, ranked[:_ROWS]))
    )
    best, default = result.best, result.default
    rows = [(name, str(default.settings[name]), str(value)) for name, value in best.settings.items()]
    against = f"trial {best.number} against the defaults" if best.number else "no trial did better than the defaults"
    show_table(against, ("setting", "default", "best"), [("val CIDEr", _score(default), _score(best)), *rows])
    if result.stopped_by == "timeout":
        print_line("time limit reached; run the same command to resume")
    print_line(
        f"the validation score of the best trial is biased by the selection; evaluate it on the test split:\n"
        f"  seesay evaluate {result.run} {data}\n"
        f"and train with other seeds:\n"
        f"  seesay train {data} --config {result.folder}/best.yaml --seed 1 --out {result.folder}-seed-1"
    )


def _row(trial: "TrialRecord") -> tuple[str, ...]:
    name = f"{trial.number}{'' if trial.number else ' (defaults)'}"
    best_epoch = str(trial.best_epoch or "")
    return name, trial.state, _score(trial), best_epoch, str(trial.epochs), f"{trial.seconds / 60:.1f}"


def _score(trial: "TrialRecord") -> str:
    return "" if trial.value is None else f"{trial.value:.1f}"
