"""Training that is killed and resumed equals uninterrupted training."""

import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

import pytest
import torch

from seesay.checkpoint import load_run
from seesay.cli import main as cli
from seesay.config import Config, replace, save_config
from seesay.data.annotations import load_annotations, write_annotations
from seesay.errors import CheckpointError, DataError, FeatureStoreError
from seesay.features import FeatureStore, extract_features
from seesay.training import train as fit
from seesay.training.callbacks import AtomicCheckpointIO, BestModel, MetricsLog, ResumePoint
from seesay.training.module import CaptioningModule
from seesay.training.train import train
from tests import processes, tiny
from tests.training.outcomes import epochs, outcome, rows, step

STEPS = 24
"""Steps of the training: four epochs of six."""

posix = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="nothing is killed like this here")


class KillError(Exception):
    """Simulates a kill within the process."""


def settings(weights: Path, **overrides: Any) -> Config:
    """Return settings with every stateful option: dropout, momentum, learning-rate drops, patience."""
    values = {
        "feature_dropout": 0.1,
        "embedding_dropout": 0.1,
        "output_dropout": 0.2,
        "label_smoothing": 0.02,
        "hidden_size": 64,
        "learning_rate": 3e-2,
        "seed": 1,
        "epochs": 4,
        "lr_drop_epochs": (2, 3),
        "lr_drop": 0.5,
        "patience": 3,
        "warmup_steps": 2,
        "ema_decay": 0.9,
        "scheduled_sampling": 0.2,
        "keep_best": 2,
        "log_every": 1,
        "checkpoint_every": 2,
    }
    return tiny.cached(weights, **{**values, **overrides})


@pytest.fixture(scope="module")
def config(weights: Path) -> Config:
    return settings(weights)


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, config: Config, colours: Path, features: Path
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(config, colours, folder, features=features)
    assert step(folder) == STEPS
    assert [int(row["step"]) for row in rows(folder) if row["val_loss"]] == [6, 12, 18, 24]
    assert len(set(epochs(folder, "val_cider"))) == 4, "scores that do not change could not differ either"
    return outcome(folder)


