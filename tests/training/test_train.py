import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from seesay.captioners.trained import TrainedCaptioner
from seesay.checkpoint import load_run, read_run, save_run
from seesay.config import Config, TextConfig
from seesay.data.annotations import Annotation, Annotations, load_annotations, write_annotations
from seesay.data.validation.check import check_data
from seesay.errors import CheckpointError, ConfigError, DataError, FeatureStoreError
from seesay.features import JoinedStores, extract_features, import_features
from seesay.metrics import compute_metrics
from seesay.models.encoders import build_encoder
from seesay.training import callbacks
from seesay.training.callbacks import COLUMNS
from seesay.training.module import CaptioningModule
from seesay.training.train import train
from tests import tiny
from tests.training.outcomes import epochs, first_loss, outcome, rows


def mean_loss(run: Path, annotations: Annotations, store: JoinedStores) -> float:
    """Return the mean loss per token, in nats, computed one caption at a time with the decoder's steps."""
    captioner = TrainedCaptioner.load(run, "cpu")
    decoder, losses = captioner.model.step_decoder, []
    with torch.inference_mode():
        for item in annotations:
            memory = captioner.model.project(torch.from_numpy(store.read([item.id])[0]))
            for caption in item.captions:
                tokens = captioner.run.tokenizer.encode(caption)
                state = decoder.init_state(memory, None)
                for word, following in itertools.pairwise(tokens):
                    logits, state, _ = decoder.step(torch.tensor([[word]]), state)
                    losses.append(float(F.cross_entropy(logits[0, 0], torch.tensor(following))))
    return float(np.mean(losses))


def test_label_smoothing_is_part_of_the_loss(colours: Path, features: Path, weights: Path, tmp_path: Path) -> None:
    """The loss is linear in the smoothing."""
    plain, some, more = (
        first_loss(tiny.cached(weights, epochs=1, label_smoothing=share), tmp_path / str(share), colours, features)
        for share in (0.0, 0.1, 0.3)
    )
    assert abs(some - plain) > 1e-3
    assert more - plain == pytest.approx(3 * (some - plain), rel=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_gradients_are_clipped_to_the_maximum_norm(
    colours: Path, features: Path, weights: Path, tmp_path: Path, optimizer: str
) -> None:
    """Lightning does not clip gradients for an optimizer that it takes to unscale them."""
    lengths: list[float] = []
    end = CaptioningModule.on_train_batch_end

    def watched(module: CaptioningModule, *arguments: Any) -> None:
        gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
        lengths.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))
        end(module, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CaptioningModule, "on_train_batch_end", watched)
        for bound in (0.0, 0.01):
            config = tiny.cached(weights, epochs=1, optimizer=optimizer, max_grad_norm=bound)
            train(config, colours, tmp_path / str(bound), features=features)
    half = len(lengths) // 2
    assert min(lengths[:half]) > 0.02
    assert lengths[half:] == pytest.approx([0.01] * half, rel=1e-3)


def test_run_folder_is_complete(cached_run: Path) -> None:
    assert {path.name for path in cached_run.iterdir()} == {
        ".seesay",
        "images.json",
        "captioner.json",
        "checkpoints",
        "config.yaml",
        "curves.png",
        "metrics.csv",
        "model.safetensors",
        "tensorboard",
        "tokenizer.json",
    }
    assert list((cached_run / "tensorboard").glob("events*"))
    assert (cached_run / "curves.png").read_bytes().startswith(b"\x89PNG")
    info = load_run(cached_run).info
    assert info.progress.keys() == {
        "finished", "stopped_by", "epochs", "best_epoch", "monitor", "best", "seconds"
    }  # fmt: skip
    assert (info.progress["finished"], info.progress["epochs"], info.progress["stopped_by"]) == (True, 20, "epochs")
    assert (info.encoder_stored, info.max_length, info.grid) == (True, 8, (2, 2))


