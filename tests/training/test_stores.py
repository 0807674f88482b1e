"""Training on cached features of images and of mirrored images."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seesay.captioners.trained import TrainedCaptioner
from seesay.checkpoint import load_run
from seesay.config import Config, replace
from seesay.data.annotations import write_annotations
from seesay.data.augmentation import flippable_images
from seesay.data.batches import Batch
from seesay.data.records import Annotations
from seesay.errors import ConfigError, DataError, FeatureStoreError
from seesay.evaluation.captioning import feature_source
from seesay.features import FeatureStore, extract_features, import_features, store_path
from seesay.models.encoders import Encoder
from seesay.training.module import CaptioningModule
from seesay.training.stores import open_sources
from seesay.training.train import train
from seesay.training.tuning.tune import tune
from tests import tiny
from tests.training.outcomes import epochs, outcome
from tests.training.test_resume import train_and_fail


@pytest.fixture
def own(features: Path, tmp_path: Path) -> Path:
    """A folder of feature stores with that of the original images."""
    return Path(shutil.copytree(features, tmp_path / "features"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, annotations: Annotations, weights: Path) -> dict[str, Path]:
    """Stores of two encoders, of original and mirrored images each."""
    folder = tmp_path_factory.mktemp("two")
    other = tiny.build(tiny.write_encoder(folder / "other.weights", seed=1))
    stores = {}
    for name, encoder in (("a", tiny.build(weights)), ("b", other)):
        stores[name], stores[f"{name}-mirrored"] = folder / name, folder / f"{name}-mirrored"
        extract_features({item.id: item.image for item in annotations}, encoder, folder / name)
        extract_features(flippable_images(annotations), encoder, folder / f"{name}-mirrored", mirrored=True)
    return stores


def mirrored_of(folder: Path, data: Path, encoder: Encoder) -> FeatureStore:
    return FeatureStore(store_path(folder, data, encoder, mirrored=True))


@pytest.mark.parametrize("stage", ["first", "second"])
def test_cached_features_equal_those_of_an_encoder_in_the_loop(
    cached_run: Path,
    colours: Path,
    weights: Path,
    own: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    """The encoder gets mirrored pixels; cached training selects mirrored features of the same images and steps."""
    seen: list[Batch] = []
    real = CaptioningModule.training_step

    def spy(module: CaptioningModule, batch: Batch, place: int) -> Any:
        seen.append(batch)
        return real(module, batch, place)

    monkeypatch.setattr(CaptioningModule, "training_step", spy)
    second = {"scst_weight": 0.8, "init_from": str(cached_run)} if stage == "second" else {}
    for mode in ("cached", "frozen"):
        config = tiny.cached(weights, encoder_training=mode, hflip_prob=0.5, captions_per_image=1, **second)
        train(config, colours, tmp_path / mode, features=own)
    encoder, plain, turned = tiny.build(weights), FeatureStore(store_path(own, colours, tiny.build(weights))), []
    steps = len(seen) // 2
    for cached, frozen in zip(seen[:steps], seen[steps:], strict=True):
        assert cached.ids == frozen.ids
        assert cached.features is not None
        assert frozen.pixels is not None
        with torch.inference_mode():
            features = encoder(frozen.pixels).half()
        torch.testing.assert_close(cached.features, features, rtol=2e-3, atol=2e-3)
        same = np.isclose(cached.features.numpy(), plain.read(cached.ids)[0], rtol=2e-3, atol=2e-3)
        turned += (~same.all((1, 2))).tolist()
    assert len(turned) == 2 * 24
    assert 12 < sum(turned) < 36


def test_only_training_images_without_left_or_right_are_mirrored(
    annotations: Annotations, colours: Path, weights: Path, own: Path, tmp_path: Path
) -> None:
    config, encoder = tiny.cached(weights, hflip_prob=0.5, epochs=1), tiny.build(weights)
    before = store_path(own, colours, encoder).read_bytes()
    train(config, colours, tmp_path / "run", features=own)
    store = mirrored_of(own, colours, encoder)
    neutral = [item.id for item in annotations.split("train") if not any("right" in text for text in item.captions)]
    assert 0 < len(neutral) < 24
    assert store.ids == neutral
    assert store.pending() == []
    assert store_path(own, colours, encoder).read_bytes() == before
    assert load_run(tmp_path / "run").info.features == encoder.identity


def test_validation_uses_original_images(colours: Path, weights: Path, own: Path, tmp_path: Path) -> None:
    """With a tiny learning rate the weights are constant, so that losses differ only by the input."""
    for flip in (0.0, 1.0):
        config = tiny.cached(weights, hflip_prob=flip, learning_rate=1e-12, epochs=1)
        train(config, colours, tmp_path / f"{flip}", features=own)
    plain, mirrored = tmp_path / "0.0", tmp_path / "1.0"
    for column in ("val_loss", "val_cider"):
        assert epochs(mirrored, column) == epochs(plain, column)
    assert epochs(mirrored, "train_loss") != epochs(plain, "train_loss")


def test_resumed_training_equals_uninterrupted_training_with_and_without_scst(
    colours: Path, weights: Path, own: Path, tmp_path: Path
) -> None:
    first = tiny.cached(weights, hflip_prob=0.5, seed=1, output_dropout=0.2, checkpoint_every=2, log_every=1)
    stage = {"scst_weight": 1.0, "init_from": str(tmp_path / "first")}
    second = replace(first, learning_rate=1e-3, epochs=1, **stage)
    for name, config in (("first", first), ("second", second)):
        train(config, colours, tmp_path / name, features=own)
        for step in (4, 3):
            train_and_fail(step, config, colours, tmp_path / f"{name}-broken", features=own)
        train(config, colours, tmp_path / f"{name}-broken", features=own)
        assert outcome(tmp_path / f"{name}-broken") == outcome(tmp_path / name)
    train(replace(second, hflip_prob=0.0), colours, tmp_path / "plain", features=own)
    assert outcome(tmp_path / "plain")["weights"] != outcome(tmp_path / "second")["weights"]


def test_missing_mirrored_features_raise(
    colours: Path, annotations: Annotations, weights: Path, two: dict[str, Path], tmp_path: Path
) -> None:
    config = tiny.cached(weights, hflip_prob=0.5, checkpoint_every=2)
    stores = [two["a"], two["a-mirrored"]]
    train_and_fail(4, config, colours, tmp_path / "run", stores=stores)
    fewer = dict(list(flippable_images(annotations).items())[1:])
    extract_features(fewer, tiny.build(weights), tmp_path / "fewer", mirrored=True)
    with pytest.raises(DataError, match=r"trained with 8 flippable images, but there are now 7"):
        train(config, colours, tmp_path / "run", stores=[two["a"], tmp_path / "fewer"])
    train(config, colours, tmp_path / "run", stores=stores)


class TestGiven:
    def config(self, weights: Path, **overrides: Any) -> Config:
        return tiny.cached(weights, **{"hflip_prob": 0.5, "epochs": 1, **overrides})

    def open(self, config: Config, annotations: Annotations, tmp_path: Path, *stores: Path) -> Any:
        return open_sources(config, annotations, "data", tmp_path / "features", stores, None)

    def test_stores_of_several_encoders_are_joined_in_any_order(
        self, colours: Path, annotations: Annotations, weights: Path, two: dict[str, Path], tmp_path: Path
    ) -> None:
        orders = (["a", "b", "a-mirrored", "b-mirrored"], ["b-mirrored", "a", "a-mirrored", "b"])
        for order in orders:
            given = [two[name] for name in order]
            train(self.config(weights), colours, tmp_path / "-".join(order), stores=given)
            sources = self.open(self.config(weights), annotations, tmp_path, *given)
            names = [[store.path.name for store in side.stores] for side in (sources.plain, sources.mirrored)]
            assert names == [["a", "b"], ["a-mirrored", "b-mirrored"]]
        one, other = (outcome(tmp_path / "-".join(order)) for order in orders)
        assert one == other
        info = load_run(tmp_path / "-".join(orders[0])).info
        assert info.features == {"joined": [FeatureStore(two[name]).identity for name in "ab"]}

    def test_a_store_of_the_run_s_encoder_gets_a_mirrored_one(
        self, colours: Path, weights: Path, own: Path, two: dict[str, Path], tmp_path: Path
    ) -> None:
        config = self.config(weights)
        train(config, colours, tmp_path / "own", features=own)
        train(config, colours, tmp_path / "given", stores=[two["a"]], features=tmp_path / "made")
        train(config, colours, tmp_path / "both", stores=[two["a-mirrored"], two["a"]], features=tmp_path / "none")
        assert outcome(tmp_path / "own") == outcome(tmp_path / "given") == outcome(tmp_path / "both")
        assert len(list((tmp_path / "made").iterdir())) == 1
        assert not (tmp_path / "none").exists()

    def test_stores_that_contradict_the_settings_raise(
        self, annotations: Annotations, weights: Path, two: dict[str, Path], tmp_path: Path
    ) -> None:
        plain, config = self.config(weights, hflip_prob=0.0), self.config(weights)
        cropped = self.config(weights, crop_fraction=0.1, encoder_training="frozen")
        with pytest.raises(ConfigError, match=r"a-mirrored contains features of mirrored .*hflip_prob=0 never uses"):
            self.open(plain, annotations, tmp_path, two["a"], two["a-mirrored"])
        with pytest.raises(FeatureStoreError, match=r"a-mirrored has .*; also pass the store of the original images"):
            self.open(plain, annotations, tmp_path, two["a-mirrored"])
        with pytest.raises(FeatureStoreError, match=r"b has no store of mirrored images.* seesay extract DATA"):
            self.open(config, annotations, tmp_path, two["a"], two["b"], two["a-mirrored"])
        with pytest.raises(FeatureStoreError, match=r"b-mirrored has .* matches no other store"):
            self.open(config, annotations, tmp_path, two["a"], two["b-mirrored"])
        with pytest.raises(ConfigError, match=r"crop_fraction needs images, but feature stores were passed"):
            self.open(cropped, annotations, tmp_path, two["a"])

    def test_imported_features_cannot_be_mirrored(
        self, annotations: Annotations, weights: Path, tmp_path: Path
    ) -> None:
        images = {item.id: item.image for item in annotations}
        np.savez(tmp_path / "f.npz", **{name: tiny.features(len(name), 9, 5) for name in images})  # type: ignore[arg-type]
        import_features(tmp_path / "f.npz", images, tmp_path / "s")
        with pytest.raises(FeatureStoreError, match=r"imported features 'f.npz', which have no mirrored"):
            self.open(self.config(weights), annotations, tmp_path, tmp_path / "s")

    def test_images_without_mirrored_features_are_logged(
        self,
        annotations: Annotations,
        weights: Path,
        two: dict[str, Path],
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        wanted, encoder = flippable_images(annotations), tiny.build(weights)
        extract_features(dict(list(wanted.items())[2:]), encoder, tmp_path / "some", mirrored=True)
        others = {item.id: item.image for item in annotations if item.id not in wanted}
        extract_features(others, encoder, tmp_path / "others", mirrored=True)
        logger = logging.getLogger("seesay")
        logger.addHandler(caplog.handler)
        try:
            self.open(self.config(weights), annotations, tmp_path, two["a"], tmp_path / "some")
        finally:
            logger.removeHandler(caplog.handler)
        assert "2 training images have no mirrored features and are not mirrored" in caplog.messages
        with pytest.raises(FeatureStoreError, match=r"others contains none of the training images that can be mirror"):
            self.open(self.config(weights), annotations, tmp_path, two["a"], tmp_path / "others")

    def test_evaluation_on_mirrored_features_raises(
        self, cached_run: Path, annotations: Annotations, two: dict[str, Path]
    ) -> None:
        captioner, items = TrainedCaptioner.load(cached_run, "cpu"), annotations.split("test").items
        with pytest.raises(FeatureStoreError, match="a-mirrored has features of mirrored images; also pass the store"):
            feature_source(captioner, items, "data", "features", [two["a-mirrored"]], None)


def test_no_image_to_mirror_raises(annotations: Annotations, weights: Path, tmp_path: Path) -> None:
    sided = [item for item in annotations if len(item.captions) > 1]
    write_annotations(sided, tmp_path / "data.jsonl")
    with pytest.raises(DataError, match=r"no training image that can be flipped: .* set training.hflip_prob to 0"):
        train(tiny.cached(weights, hflip_prob=0.5), tmp_path / "data.jsonl", tmp_path / "run", features=tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_tuning_may_search_hflip_prob(colours: Path, weights: Path, own: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    config = tiny.cached(weights, epochs=1, learning_rate=1e-12, seed=1)
    space = {"hflip_prob": [0.0, 0.5, 1.0]}
    result = tune(config, colours, tmp_path / "s", trials=4, space=space, features=own)
    losses: dict[float, set[float]] = {}
    for trial in result.trials:
        assert trial.state == "complete"
        told = epochs(tmp_path / "s" / f"trial-{trial.number:03d}", "train_loss")
        losses.setdefault(trial.settings["hflip_prob"], set()).update(told)
    assert len(losses) > 1, "the seed should draw another value than the default"
    assert all(len(found) == 1 for found in losses.values())
    assert len(set.union(*losses.values())) == len(losses)