def saved_step(folder: Path) -> int:
    """Return the step from which training would resume."""
    return int(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"])


def fail_at(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, call: int) -> None:
    """Make call number `call` of a method raise `KillError`."""
    real, calls = getattr(owner, method), [0]

    def maybe(self: Any, *arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise KillError
        return real(self, *arguments, **options)

    monkeypatch.setattr(owner, method, maybe)


def train_and_fail(step: int, *arguments: Any, **options: Any) -> None:
    """Train until step `step` fails."""
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, CaptioningModule, "training_step", step)
        with pytest.raises(KillError):
            train(*arguments, **options)


@pytest.mark.parametrize(
    ("owner", "method", "call"),
    [
        (CaptioningModule, "training_step", 1),  # before anything is saved
        (CaptioningModule, "training_step", 3),  # right after the first save
        (CaptioningModule, "training_step", 10),
        (CaptioningModule, "on_train_batch_end", 12),  # a completed but unlogged step, the last of its epoch
        (MetricsLog, "on_train_batch_end", 15),
        (CaptioningModule, "on_train_epoch_start", 3),  # between two epochs
        (CaptioningModule, "validation_step", 2),
        (CaptioningModule, "on_validation_epoch_end", 3),
        (BestModel, "on_validation_end", 1),  # validated, best weights not yet written
        (ResumePoint, "on_train_batch_end", 8),
        (AtomicCheckpointIO, "save_checkpoint", 5),
        (CaptioningModule, "training_step", 24),  # the very last step
        (BestModel, "on_validation_end", 4),  # the very last validation
    ],
)
def test_resuming_after_any_kill_equals_uninterrupted_training(
    config: Config,
    colours: Path,
    features: Path,
    tmp_path: Path,
    uninterrupted: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    method: str,
    call: int,
) -> None:
    with monkeypatch.context() as patch:
        fail_at(patch, owner, method, call)
        with pytest.raises(KillError):
            train(config, colours, tmp_path / "run", features=features)
    assert step(tmp_path / "run") <= STEPS
    result = train(config, colours, tmp_path / "run", features=features)
    assert result.stopped_by == "epochs"
    assert outcome(tmp_path / "run") == uninterrupted


def test_ctrl_c_raises_and_training_resumes(
    config: Config, colours: Path, features: Path, tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    """Lightning would exit the process and ignore further SIGINTs."""
    handler = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, CaptioningModule, "training_step", 9)
        patch.setattr(sys.modules[__name__], "KillError", KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config, colours, tmp_path / "run", features=features)
    assert signal.getsignal(signal.SIGINT) is handler
    train(config, colours, tmp_path / "run", features=features)
    assert outcome(tmp_path / "run") == uninterrupted


def test_resuming_repeatedly_equals_uninterrupted_training(
    config: Config, colours: Path, features: Path, tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    for _ in range(5):
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, CaptioningModule, "training_step", 5)
            with pytest.raises(KillError):
                train(config, colours, tmp_path / "run", features=features)
    assert saved_step(tmp_path / "run") >= 5 * 2
    train(config, colours, tmp_path / "run", features=features)
    assert outcome(tmp_path / "run") == uninterrupted


def test_resuming_with_a_trained_encoder_equals_uninterrupted_training(colours: Path, tmp_path: Path) -> None:
    config = tiny.in_loop(output_dropout=0.2, log_every=1, checkpoint_every=4)
    train(config, colours, tmp_path / "whole")
    for call in (3, 6):
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, CaptioningModule, "training_step", call)
            with pytest.raises(KillError):
                train(config, colours, tmp_path / "broken")
    train(config, colours, tmp_path / "broken")
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("baseline", ["others", "greedy"])
def test_resuming_scst_equals_uninterrupted_training(
    cached_run: Path, colours: Path, features: Path, weights: Path, tmp_path: Path, baseline: str
) -> None:
    """Samples and rewards too; the initial run is not needed once a state is saved."""
    first = shutil.copytree(cached_run, tmp_path / "first")
    config = settings(weights, hidden_size=32, learning_rate=1e-3, scst_weight=0.8, scst_baseline=baseline)
    config = replace(config, init_from=str(first), epochs=2)
    train(config, colours, tmp_path / "whole", features=features)
    for call in (2, 4, 6):  # before anything is saved, within an epoch, and within the next
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, CaptioningModule, "training_step", call)
            with pytest.raises(KillError):
                train(config, colours, tmp_path / "broken", features=features)
    shutil.rmtree(first)
    train(config, colours, tmp_path / "broken", features=features)
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")
    assert len(set(epochs(tmp_path / "whole", "reward"))) == 2


@pytest.mark.parametrize(("every", "saved"), [(6, 18), (4, 22), (1000, 18)])
def test_state_is_saved_at_the_end_of_each_epoch_too(
    weights: Path, colours: Path, features: Path, tmp_path: Path, every: int, saved: int
) -> None:
    """Bug: with at least as many steps between saves as in an epoch, nothing was saved."""
    config = settings(weights, checkpoint_every=every)
    train_and_fail(24, config, colours, tmp_path / "run", features=features)
    assert saved_step(tmp_path / "run") == saved