def test_metrics_are_written_every_few_steps_and_every_epoch(cached_run: Path) -> None:
    found = rows(cached_run)
    assert tuple(found[0]) == COLUMNS
    steps = [int(row["step"]) for row in found if not row["val_loss"]]
    assert steps == list(range(3, 121, 3))
    assert [(int(row["step"]), int(row["epoch"])) for row in found if row["val_loss"]] == [
        (6 * epoch, epoch) for epoch in range(1, 21)
    ]
    seconds = [float(row["seconds"]) for row in found]
    assert seconds == sorted(seconds)


def test_cider_is_times_100_and_epochs_count_from_1_everywhere(
    colours: Path,
    annotations: Annotations,
    features: Path,
    weights: Path,
    tmp_path: Path,
    log_capture: pytest.LogCaptureFixture,
) -> None:
    """Bug: CIDEr was 217.2 in log lines, but 2.17 in the last line, the table and file names, which counted from 0."""
    run = tmp_path / "run"
    result = train(tiny.cached(weights, epochs=2, keep_best=2), colours, run, features=features)
    items = annotations.split("val").items
    captions = TrainedCaptioner.load(run, "cpu").caption([item.image for item in items], guard=False)
    scores = compute_metrics([each.text for each in captions], [item.captions for item in items], metrics=("CIDEr",))
    assert result.best == pytest.approx(100 * scores.corpus["CIDEr"], rel=1e-5)
    values = epochs(run, "val_cider")
    assert result.best == max(values) == load_run(run).info.progress["best"]
    for epoch, value in enumerate(values, 1):
        assert any(f"epoch {epoch} done" in line and f"val CIDEr {value:.1f} " in line for line in log_capture.messages)
        assert (run / "checkpoints" / f"epoch{epoch:03d}-val_cider{value:.2f}.ckpt").is_file()
    assert any(
        f"best val_cider {result.best:.1f} at epoch {result.best_epoch};" in line for line in log_capture.messages
    )
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.value for event in board.Scalars("val_cider")] == pytest.approx(values)
    assert {event.value for event in board.Scalars("epoch")} == {1, 2}


def test_captions_of_a_few_validation_images_are_logged_after_each_epoch(
    colours: Path,
    annotations: Annotations,
    features: Path,
    weights: Path,
    tmp_path: Path,
    log_capture: pytest.LogCaptureFixture,
) -> None:
    run = tmp_path / "run"
    train(tiny.cached(weights, epochs=1, learning_rate=0.03, batch_captions=4), colours, run, features=features)
    items = annotations.split("val").items
    captions = TrainedCaptioner.load(run, "cpu").caption([item.image for item in items], guard=False)
    expected = {
        f"  {item.id}: {caption.text or '(empty)'} (reference: {item.captions[0]})"
        for item, caption in zip(items, captions, strict=True)
    }
    assert len(expected.intersection(log_capture.messages)) == 3
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    (event,) = board.Tensors("validation captions/text_summary")
    (text,) = event.tensor_proto.string_val
    assert text.decode().count("\n") == 1 + 3


def test_steps_of_training_and_validation_are_reported(
    colours: Path, features: Path, weights: Path, tmp_path: Path
) -> None:
    """Bug: the terminal showed no progress between log lines, for minutes in slow epochs."""
    found: list[tuple[str, int, int]] = []
    train(
        tiny.cached(weights, epochs=2),
        colours,
        tmp_path / "run",
        features=features,
        step_progress=lambda *step: found.append(step),
    )
    assert found == [
        (f"epoch {epoch}/2 {what}", done, total)
        for epoch in (1, 2)
        for what, total in (("step", 6), ("validation step", 1))
        for done in range(1, total + 1)
    ]


@pytest.mark.parametrize(("steps", "warned"), [(5, False), (6, True)])
def test_warm_up_as_long_as_training_logs_a_warning(
    colours: Path,
    features: Path,
    weights: Path,
    tmp_path: Path,
    log_capture: pytest.LogCaptureFixture,
    steps: int,
    warned: bool,
) -> None:
    config = tiny.cached(weights, epochs=1, warmup_steps=steps, limit_images=24)
    train(config, colours, tmp_path / "run", features=features)
    message = "training.warmup_steps is 6, but all 1 epochs have 6 steps: the learning rate rises over 0 steps"
    assert (message in log_capture.messages) == warned


