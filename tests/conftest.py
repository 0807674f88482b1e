"""Runs that are trained once for all tests. Tests must not modify them, but may modify a copy."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# Before torch is loaded: small networks gain nothing from a second thread, and on busy cores its spinning made a test
# of two seconds take two minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from seesay.data.annotations import Annotations, load_annotations
from seesay.features import FeatureStore, JoinedStores, store_path
from tests import tiny


def pytest_collection_finish() -> None:
    """Exclude the objects of imported libraries, about two million, from later garbage collections."""
    gc.collect()
    gc.freeze()


CURVES = "seesay.training.train.training_curves"


@pytest.fixture(scope="session", autouse=True)
def no_curves() -> Iterator[None]:
    """Skip drawing training curves, which takes as long as these trainings; `cached_run` draws them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CURVES, lambda *_: None)
        yield


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw training curves."""
    from seesay.explanation import training_curves

    monkeypatch.setattr(CURVES, training_curves)


@pytest.fixture(scope="session", autouse=True)
def encoder_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the exported encoders of the tests out of the user's cache folder."""
    folder = tmp_path_factory.mktemp("encoders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seesay.models.onnx_encoder.cache_folder", lambda _: folder)
        yield


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a data set of 36 images: 24 train, 6 val, 6 test."""
    folder = tmp_path_factory.mktemp("data") / "colours"
    tiny.make_colours(folder)
    return folder


@pytest.fixture(scope="session")
def annotations(colours: Path) -> Annotations:
    return load_annotations(colours)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File with the weights of an encoder."""
    return tiny.write_encoder(tmp_path_factory.mktemp("encoder") / "weights.safetensors")


@pytest.fixture(scope="session")
def features(cached_run: Path) -> Path:
    """Folder with the feature store of `cached_run`."""
    return cached_run.parent / "features"


@pytest.fixture(scope="session")
def cached_run(tmp_path_factory: pytest.TempPathFactory, colours: Path, weights: Path) -> Path:
    """A finished run on cached features, trained until it distinguishes images."""
    from seesay.explanation import training_curves
    from seesay.training.train import train

    folder = tmp_path_factory.mktemp("cached")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CURVES, training_curves)
        train(tiny.cached(weights, epochs=20, keep_best=2), colours, folder / "run", features=folder / "features")
    return folder / "run"


@pytest.fixture(scope="session")
def indexed_run(tmp_path_factory: pytest.TempPathFactory, cached_run: Path, colours: Path, features: Path) -> Path:
    """A copy of `cached_run` with an index of its training images and settings of consensus reranking."""
    from seesay.captioners.trained import TrainedCaptioner
    from seesay.evaluation.indexing import build_index
    from seesay.retrieval.index import TunedRerank

    folder = shutil.copytree(cached_run, tmp_path_factory.mktemp("indexed") / "run")
    index = build_index(TrainedCaptioner.load(folder, "cpu"), colours, features=features)
    index.with_similarity(-1.0, "").with_tuned("consensus", TunedRerank(6, 1.0, 4)).save(folder)
    return folder


@pytest.fixture(scope="session")
def store(colours: Path, weights: Path, features: Path) -> JoinedStores:
    """Feature store of `cached_run`."""
    return JoinedStores([FeatureStore(store_path(features, colours, tiny.build(weights)))])


@pytest.fixture(scope="session")
def loop_run(tmp_path_factory: pytest.TempPathFactory, colours: Path) -> Path:
    """A finished run with a trained encoder."""
    from seesay.training.train import train

    folder = tmp_path_factory.mktemp("loop")
    train(tiny.in_loop(epochs=6, keep_best=2), colours, folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def images(annotations: Annotations) -> list[str]:
    """Paths of all images."""
    return [item.image for item in annotations]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an exported run with random weights, `onnx` in the run folder."""
    from seesay.cli.main import main

    run = tiny.random_run(tmp_path_factory.mktemp("exported") / "run", tiny.untrained())
    assert main(["export", str(run)]) == 0
    return run / "onnx"