def send(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, call: int, *signals: signal.Signals) -> None:
    """Send signals to this process at call number `call` of a method."""
    real, calls = getattr(owner, method), [0]

    def sending(self: Any, *arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        for number in signals if calls[0] == call else ():
            signal.raise_signal(number)
        return real(self, *arguments, **options)

    monkeypatch.setattr(owner, method, sending)


@posix
@pytest.mark.parametrize(
    ("number", "method", "call", "place", "saved"),
    [
        (signal.SIGINT, "training_step", 9, "epoch 2, step 4 of 6", 9),
        (signal.SIGTERM, "training_step", 12, "epoch 3, step 1 of 6", 12),  # the last of its epoch
        (signal.SIGINT, "validation_step", 2, "epoch 3, step 1 of 6", 12),
        (signal.SIGINT, "validation_step", 4, "the end of its last epoch", 24),
    ],
)
def test_a_signal_saves_the_state_and_logs_where_training_resumes(
    weights: Path,
    colours: Path,
    features: Path,
    tmp_path: Path,
    uninterrupted: dict[str, Any],
    log_capture: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    method: str,
    call: int,
    place: str,
    saved: int,
) -> None:
    """Bug: a signal did not save the state, although its message was that training would resume there."""
    config, run = settings(weights, checkpoint_every=1000), tmp_path / "run"
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        send(patch, CaptioningModule, method, call, number)
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as caught:
            train(config, colours, run, features=features)
    message = str(caught.value) if number == signal.SIGINT else log_capture.messages[-1]
    assert message == f"stopped; {run} resumes at {place}: run the same command again, without --overwrite"
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert saved_step(run) == saved
    log_capture.clear()
    train(config, colours, run, features=features)
    assert saved == STEPS or f"resuming at {place}" in log_capture.messages
    assert outcome(run) == uninterrupted


@posix
def test_a_second_ctrl_c_stops_at_once_and_names_the_last_saved_step(
    config: Config, colours: Path, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        send(patch, CaptioningModule, "training_step", 10, signal.SIGINT, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt, match="resumes at epoch 2, step 3 of 6: run"):
            train(config, colours, tmp_path / "run", features=features)
    assert saved_step(tmp_path / "run") == 8


@pytest.mark.parametrize("every", [1, 2])
def test_resuming_with_one_step_per_epoch_equals_uninterrupted_training(
    weights: Path, colours: Path, features: Path, tmp_path: Path, every: int
) -> None:
    """Bug: every step was an epoch's last, so that nothing was saved."""
    config = settings(weights, checkpoint_every=every, batch_captions=1000, epochs=6, lr_drop_epochs=(3,), patience=0)
    train(config, colours, tmp_path / "whole", features=features)
    assert step(tmp_path / "whole") == 6
    for call in (4, 2, 2):
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, CaptioningModule, "training_step", call)
            with pytest.raises(KillError):
                train(config, colours, tmp_path / "broken", features=features)
    assert saved_step(tmp_path / "broken") == 5
    train(config, colours, tmp_path / "broken", features=features)
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")


def test_patience_with_one_step_per_epoch_survives_a_kill(
    weights: Path, colours: Path, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: a state saved after the decision to stop did not record it, so that one more epoch was trained."""
    values: Any = {"checkpoint_every": 1, "batch_captions": 1000, "epochs": 9, "patience": 1, "learning_rate": 1e-12}
    config = settings(weights, **values)
    train(config, colours, tmp_path / "whole", features=features)
    assert step(tmp_path / "whole") == 2

    def killed(*_: Any) -> None:
        raise KillError

    with monkeypatch.context() as patch:
        patch.setattr(fit, "training_curves", killed)
        with pytest.raises(KillError):
            train(config, colours, tmp_path / "broken", features=features)
    train(config, colours, tmp_path / "broken", features=features)
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")


def test_training_time_excludes_validation_with_one_step_per_epoch(
    weights: Path, colours: Path, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = CaptioningModule.on_validation_epoch_end

    def slow(module: CaptioningModule) -> None:
        module._clock -= 1000.0  # as if validation had taken 1000 s
        end(module)

    monkeypatch.setattr(CaptioningModule, "on_validation_epoch_end", slow)
    config = settings(weights, checkpoint_every=1, batch_captions=1000, epochs=2)
    assert train(config, colours, tmp_path / "run", features=features).seconds < 1000


def test_captions_per_second_after_resuming_count_from_the_resume(
    config: Config, colours: Path, features: Path, tmp_path: Path
) -> None:
    """Bug: the captions since the resume were divided by the time since the start of training, and the first ones by
    zero."""
    train_and_fail(5, config, colours, tmp_path / "run", features=features)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    state["seesay"]["seconds"] = 1e6
    torch.save(state, path)
    train(config, colours, tmp_path / "run", features=features)
    rates = [float(row["captions_per_second"]) for row in rows(tmp_path / "run") if row["captions_per_second"]]
    assert len(rates) == STEPS
    assert min(rates) > 1
    assert max(rates) < 1e6
    assert float(rows(tmp_path / "run")[-1]["seconds"]) > 1e6


def test_a_truncated_state_raises(config: Config, colours: Path, features: Path, tmp_path: Path) -> None:
    train_and_fail(5, config, colours, tmp_path / "run", features=features)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged or truncated; delete it") as caught:
        train(config, colours, tmp_path / "run", features=features)
    assert "\n" not in str(caught.value)
    path.unlink()
    train(config, colours, tmp_path / "run", features=features)


def test_other_data_and_other_features_raise(
    config: Config, colours: Path, features: Path, weights: Path, tmp_path: Path
) -> None:
    train_and_fail(5, config, colours, tmp_path / "run", features=features)
    fewer = load_annotations(colours).items[1:]
    write_annotations(fewer, tmp_path / "fewer.jsonl")
    with pytest.raises(DataError, match=r"was started on other data \(data\.train is '24 images, 48 captions"):
        train(config, tmp_path / "fewer.jsonl", tmp_path / "run", features=features)
    other = tiny.build(tiny.write_encoder(weights.parent / "other.safetensors", seed=1))
    extract_features({item.id: item.image for item in load_annotations(colours)}, other, tmp_path / "other")
    with pytest.raises(FeatureStoreError, match="is of test_resnet at 48 px"):
        train(config, colours, tmp_path / "run", stores=[tmp_path / "other"])


@pytest.fixture
def corrected(colours: Path, tmp_path: Path) -> Path:
    """The data set with a corrected word in its captions; all counts are unchanged."""
    items = [
        replace_fields(item, captions=tuple(caption.replace("red", "crimson") for caption in item.captions))
        for item in load_annotations(colours)
    ]
    write_annotations(items, tmp_path / "corrected.jsonl")
    return tmp_path / "corrected.jsonl"


def train_until(monkeypatch: pytest.MonkeyPatch, call: int, config: Config, data: Path, run: Path, store: Path) -> None:
    """Train up to a call of `training_step`."""
    with monkeypatch.context() as patch:
        fail_at(patch, CaptioningModule, "training_step", call)
        with pytest.raises(KillError):
            train(config, data, run, features=store)


def test_captions_changed_before_the_first_save_give_a_new_vocabulary(
    config: Config,
    colours: Path,
    corrected: Path,
    features: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log_capture: pytest.LogCaptureFixture,
) -> None:
    """Bug: the old vocabulary was used silently, in which every corrected word was unknown."""
    run = tmp_path / "run"
    train_until(monkeypatch, 1, config, colours, run, features)
    assert "red" in load_run(run).tokenizer.vocabulary
    train_until(monkeypatch, 1, config, corrected, run, tmp_path / "features")
    assert {"red", "crimson"}.intersection(load_run(run).tokenizer.vocabulary) == {"crimson"}
    (line,) = {line for line in log_capture.messages if "saved no state" in line}
    assert "data.train is" in line
    assert "training starts again" in line


def test_captions_changed_after_a_save_raise(
    config: Config,
    colours: Path,
    corrected: Path,
    features: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bug: with unchanged counts the change was not noticed."""
    train_until(monkeypatch, 5, config, colours, tmp_path / "run", features)
    with pytest.raises(DataError, match=r"was started on other data \(.*; restore the data, .*--overwrite$"):
        train(config, corrected, tmp_path / "run", features=features)


def test_a_finished_run_on_other_data_logs_a_warning(
    cached_run: Path, colours: Path, corrected: Path, log_capture: pytest.LogCaptureFixture
) -> None:
    """The features are missing; a finished run does not need them."""
    config, before = load_run(cached_run).config, outcome(cached_run)
    for data, part in (
        (colours, "is already finished; --overwrite"),
        (corrected, "already finished, on other data (data.train is"),
    ):
        log_capture.clear()
        assert train(config, data, cached_run, features=Path("nowhere")).stopped_by == "nothing to do"
        assert part in log_capture.messages[-1]
    assert outcome(cached_run) == before


def test_the_state_of_an_incompletely_deleted_run_is_not_resumed(
    config: Config, colours: Path, features: Path, tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    train_and_fail(
        20, settings(Path(config.encoder.encoder_weights), seed=7), colours, tmp_path / "run", features=features
    )
    (tmp_path / "run" / "captioner.json").unlink()
    for path in (tmp_path / "run" / "checkpoints").glob("epoch*"):
        path.unlink()
    train(config, colours, tmp_path / "run", features=features)
    assert outcome(tmp_path / "run") == uninterrupted


def write_half(_: AtomicCheckpointIO, checkpoint: object, path: Path, *__: object) -> None:
    Path(f"{path}.tmp").write_bytes(b"half")


def train_and_die(command: list[str], owner: type, method: str, call: int) -> None:
    processes.die_at(owner, method, call, write_half if method == "save_checkpoint" else lambda *_: None)
    cli.main(command)


@posix
def test_resuming_after_four_kills_equals_uninterrupted_training(
    config: Config, colours: Path, features: Path, tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    """Within a step, within a write of the state, within the validation, and within the last epoch."""
    save_config(config, tmp_path / "settings.yaml")
    command = ["train", str(colours), "--config", str(tmp_path / "settings.yaml"), "--preset", ""]
    command += ["--features", str(features), "--out", str(tmp_path / "run")]
    for owner, method, call, saved in (
        (CaptioningModule, "training_step", 6, 4),
        (AtomicCheckpointIO, "save_checkpoint", 5, 10),
        (CaptioningModule, "validation_step", 2, 16),
        (MetricsLog, "on_train_batch_end", 5, 20),
    ):
        assert processes.run(train_and_die, command, owner, method, call) == -signal.SIGKILL
        assert saved_step(tmp_path / "run") == saved
    assert cli.main(command) == 0
    assert outcome(tmp_path / "run") == uninterrupted


def seesay(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "seesay", *map(str, arguments)]


def kill_five_times(command: list[str], reached: Callable[[], int], moments: list[int], log: Path) -> None:
    for moment in moments:
        with log.open("ab") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            while reached() < moment:
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.002)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == -signal.SIGKILL


@posix
@pytest.mark.slow
@pytest.mark.skipif(not (tiny.SHARED / "data/flickr8k").is_dir(), reason="no Flickr8k here")
def test_five_kills_of_the_command_line_on_real_images(tmp_path: Path) -> None:
    data, weights = tiny.SHARED / "data/flickr8k", tiny.SHARED / "weights/tf_efficientnet_lite0.safetensors"
    settings = ["--encoder", "tf_efficientnet_lite0", "--encoder-weights", weights, "--limit-images", 100]
    settings += ["--features", tmp_path / "features"]
    training = ["--log-every", 1, "--checkpoint-every", 3, "--epochs", 4, "--hidden-size", 64, "--device", "cpu"]
    random_ = random.Random(11)

    def done(path: Path) -> int:
        return int((FeatureStore(path).status == 1).sum()) if path.exists() else 0

    stores = [tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"]
    extract = [seesay("extract", data, *settings, "--device", "cpu", "--out", path) for path in stores]
    subprocess.run(extract[0], check=True, capture_output=True)
    kill_five_times(extract[1], lambda: done(stores[1]), sorted(random_.sample(range(30, 260), 5)), tmp_path / "log")
    assert done(stores[1]) < 300
    subprocess.run(extract[1], check=True, capture_output=True)
    assert stores[0].read_bytes() == stores[1].read_bytes()

    runs = [tmp_path / "whole", tmp_path / "killed"]
    command = [seesay("train", data, *settings, *training, "--store", stores[0], "--out", path) for path in runs]
    subprocess.run(command[0], check=True, capture_output=True)
    last = step(runs[0])
    kill_five_times(command[1], lambda: step(runs[1]), sorted(random_.sample(range(1, last - 5), 5)), tmp_path / "log")
    subprocess.run(command[1], check=True, capture_output=True)
    assert outcome(runs[1]) == outcome(runs[0])