def test_settings_of_a_start_that_failed_are_replaced(
    cached_run: Path, colours: Path, features: Path, weights: Path, tmp_path: Path
) -> None:
    # Bug: after a wrong setting the corrected command was refused because of "other settings".
    run = tmp_path / "run"
    saved = read_run(cached_run)
    save_run(run, saved.config, replace(saved.info, progress={}), None)
    shutil.copy(cached_run / "model.safetensors", run)
    with pytest.raises(ConfigError, match="other settings"):  # weights are never replaced silently
        train(tiny.cached(weights, epochs=1, keep_best=2), colours, run, features=features)
    (run / "model.safetensors").unlink()
    result = train(tiny.cached(weights, epochs=1, keep_best=2), colours, run, features=features)
    assert result.epochs == 1


def test_missing_data_is_reported_before_the_settings_of_the_run(
    cached_run: Path, weights: Path, tmp_path: Path
) -> None:
    # Bug: a mistyped path was reported as "other settings" of the run.
    with pytest.raises(DataError, match="does not exist"):
        train(tiny.cached(weights, epochs=1), tmp_path / "dta", cached_run)


def test_logged_losses_equal_those_of_single_captions(
    colours: Path, annotations: Annotations, store: JoinedStores, features: Path, weights: Path, tmp_path: Path
) -> None:
    """With a tiny learning rate the weights are constant, so that the losses can be recomputed afterwards."""
    train(tiny.cached(weights, learning_rate=1e-12, epochs=1), colours, tmp_path / "run", features=features)
    (end,) = [row for row in rows(tmp_path / "run") if row["val_loss"]]
    for split, column in (("train", "train_loss"), ("val", "val_loss")):
        assert float(end[column]) == pytest.approx(
            mean_loss(tmp_path / "run", annotations.split(split), store), rel=1e-5
        )


def test_overfits_six_images(
    colours: Path, annotations: Annotations, features: Path, weights: Path, tmp_path: Path
) -> None:
    subset = {"limit_images": 6, "captions_per_image": 1, "batch_captions": 2, "monitor": "val_loss"}
    sizes = {"projection_size": 64, "hidden_size": 64, "attention_size": 32, "projection_activation": "none"}
    config = tiny.cached(weights, epochs=40, **subset, **sizes)
    train(config, colours, tmp_path / "run", features=features)
    losses = epochs(tmp_path / "run", "train_loss")
    assert losses[0] > 2
    assert losses[-1] < 0.1 * losses[0]
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    captioner = TrainedCaptioner.load(tmp_path / "run", "cpu")  # has the best weights of validation, from much earlier
    captioner.model.load_state_dict({name.removeprefix("model."): last[name] for name in last}, strict=False)
    items = annotations.split("train").items[:6]
    captions = captioner.caption([item.image for item in items])
    assert [caption.text for caption in captions] == [item.captions[0] for item in items]


@pytest.mark.parametrize("monitor", ["val_cider", "val_loss"])
def test_stops_when_patience_is_exhausted(
    colours: Path, features: Path, weights: Path, tmp_path: Path, monitor: str
) -> None:
    config = tiny.cached(weights, learning_rate=1e-12, epochs=9, patience=2, monitor=monitor, keep_best=1)
    if monitor == "val_loss":  # whose rounding errors may look like progress
        config = tiny.cached(weights, learning_rate=0.3, epochs=30, patience=2, monitor=monitor, keep_best=1)
    result = train(config, colours, tmp_path / "run", features=features)
    assert result.stopped_by == "patience"
    assert result.epochs == result.best_epoch + 2 < config.training.epochs
    assert load_run(tmp_path / "run").info.progress["stopped_by"] == "patience"


