"""A search for settings: what it tries and keeps, that it goes on as if it had not stopped, and what it refuses."""

import contextlib
import csv
import dataclasses
import itertools
import json
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch

from seesay.cli import main as cli
from seesay.config import Config, replace, resolve_config, save_config
from seesay.data.annotations import load_annotations, write_annotations
from seesay.errors import CheckpointError, ConfigError, DataError, MissingDependencyError, SeesayError
from seesay.outputs import MARKER, only_writer_of
from seesay.training.callbacks import AtomicCheckpointIO, BestModel
from seesay.training.inputs import TrainingData, open_training_data
from seesay.training.module import CaptioningModule
from seesay.training.train import train
from seesay.training.tuning import tune as tune_module
from seesay.training.tuning.study import TrialRecord, open_study
from seesay.training.tuning.tune import SEARCH, STUDY_FILE, TuningResult, tune
from tests import processes, tiny
from tests.training.outcomes import epochs, outcome, rows

SPACE = {
    "learning_rate": {"low": 1e-3, "high": 3e-2, "log": True},
    "output_dropout": {"low": 0.0, "high": 0.4, "step": 0.1},
    "hidden_size": [16, 24, 32],
    "min_count": [1, 2],
}
TRIALS = 4


class KillError(BaseException):
    """Stands for a kill within the process."""


@pytest.fixture(scope="module")
def config(weights: Path) -> Config:
    return tiny.cached(weights, epochs=2, keep_best=1, checkpoint_every=2)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, config: Config, colours: Path, features: Path) -> TuningResult:
    """Four trials of two epochs."""
    folder = tmp_path_factory.mktemp("tune") / "search"
    return tune(config, colours, folder, trials=TRIALS, space=SPACE, features=features)


def tuned(trials: tuple[TrialRecord, ...]) -> list[dict[str, Any]]:
    """Returns everything of trials that does not depend on the clock."""
    names = ("number", "state", "value", "epochs", "best_epoch", "config", "reason")
    return [{name: getattr(trial, name) for name in names} for trial in trials]


def propose(folder: Path, *proposals: Mapping[str, Any]) -> None:
    """Enqueue trials before those that the sampler would propose."""
    with open_study(folder / STUDY_FILE, 1) as study:
        for proposal in proposals:
            study.enqueue_trial(dict(proposal))


