"""The files of a search beside its study: the best settings, the table of trials, and a run folder a trial."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from seesay.checkpoint import RUN
from seesay.config import save_config
from seesay.files import write_atomically
from seesay.outputs import MARKER, FolderKind, delete_own
from seesay.training.tuning_study import STUDY_FILE, TrialRecord

BEST_FILE = "best.yaml"
TRIALS_FILE = "trials.csv"
_KEPT_OF_BEATEN = ("config.yaml", "metrics.csv", "curves.png", "tensorboard", MARKER)

SEARCH = FolderKind(
    "search",
    (BEST_FILE, TRIALS_FILE, f"{STUDY_FILE}-journal", STUDY_FILE),  # a killed process may leave a journal
    signature=(TRIALS_FILE, b"trial,state,val_cider,"),
)
"""The folder of a search; its trials are run folders in it."""


def trial_folder(folder: Path, number: int) -> Path:
    """Returns the run folder of a trial."""
    return folder / f"trial-{number:03d}"


def best_of(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """Returns the best of the trials that came to their end, the first of several; None if none did."""
    ended = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    return max(ended, key=lambda trial: trial.value or 0.0, default=None)


def settle(folder: Path, trials: Sequence[TrialRecord]) -> None:
    """Brings a search's folder to what its trials say: best.yaml, trials.csv, and no weights but the best trial's.

    Of the others their settings and curves stay.

    Args:
        folder: of the search.
        trials: all that came to an end.

    Raises:
        SeesayError: a file cannot be written.
    """
    best = best_of(trials)
    for trial in trials:
        if trial is not best:
            delete_own(trial_folder(folder, trial.number), RUN, keep=_KEPT_OF_BEATEN)
    if best is not None:
        save_config(best.config, folder / BEST_FILE)
    if trials:
        _write_table(folder / TRIALS_FILE, trials)


def clear(folder: Path) -> None:
    """Deletes a search; files that seesay did not write stay."""
    for run in folder.glob("trial-[0-9][0-9][0-9]*"):
        delete_own(run, RUN)
    delete_own(folder, SEARCH, keep=(MARKER,))  # whose lock this process holds


def epoch_values(run: Path) -> list[tuple[float, float]]:
    """Returns (CIDEr on validation, seconds of training so far) of every epoch of a run."""
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [(float(row["val_cider"]), float(row["seconds"])) for row in csv.DictReader(file) if row["val_cider"]]


def _write_table(path: Path, trials: Sequence[TrialRecord]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["trial", "state", "val_cider", "epochs", "best_epoch", "seconds", *trials[0].settings, "reason"])
    for trial in trials:
        row = [trial.number, trial.state, trial.value, trial.epochs, trial.best_epoch, trial.seconds]
        writer.writerow([*row, *trial.settings.values(), trial.reason])
    write_atomically(path, text.getvalue().encode())