def test_best_of_cider_is_the_highest(cached_run: Path) -> None:
    values, progress = epochs(cached_run, "val_cider"), load_run(cached_run).info.progress
    assert progress["best"] == max(values) > 1
    assert progress["best_epoch"] == values.index(max(values)) + 1


def test_keeps_the_best_five_checkpoints_the_last_and_the_best_weights(
    colours: Path, features: Path, weights: Path, tmp_path: Path
) -> None:
    config = tiny.cached(weights, learning_rate=0.06, epochs=14, batch_captions=4, monitor="val_loss")
    result = train(config, colours, tmp_path / "run", features=features)
    values = epochs(tmp_path / "run", "val_loss")
    order = np.argsort(values)
    assert result.best_epoch == order[0] + 1
    assert result.best == values[order[0]]
    assert result.best_epoch < 14, "the best epoch should not be the last one"
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {"last.ckpt", *(f"epoch{epoch + 1:03d}-val_loss{values[epoch]:.4f}.ckpt" for epoch in order[:5])}
    (best,) = (tmp_path / "run" / "checkpoints").glob(f"epoch{order[0] + 1:03d}*")
    state = torch.load(best, weights_only=True)["state_dict"]
    model = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(tensor, model[name.removeprefix("model.")]) for name, tensor in state.items())


def test_finished_run_is_unchanged(cached_run: Path, colours: Path, features: Path) -> None:
    before = outcome(cached_run)
    result = train(load_run(cached_run).config, colours, cached_run, features=features)
    assert result.stopped_by == "nothing to do"
    assert (result.epochs, result.best) == (20, before["progress"]["best"])
    assert outcome(cached_run) == before