def fail_at(monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, call: int, error: BaseException) -> None:
    """Makes the so-manieth call of a method raise an error instead."""
    real, calls = getattr(owner, method), itertools.count(1)

    def maybe(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(owner, method, maybe)


class TestWhatIsFound:
    def test_first_trial_is_what_training_by_the_settings_themselves_gives(
        self, unbroken: TuningResult, config: Config, colours: Path, features: Path, tmp_path: Path
    ) -> None:
        result = train(config, colours, tmp_path / "run", features=features)
        first = unbroken.default
        assert (first.config, first.value, first.epochs, first.best_epoch) == (
            config,
            result.best,
            result.epochs,
            result.best_epoch,
        )

    def test_trials_differ_and_keep_to_the_space(self, unbroken: TuningResult, config: Config) -> None:
        assert len({trial.settings["learning_rate"] for trial in unbroken.trials}) == TRIALS
        for trial in unbroken.trials:
            values = trial.settings
            assert 1e-3 <= values["learning_rate"] <= 3e-2
            assert values["output_dropout"] in (0.0, 0.1, 0.2, 0.3, 0.4)
            assert values["hidden_size"] in (16, 24, 32)
            assert replace(config, **values) == trial.config

    def test_best_has_the_highest_cider(self, unbroken: TuningResult) -> None:
        values = [trial.value or 0.0 for trial in unbroken.trials]
        assert unbroken.best.value == max(values) > min(values)
        assert unbroken.best.number == values.index(max(values))

    def test_best_settings_are_a_file_for_train_which_comes_to_the_same(
        self, unbroken: TuningResult, colours: Path, features: Path, tmp_path: Path
    ) -> None:
        settings = resolve_config("attention-gru", unbroken.folder / "best.yaml")
        assert settings == unbroken.best.config
        train(settings, colours, tmp_path / "run", features=features)
        assert outcome(tmp_path / "run") == outcome(unbroken.run)

    def test_only_the_best_keeps_its_weights(self, unbroken: TuningResult) -> None:
        for trial in unbroken.trials:
            names = {path.name for path in (unbroken.folder / f"trial-{trial.number:03d}").iterdir()}
            assert {"config.yaml", "metrics.csv", "tensorboard"} <= names
            assert ({"model.safetensors", "checkpoints", "captioner.json"} <= names) == (trial == unbroken.best)
        weights = [path for path in unbroken.folder.rglob("*") if path.suffix in (".ckpt", ".safetensors")]
        assert all(unbroken.run in path.parents for path in weights)

    def test_table_has_a_row_a_trial(self, unbroken: TuningResult) -> None:
        with (unbroken.folder / "trials.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
        assert [int(row["trial"]) for row in table] == list(range(TRIALS))
        for row, trial in zip(table, unbroken.trials, strict=True):
            assert (float(row["val_cider"]), row["state"]) == (trial.value, "complete")
            assert {name: row[name] for name in SPACE} == {name: str(trial.settings[name]) for name in SPACE}

    def test_what_is_kept_counts_where_another_number_is_monitored(
        self, config: Config, colours: Path, features: Path, tmp_path: Path
    ) -> None:
        """Losses over different vocabularies cannot be compared, the CIDEr of what the loss kept can."""
        watched = replace(config, monitor="val_loss", epochs=10, learning_rate=0.03)
        result = tune(watched, colours, tmp_path / "s", trials=1, space=SPACE, features=features)
        losses, ciders = (epochs(result.run, name) for name in ("val_loss", "val_cider"))
        place = losses.index(min(losses))
        assert (result.best.best_epoch, result.best.value) == (place + 1, ciders[place])
        assert result.best.value != max(ciders), "else the kept epoch is that of the best CIDEr, and little is tested"

    def test_defaults_outside_the_space_are_tried_as_they_are(
        self, config: Config, colours: Path, features: Path, tmp_path: Path
    ) -> None:
        space = {"learning_rate": {"low": 0.02, "high": 0.03}, "hidden_size": [16, 24]}
        result = tune(config, colours, tmp_path / "s", trials=2, space=space, features=features)
        assert result.default.config == config
        assert result.default.settings == {"learning_rate": 0.01, "hidden_size": 32}
        assert result.trials[1].settings["hidden_size"] in (16, 24)

    def test_images_are_opened_once(
        self, config: Config, colours: Path, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = []

        def counting(*given: Any) -> TrainingData:
            opened.append(given)
            return open_training_data(*given)

        monkeypatch.setattr("seesay.training.tuning.tune.open_training_data", counting)
        tune(replace(config, epochs=1), colours, tmp_path / "s", trials=2, space=SPACE, features=features)
        assert len(opened) == 1

    def test_encoder_in_training_begins_anew_with_each_trial(self, colours: Path, tmp_path: Path) -> None:
        config = tiny.in_loop(epochs=1)
        tune(config, colours, tmp_path / "s", trials=1, space={"hidden_size": [16, 32]})
        propose(tmp_path / "s", {"hidden_size": 32})
        result = tune(config, colours, tmp_path / "s", trials=2, space={"hidden_size": [16, 32]})
        assert result.trials[0].config == result.trials[1].config
        assert rows(tmp_path / "s" / "trial-000")[-1]["val_loss"] == rows(tmp_path / "s" / "trial-001")[-1]["val_loss"]


class TestGoingOn:
    def test_trials_count_those_of_earlier_calls_and_come_out_as_in_one(
        self, unbroken: TuningResult, config: Config, colours: Path, features: Path, tmp_path: Path
    ) -> None:
        """A sampler that is seeded once would propose after each stop what it proposed at first."""
        for trials in (1, 3, TRIALS):
            result = tune(config, colours, tmp_path / "s", trials=trials, space=SPACE, features=features)
            assert len(result.trials) == trials
        assert tuned(result.trials) == tuned(unbroken.trials)
        assert outcome(result.run) == outcome(unbroken.run)

    def test_nothing_is_left_to_do(self, unbroken: TuningResult, config: Config, colours: Path, features: Path) -> None:
        before = {path: path.read_bytes() for path in unbroken.run.rglob("*") if path.is_file()}
        again = tune(config, colours, unbroken.folder, trials=2, space=SPACE, features=features)
        assert tuned(again.trials) == tuned(unbroken.trials)
        assert {path: path.read_bytes() for path in unbroken.run.rglob("*") if path.is_file()} == before

    def test_another_seed_searches_elsewhere(
        self, unbroken: TuningResult, config: Config, colours: Path, features: Path, tmp_path: Path
    ) -> None:
        other = tune(
            replace(config, seed=1, epochs=1), colours, tmp_path / "s", trials=2, space=SPACE, features=features
        )
        assert other.trials[1].settings != unbroken.trials[1].settings

    @pytest.mark.parametrize(
        ("owner", "method", "call"),
        [
            (optuna.Study, "ask", 1),  # the defaults are in line, and not yet asked for
            (optuna.Trial, "_suggest", 6),  # half of the second trial's settings are known
            (CaptioningModule, "training_step", 5),  # within the first trial, past a saved state
            (CaptioningModule, "training_step", 20),  # within the second, past an epoch that was told
            (BestModel, "on_validation_end", 4),  # told, but its weights not kept
            (optuna.Study, "tell", 2),  # trained to the end, and not told
            (tune_module, "records", 3),  # told, but its files not brought in order
        ],
    )
    def test_broken_off_anywhere_it_ends_as_unbroken(
        self,
        unbroken: TuningResult,
        config: Config,
        colours: Path,
        features: Path,
        tmp_path: Path,
        owner: Any,
        method: str,
        call: int,
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, owner, method, call, KillError())
            with pytest.raises(KillError):
                tune(config, colours, tmp_path / "s", trials=TRIALS, space=SPACE, features=features)
        result = tune(config, colours, tmp_path / "s", trials=2, space=SPACE, features=features)
        assert tuned(result.trials) == tuned(unbroken.trials[:2])
        for trial in result.trials:
            steps = [int(row["step"]) for row in rows(tmp_path / "s" / f"trial-{trial.number:03d}") if row["val_loss"]]
            assert steps == [6, 12]

    def test_an_enqueued_trial_follows_the_unfinished_one(
        self, unbroken: TuningResult, config: Config, colours: Path, features: Path, tmp_path: Path
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, CaptioningModule, "training_step", 14, KillError())
            with pytest.raises(KillError):
                tune(config, colours, tmp_path, trials=2, space=SPACE, features=features)
        mine = {"learning_rate": 0.002, "output_dropout": 0.1, "hidden_size": 16, "min_count": 2}
        propose(tmp_path, mine)
        result = tune(config, colours, tmp_path, trials=3, space=SPACE, features=features)
        assert tuned(result.trials[:2]) == tuned(unbroken.trials[:2])
        assert result.trials[2].settings == mine

    def test_ctrl_c_keeps_what_is_done(
        self, unbroken: TuningResult, config: Config, colours: Path, features: Path, tmp_path: Path
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, CaptioningModule, "training_step", 20, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                tune(config, colours, tmp_path / "s", trials=2, space=SPACE, features=features)
        assert resolve_config(file=tmp_path / "s" / "best.yaml") == config
        assert len((tmp_path / "s" / "trials.csv").read_text().splitlines()) == 2
        result = tune(config, colours, tmp_path / "s", trials=2, space=SPACE, features=features)
        assert tuned(result.trials) == tuned(unbroken.trials[:2])

    def test_a_slice_of_time_after_the_other_comes_to_the_same(
        self, unbroken: TuningResult, config: Config, colours: Path, features: Path, tmp_path: Path
    ) -> None:
        def slice_of(steps: int) -> TuningResult:
            clock = SimpleNamespace(monotonic=itertools.count().__next__)  # a second for each step
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(tune_module, "time", clock)
                return tune(
                    config, colours, tmp_path / "s", trials=2, timeout=steps / 60, space=SPACE, features=features
                )

        with pytest.raises(
            ConfigError, match="the time was up before the end of the first trial; run the same command to resume"
        ):
            slice_of(7)
        for steps, done in ((10, 1), (7, 1)):
            result = slice_of(steps)
            assert (result.stopped_by, len(result.trials)) == ("timeout", done)
        result = slice_of(100)
        assert result.stopped_by == "trials"
        assert tuned(result.trials) == tuned(unbroken.trials[:2])

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="nothing is killed like this here")
    def test_killed_it_ends_as_unbroken(
        self, unbroken: TuningResult, config: Config, colours: Path, features: Path, tmp_path: Path
    ) -> None:
        save_config(config, tmp_path / "settings.yaml")
        (tmp_path / "space.yaml").write_text(json.dumps(SPACE))
        command = ["tune", str(colours), "--config", str(tmp_path / "settings.yaml"), "--preset", ""]
        command += ["--features", str(features), "--out", str(tmp_path / "s"), "--trials", "2"]
        command += ["--space", str(tmp_path / "space.yaml")]
        assert processes.run(tune_and_die, command, 17) == -signal.SIGKILL
        result = tune(config, colours, tmp_path / "s", trials=2, space=SPACE, features=features)
        assert tuned(result.trials) == tuned(unbroken.trials[:2])


def tune_and_die(command: list[str], step: int) -> None:
    processes.die_at(CaptioningModule, "training_step", step)
    cli.main(command)


LEARNS = 0.05
DOES_NOT = 1e-12
RATES = {"learning_rate": [DOES_NOT, LEARNS]}


@pytest.fixture(scope="module")
def four_epochs(config: Config) -> Config:
    return replace(config, epochs=4, learning_rate=LEARNS)


@pytest.fixture(scope="module")
def four_trials(tmp_path_factory: pytest.TempPathFactory, four_epochs: Config, colours: Path, features: Path) -> Path:
    """The folder of a search that has had four trials, of which the third learned nothing."""
    folder = tmp_path_factory.mktemp("four")
    tune(four_epochs, colours, folder, trials=1, space=RATES, features=features)
    propose(folder, *({"learning_rate": rate} for rate in (LEARNS, DOES_NOT, LEARNS)))
    result = tune(four_epochs, colours, folder, trials=4, space=RATES, features=features)
    assert [(trial.state, trial.epochs) for trial in result.trials] == [("complete", 4)] * 4
    return folder


class TestTrialsThatComeToNothing:
    @pytest.mark.parametrize("prune", [True, False])
    def test_one_that_is_behind_is_given_up(
        self, four_trials: Path, four_epochs: Config, colours: Path, features: Path, tmp_path: Path, prune: bool
    ) -> None:
        folder = shutil.copytree(four_trials, tmp_path / "s")
        propose(folder, {"learning_rate": DOES_NOT}, {"learning_rate": LEARNS})
        options: dict[str, Any] = {"space": RATES, "features": features, "prune": prune}
        result = tune(four_epochs, colours, folder, trials=6 if prune else 5, **options)
        behind, *others = result.trials[4:]
        if not prune:
            assert (behind.state, behind.epochs) == ("complete", 4)
            return
        assert (behind.state, behind.epochs) == ("pruned", 2), "in the first epoch to come after a quarter of four"
        assert behind.value == max(epochs(folder / "trial-004", "val_cider"))
        assert behind.seconds > 0
        assert not (folder / "trial-004" / "captioner.json").exists()
        assert [(trial.state, trial.epochs) for trial in others] == [("complete", 4)], "it is as good as the others"
        assert result.best.number == 0

    def test_none_is_given_up_in_its_last_epoch(
        self, four_epochs: Config, colours: Path, features: Path, tmp_path: Path
    ) -> None:
        short = replace(four_epochs, epochs=1, batch_captions=1)
        tune(short, colours, tmp_path, trials=1, space=RATES, features=features)
        propose(tmp_path, *({"learning_rate": rate} for rate in (*[LEARNS] * 3, DOES_NOT)))
        result = tune(short, colours, tmp_path, trials=5, space=RATES, features=features)
        assert [trial.state for trial in result.trials] == ["complete"] * 5
        assert result.default.value is not None
        assert result.trials[4].value is not None
        assert result.trials[4].value < result.default.value, "else it would not have been given up in any case"

    def test_one_that_diverges_is_recorded_and_the_search_goes_on(
        self, config: Config, colours: Path, features: Path, tmp_path: Path
    ) -> None:
        wild = replace(config, optimizer="rmsprop", max_grad_norm=0.0, epochs=1)
        space = {"learning_rate": [1e30, 0.01]}
        tune(wild, colours, tmp_path, trials=1, space=space, features=features)
        propose(tmp_path, {"learning_rate": 1e30}, {"learning_rate": 0.01})
        result = tune(wild, colours, tmp_path, trials=3, space=space, features=features)
        assert [trial.state for trial in result.trials] == ["complete", "failed", "complete"]
        assert result.trials[1].reason.startswith("the loss is nan at step")
        assert result.trials[1].value is None
        assert "training has diverged" in (tmp_path / "trials.csv").read_text()
        again = tune(wild, colours, tmp_path, trials=3, space=space, features=features)
        assert tuned(again.trials) == tuned(result.trials)

    def test_all_of_them_are_one_clear_error(
        self, config: Config, colours: Path, features: Path, tmp_path: Path
    ) -> None:
        wild = replace(config, optimizer="rmsprop", max_grad_norm=0.0, epochs=1, learning_rate=1e30)
        with pytest.raises(ConfigError, match=r"^none of the 2 trials came to its end, the first because: the loss is"):
            tune(wild, colours, tmp_path / "s", trials=2, space={"hidden_size": [16, 32]}, features=features)
        assert not (tmp_path / "s" / "best.yaml").exists()

    def test_one_too_large_for_the_device_fails(
        self, config: Config, colours: Path, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fail_at(monkeypatch, CaptioningModule, "training_step", 14, torch.OutOfMemoryError("CUDA out of memory"))
        result = tune(config, colours, tmp_path / "s", trials=2, space=SPACE, features=features)
        assert [trial.state for trial in result.trials] == ["complete", "failed"]
        assert result.trials[1].reason == "the device has not enough memory for it"

    def test_full_disk_is_not_laid_to_a_trial(
        self, unbroken: TuningResult, config: Config, colours: Path, features: Path, tmp_path: Path
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, AtomicCheckpointIO, "save_checkpoint", 9, CheckpointError("no space left"))
            with pytest.raises(CheckpointError, match="no space left"):
                tune(config, colours, tmp_path / "s", trials=2, space=SPACE, features=features)
        result = tune(config, colours, tmp_path / "s", trials=2, space=SPACE, features=features)
        assert tuned(result.trials) == tuned(unbroken.trials[:2])


class TestRefusals:
    def test_other_settings_space_or_images_are_refused_by_name(
        self, unbroken: TuningResult, config: Config, colours: Path, features: Path
    ) -> None:
        def told(*, settings: Config = config, space: Mapping[str, Any] = SPACE) -> str:
            with pytest.raises(ConfigError) as caught:
                tune(settings, colours, unbroken.folder, trials=TRIALS, space=space, features=features)
            assert "holds a search with other settings" in str(caught.value)
            assert "--overwrite" in str(caught.value)
            assert "\n" not in str(caught.value)
            return str(caught.value)

        assert "training.epochs is 2 there, 3 here" in told(settings=replace(config, epochs=3))
        assert "space.hidden_size is [16, 24, 32] there, [16, 32] here" in told(
            space={**SPACE, "hidden_size": [16, 32]}
        )
        assert "space.hidden_size is [16, 24, 32] there, None here" in told(
            space={name: SPACE[name] for name in SPACE if name != "hidden_size"}
        )
        assert "data.train is '24 images" in told(settings=replace(config, limit_captions=9))

    def test_captions_corrected_since_the_first_trial_are_refused(
        self, unbroken: TuningResult, config: Config, colours: Path, tmp_path: Path
    ) -> None:
        """As many images and captions as before: the change was once not noticed."""
        data = tmp_path / "corrected.jsonl"
        first, *others = load_annotations(colours).items
        write_annotations([dataclasses.replace(first, captions=("crimson",) * len(first.captions)), *others], data)
        with pytest.raises(ConfigError, match=r"data\.train is '24 images, .* there, '24 images, .* here"):
            tune(config, data, unbroken.folder, trials=TRIALS, space=SPACE, features=tmp_path)

    def test_overwrite_begins_anew_and_leaves_what_is_not_the_searchs(
        self, config: Config, colours: Path, features: Path, tmp_path: Path
    ) -> None:
        short = replace(config, epochs=1)
        tune(short, colours, tmp_path, trials=2, space=SPACE, features=features)
        (tmp_path / "notes.txt").touch()
        other = {"hidden_size": [16, 32]}
        result = tune(short, colours, tmp_path, trials=1, space=other, features=features, overwrite=True)
        assert len(result.trials) == 1
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {MARKER, "best.yaml", "notes.txt", "study.db", "trial-000", "trials.csv"}

    def test_remnant_of_a_study_that_is_gone_is_not_gone_on_with(
        self, unbroken: TuningResult, config: Config, colours: Path, features: Path, tmp_path: Path
    ) -> None:
        tune(replace(config, epochs=1), colours, tmp_path, trials=1, space=SPACE, features=features)
        (tmp_path / STUDY_FILE).unlink()
        result = tune(config, colours, tmp_path, trials=1, space=SPACE, features=features)
        assert tuned(result.trials) == tuned(unbroken.trials[:1])

    def test_two_at_once_are_refused(self, config: Config, colours: Path, features: Path, tmp_path: Path) -> None:
        holder = rf"another process \(pid {os.getpid()} on .+\) is writing to .*--out"
        with only_writer_of(tmp_path, SEARCH), pytest.raises(DataError, match=holder):
            tune(config, colours, tmp_path, trials=1, space=SPACE, features=features)
        with only_writer_of(tmp_path, SEARCH):
            pass

    @pytest.mark.parametrize("content", [b"no database at all" * 100, None])
    def test_damaged_study_is_told_in_a_line(
        self, config: Config, colours: Path, features: Path, tmp_path: Path, content: bytes | None
    ) -> None:
        path = tmp_path / STUDY_FILE
        (tmp_path / MARKER).write_text('{"kind": "search"}')
        if content is None:  # of another version of Optuna
            with open_study(path, 1):
                pass
            with contextlib.closing(sqlite3.connect(path)) as database:
                database.execute("UPDATE alembic_version SET version_num = 'v0.0.1'")
                database.execute("UPDATE version_info SET schema_version = 1")
                database.commit()
        else:
            path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"study\.db is damaged or cannot be written.*--overwrite") as caught:
            tune(config, colours, tmp_path, trials=1, space=SPACE, features=features)
        assert "\n" not in str(caught.value)
        short = replace(config, epochs=1)
        assert len(tune(short, colours, tmp_path, trials=1, space=SPACE, features=features, overwrite=True).trials) == 1

    def test_without_optuna_the_extra_is_named(
        self, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "optuna", None)
        with pytest.raises(MissingDependencyError, match=r"needs Optuna, .*; run: pip install 'seesay\[tune\]'$"):
            tune(config, tmp_path / "gone", tmp_path / "s")

    def test_what_cannot_be_searched_is_told_before_anything_is_read(
        self, config: Config, cached_run: Path, tmp_path: Path
    ) -> None:
        for settings, options, told in (
            (replace(config, init_from="x", scst_weight=0.8), {}, "search the settings of the first, without --scst"),
            (replace(config, num_heads=3, attention_score="multihead"), {}, "model.num_heads is 3"),
            (replace(config, device="tpu"), {}, "device 'tpu' is not available"),
            (config, {"trials": 0}, "1 or more trials, not 0"),
            (config, {"timeout": -1}, "a timeout of 0 or more minutes"),
            (config, {"space": {"hiden_size": [1, 2]}}, "did you mean 'hidden_size'?"),
        ):
            with pytest.raises(SeesayError) as caught:
                tune(settings, tmp_path / "gone", tmp_path / "s", **options)
            assert told in str(caught.value)
        with pytest.raises(ConfigError, match="holds a run; choose another --out"):
            tune(config, tmp_path / "gone", cached_run)
        with pytest.raises(SeesayError, match="gone"):
            tune(config, tmp_path / "gone", tmp_path / "s")
        assert list(tmp_path.iterdir()) == []
