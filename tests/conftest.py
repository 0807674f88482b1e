"""Runs that are trained once for all tests. They are read, never written: a test that changes one copies it."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is loaded: on networks this small a second thread only waits, and on busy cores its spinning made a
# test of two seconds take two minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from seesay.data.annotations import Annotations, load_annotations
from seesay.features import FeatureStore, JoinedStores, store_path
from tests import tiny


def pytest_collection_finish() -> None:
    """Leaves the objects of imported libraries, some two million, out of every later garbage collection."""
    gc.collect()
    gc.freeze()


CURVES = "seesay.training.fit.training_curves"


@pytest.fixture(scope="session", autouse=True)
def no_curves() -> Iterator[None]:
    """Draw no training curves: drawing takes as long as a training does here. `curves` restores them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CURVES, lambda *_: None)
        yield


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw training curves."""
    from seesay.visualise import training_curves

    monkeypatch.setattr(CURVES, training_curves)


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a data set of 36 images: 24 train, 6 val, 6 test."""
    folder = tmp_path_factory.mktemp("data") / "colours"
    tiny.make_colours(folder)
    return folder


@pytest.fixture(scope="session")
def annotations(colours: Path) -> Annotations:
    return load_annotations(colours)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of weights of an encoder."""
    return tiny.write_encoder(tmp_path_factory.mktemp("encoder") / "weights.safetensors")


@pytest.fixture(scope="session")
def features(cached_run: Path) -> Path:
    """The folder with the store that `cached_run` was trained on."""
    return cached_run.parent / "features"


@pytest.fixture(scope="session")
def cached_run(tmp_path_factory: pytest.TempPathFactory, colours: Path, weights: Path) -> Path:
    """A finished run on cached features, trained until it tells images apart."""
    from seesay.training.fit import train
    from seesay.visualise import training_curves

    folder = tmp_path_factory.mktemp("cached")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CURVES, training_curves)
        train(tiny.cached(weights, epochs=20, keep_best=2), colours, folder / "run", features=folder / "features")
    return folder / "run"


@pytest.fixture(scope="session")
def store(colours: Path, weights: Path, features: Path) -> JoinedStores:
    """The features that `cached_run` was trained on."""
    return JoinedStores([FeatureStore(store_path(features, colours, tiny.build(weights)))])


@pytest.fixture(scope="session")
def loop_run(tmp_path_factory: pytest.TempPathFactory, colours: Path) -> Path:
    """A finished run whose encoder was trained too."""
    from seesay.training.fit import train

    folder = tmp_path_factory.mktemp("loop")
    train(tiny.in_loop(epochs=6, keep_best=2), colours, folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def images(annotations: Annotations) -> list[str]:
    """The paths of all images."""
    return [item.image for item in annotations]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a run of random weights was exported to, `onnx` in the run's."""
    from seesay.cli import app

    run = tiny.random_run(tmp_path_factory.mktemp("exported") / "run", tiny.untrained())
    app(["export", str(run)], result_action="return_value")  # not by `main`, which sets up logging for good
    return run / "onnx"