def test_other_settings_raise_unless_overwriting(
    cached_run: Path, colours: Path, features: Path, weights: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(cached_run, tmp_path / "run")
    other = tiny.cached(weights, epochs=1, keep_best=2)
    with pytest.raises(
        ConfigError, match=r"other settings \(training\.epochs is 20 there, 1 here\); --resume alone .*--init-from"
    ):
        train(other, colours, run, features=features)
    assert outcome(run) == outcome(cached_run)
    result = train(other, colours, run, features=features, overwrite=True)
    assert (result.epochs, len(epochs(run, "val_loss"))) == (1, 1)


@pytest.mark.parametrize("log_every", [1, 1000])
def test_diverging_training_ends_in_one_line(
    colours: Path, features: Path, weights: Path, tmp_path: Path, log_every: int
) -> None:
    """Bug: without a logged step in the epoch, the diverged model was saved as the best."""
    config = tiny.cached(
        weights, optimizer="rmsprop", learning_rate=1e30, max_grad_norm=0.0, log_every=log_every, epochs=3
    )
    with pytest.raises(ConfigError, match=r"^the loss is nan at step \d+: training has diverged; .*learning_rate"):
        train(config, colours, tmp_path / "run", features=features)
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("mode", ["full", "frozen", "cached"])
def test_encoder_is_trained_only_if_configured(colours: Path, weights: Path, tmp_path: Path, mode: str) -> None:
    config = tiny.cached(weights, encoder_training=mode, epochs=1, limit_images=6)
    result = train(config, colours, tmp_path / "run", features=tmp_path / "features")
    assert result.epochs == 1
    assert (tmp_path / "features").exists() == (mode == "cached")
    before = tiny.build(weights).state_dict()
    after = TrainedCaptioner.load(tmp_path / "run", "cpu").model.encoder
    assert after is not None
    same = [torch.equal(tensor, before[name]) for name, tensor in after.state_dict().items()]
    assert all(same) == (mode != "full")
    if mode == "full":
        running = [name for name in before if "running" in name]
        assert running
        assert all(torch.equal(after.state_dict()[name], before[name]) for name in running)


def test_frozen_encoder_trains_like_its_cached_features_up_to_rounding(
    colours: Path, weights: Path, tmp_path: Path
) -> None:
    for mode in ("frozen", "cached"):
        config = tiny.cached(weights, encoder_training=mode)
        train(config, colours, tmp_path / mode, features=tmp_path / "features")
    frozen, cached = (epochs(tmp_path / mode, "train_loss") for mode in ("frozen", "cached"))
    assert frozen == pytest.approx(cached, rel=2e-3)
    assert frozen != cached


@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_feature_dtype_without_cached_features_raises(colours: Path, weights: Path, tmp_path: Path, mode: str) -> None:
    with pytest.raises(ConfigError, match=rf"feature_dtype is int8, but .*={mode} stores no features; .* cached$"):
        train(tiny.cached(weights, encoder_training=mode, feature_dtype="int8"), colours, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["crop_fraction", "encoder_learning_rate"])
def test_settings_of_an_encoder_in_the_loop_raise_with_cached_features(
    colours: Path, features: Path, weights: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match=rf"training\.{name}.* full$"):
        train(tiny.cached(weights, **{name: 0.1}), colours, tmp_path / "run", features=features)
    assert not (tmp_path / "run").exists()


def test_encoder_has_its_own_learning_rate(colours: Path, tmp_path: Path) -> None:
    """A tiny learning rate keeps the encoder's weights; the images are augmented."""
    for name, settings in (("plain", {}), ("still", {"encoder_learning_rate": 1e-12, "crop_fraction": 0.2})):
        train(tiny.in_loop(epochs=1, **settings), colours, tmp_path / name)
    plain, still = (safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in ("plain", "still"))
    torch.manual_seed(tiny.in_loop().training.seed)
    first = build_encoder(tiny.in_loop().encoder).state_dict()
    for name, tensor in first.items():
        if name.endswith("weight"):
            assert torch.allclose(still[f"encoder.{name}"], tensor, atol=1e-9)
            assert not torch.allclose(plain[f"encoder.{name}"], tensor, atol=1e-3)


@pytest.mark.parametrize("mode", ["full", "cached"])
def test_encoder_with_random_weights_follows_the_seed_and_its_run_loads(
    colours: Path, tmp_path: Path, images: list[str], mode: str
) -> None:
    """Bug: its weights were initialised before the seed was set, and a run on cached features did not save them."""
    results = []
    for turn, seed in enumerate((0, 0, 1)):
        config = tiny.in_loop(encoder_training=mode, encoder_weights="pretrained", epochs=1, seed=seed)
        run = tmp_path / f"{turn}"
        train(config, colours, run, features=tmp_path / "features")
        results.append(outcome(run)["metrics"])
        assert TrainedCaptioner.load(run, "cpu").caption(images[0]).words is not None
    assert results[0] == results[1] != results[2]


def test_pooled_decoder_on_a_pooled_encoder_in_bfloat16_learns(colours: Path, weights: Path, tmp_path: Path) -> None:
    config = tiny.cached(
        weights, pool="pooled", decoder="pooled", projection_size=32, num_layers=2, precision="bfloat16", epochs=8
    )
    train(config, colours, tmp_path / "run", features=tmp_path / "features")
    losses = epochs(tmp_path / "run", "val_loss")
    assert losses[-1] < 0.7 * losses[0]


class TestStores:
    def test_passed_stores_replace_extracted_ones(
        self, colours: Path, annotations: Annotations, weights: Path, features: Path, tmp_path: Path
    ) -> None:
        encoder = tiny.build(weights)
        extract_features({item.id: item.image for item in annotations}, encoder, tmp_path / "s")
        config = tiny.cached(weights)
        train(config, colours, tmp_path / "given", stores=[tmp_path / "s"])
        train(config, colours, tmp_path / "own", features=features)
        assert outcome(tmp_path / "given") == outcome(tmp_path / "own")

    def test_training_on_joined_and_imported_stores(
        self, colours: Path, annotations: Annotations, weights: Path, tmp_path: Path
    ) -> None:
        images = {item.id: item.image for item in annotations}
        extract_features(images, tiny.build(weights), tmp_path / "s")
        np.savez(tmp_path / "f.npz", **{name: tiny.features(len(name), 9, 5) for name in images})  # type: ignore[arg-type]
        import_features(tmp_path / "f.npz", images, tmp_path / "t")
        result = train(tiny.cached(weights), colours, tmp_path / "run", stores=[tmp_path / "s", tmp_path / "t"])
        info = load_run(result.folder).info
        assert (info.feature_size, info.grid, info.encoder_stored) == (96 + 5, (2, 2), False)
        assert info.features["joined"][1] == {"imported": "f.npz"}

    def test_a_store_of_another_encoder_raises(
        self, colours: Path, annotations: Annotations, weights: Path, tmp_path: Path
    ) -> None:
        other = tiny.build(tiny.write_encoder(tmp_path / "other.safetensors", seed=1))
        extract_features({item.id: item.image for item in annotations}, other, tmp_path / "s")
        with pytest.raises(FeatureStoreError, match=r"is of test_resnet at 48 px.*not of test_resnet.*digest"):
            train(tiny.cached(weights), colours, tmp_path / "run", stores=[tmp_path / "s"])
        assert not (tmp_path / "run").exists()

    def test_a_store_of_an_encoder_that_is_not_configured_raises_before_its_weights_are_loaded(
        self, colours: Path, annotations: Annotations, weights: Path, tmp_path: Path
    ) -> None:
        extract_features({item.id: item.image for item in annotations}, tiny.build(weights), tmp_path / "s")
        config = tiny.cached(tmp_path / "no such weights", encoder="resnet50")
        with pytest.raises(ConfigError, match=r"features of test_resnet at 48 px.*pass .* --encoder test_resnet$"):
            train(config, colours, tmp_path / "run", stores=[tmp_path / "s"])

    def test_images_missing_from_a_store_are_logged(
        self,
        colours: Path,
        annotations: Annotations,
        weights: Path,
        tmp_path: Path,
        log_capture: pytest.LogCaptureFixture,
    ) -> None:
        some = {item.id: item.image for item in annotations if item.id != annotations.split("train")[0].id}
        extract_features(some, tiny.build(weights), tmp_path / "s")
        train(tiny.cached(weights, epochs=1), colours, tmp_path / "run", stores=[tmp_path / "s"])
        assert "skipped 1 train images without features" in log_capture.messages


def test_unreadable_image_is_logged_and_skipped(
    colours: Path, weights: Path, tmp_path: Path, log_capture: pytest.LogCaptureFixture
) -> None:
    data = shutil.copytree(colours, tmp_path / "data")
    broken = Path(load_annotations(data).split("train")[3].image)
    broken.write_bytes(broken.read_bytes()[:50])
    train(tiny.cached(weights, epochs=1), data, tmp_path / "run", features=tmp_path / "features")
    assert any(line.startswith(f"left out: {broken}: damaged or truncated") for line in log_capture.messages)
    assert any("of 23 images" in line for line in log_capture.messages)


def test_unreadable_image_raises_with_an_encoder_in_the_loop(colours: Path, tmp_path: Path) -> None:
    data = shutil.copytree(colours, tmp_path / "data")
    broken = Path(load_annotations(data).split("train")[3].image)
    broken.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{broken.name}: the file is empty"):
        train(tiny.in_loop(), data, tmp_path / "run")


def test_data_without_training_or_validation_images_raises(
    annotations: Annotations, weights: Path, tmp_path: Path
) -> None:
    for missing in ("train", "val"):
        write_annotations([item for item in annotations if item.split != missing], tmp_path / "data.jsonl")
        with pytest.raises(DataError, match=missing if missing == "val" else "training captions"):
            train(tiny.cached(weights), tmp_path / "data.jsonl", tmp_path / "run", features=tmp_path / "features")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        (
            lambda train, val: [train[0], replace(val[0], captions=("...!",))],
            "the validation captions are empty after cleaning",
        ),
        (lambda train, val: [train[0], replace(val[0], image=__file__)], "no validation image can be read"),
        (lambda train, val: train, "no validation captions .*--resplit"),
        (lambda train, val: [replace(train[0], split=None)], "1 image, too few for 3 splits"),
    ],
)
def test_unsuitable_data_raises_before_the_encoder_is_built(
    annotations: Annotations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, items: Any, reason: str
) -> None:
    # Bug: the error came after building the encoder and encoding every image.
    monkeypatch.setattr("seesay.training.inputs.open_sources", None)
    found = items(list(annotations.split("train")), list(annotations.split("val")))
    write_annotations(found, tmp_path / "data.jsonl")
    with pytest.raises(DataError, match=reason):
        train(tiny.untrained(), tmp_path / "data.jsonl", tmp_path / "run", features=tmp_path / "features")
    assert not (tmp_path / "run").exists()
    report = check_data(load_annotations(tmp_path / "data.jsonl"), TextConfig())
    assert any(re.search(reason, obstacle) for obstacle in report.obstacles)


