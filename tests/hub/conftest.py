"""A finished and evaluated run, and a server that stands in for the hub."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from seesay.evaluation import evaluate, save_evaluation
from tests.captioners.pretrained.hub import Hub, connect, serve_hub


@pytest.fixture(scope="session")
def evaluated_run(tmp_path_factory: pytest.TempPathFactory, cached_run: Path, colours: Path, features: Path) -> Path:
    """A copy of `cached_run` with scores on its test split; tests must not change it."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(cached_run, folder)
    found = evaluate(folder, colours, split="test", metrics=("BLEU", "CIDEr"), draws=200, features=features)
    save_evaluation(found, folder / "predictions" / "test")
    return folder


@pytest.fixture
def run(evaluated_run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(evaluated_run, tmp_path / "mine"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub that accepts uploads of the user `ada`."""
    with serve_hub() as found:
        found.work = tmp_path / "hub"
        connect(found, tmp_path / "cache", monkeypatch)
        yield found