def test_data_without_splits_is_split(annotations: Annotations, weights: Path, tmp_path: Path) -> None:
    items = [Annotation(item.id, item.image, item.captions) for item in annotations]
    write_annotations(items, tmp_path / "data.jsonl")
    config = tiny.cached(weights, epochs=1, split_fractions="50/50")
    assert train(config, tmp_path / "data.jsonl", tmp_path / "run", features=tmp_path / "features").epochs == 1


class TestLoggers:
    def test_an_unknown_logger_raises_and_names_the_known_ones(
        self, colours: Path, features: Path, weights: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigError, match=r"training\.loggers: Lightning has no 'Wandb'; it has .*WandbLogger"):
            train(tiny.cached(weights, loggers=["Wandb"]), colours, tmp_path / "run", features=features)

    def test_a_logger_without_its_library_raises(
        self, colours: Path, features: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from lightning.pytorch import loggers

        def absent(**_: Any) -> None:
            raise ModuleNotFoundError("No module named 'wandb'")

        monkeypatch.setattr(loggers, "WandbLogger", absent)
        with pytest.raises(ConfigError, match="WandbLogger needs a library that is not installed"):
            train(tiny.cached(weights, loggers=["WandbLogger"]), colours, tmp_path / "run", features=features)

    def test_a_known_logger_receives_the_metrics(
        self, colours: Path, features: Path, weights: Path, tmp_path: Path
    ) -> None:
        train(tiny.cached(weights, epochs=1, loggers=["CSVLogger"]), colours, tmp_path / "run", features=features)
        (path,) = (tmp_path / "run").rglob("lightning_logs/*/metrics.csv")
        assert {"train_loss", "val_loss", "val_cider"} <= set(path.read_text().splitlines()[0].split(","))


def test_a_full_disk_raises_and_keeps_the_last_checkpoint(
    colours: Path, features: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, save = [0], torch.save

    def fail(checkpoint: Any, file: Any) -> None:
        saved[0] += 1
        if saved[0] == 2:
            raise OSError(28, "No space left on device")
        save(checkpoint, file)

    monkeypatch.setattr(callbacks.torch, "save", fail)  # type: ignore[attr-defined]
    config = tiny.cached(weights)
    with pytest.raises(CheckpointError, match=r"cannot write .*\.ckpt .*No space left on device.*make room"):
        train(config, colours, tmp_path / "run", features=features)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["last.ckpt"]
    assert train(config, colours, tmp_path / "run", features=features).epochs == 2


def test_a_run_names_its_encoder_and_loads_without_executing_code(cached_run: Path, weights: Path) -> None:
    info = json.loads((cached_run / "captioner.json").read_text())
    assert info["features"] == build_encoder(tiny.cached(weights).encoder).identity
    torch.load(cached_run / "checkpoints" / "last.ckpt", weights_only=True)


def test_the_complete_config_is_saved(cached_run: Path, weights: Path) -> None:
    saved: Config = load_run(cached_run).config
    assert saved == tiny.cached(weights, epochs=20, keep_best=2)
