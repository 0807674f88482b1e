"""The jars: errors for missing requirements, and their values if available (`oracle`)."""

import shutil
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

from seesay.errors import DataError, MissingDependencyError
from seesay.metrics import java
from seesay.metrics.java import METEOR_JAR, SPICE, jar_scores, require_jar

HYPOTHESES, REFERENCES = ["a dog runs", "two men sit"], [["a dog is running"], ["three men are sitting"]]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a pycocoevalcap with all files (empty), with java on PATH."""
    folder = tmp_path / "pycocoevalcap"
    for names in java._NEEDED.values():
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    spec = ModuleSpec("pycocoevalcap", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(java, "find_spec", lambda name: spec)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/java")
    return folder


def test_all_requirements(package: Path) -> None:
    require_jar(METEOR_JAR)
    require_jar(SPICE)


@pytest.mark.parametrize("metric", [METEOR_JAR, SPICE])
def test_the_error_without_the_package_names_the_extra(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=rf"{metric} needs pycocoevalcap.*seesay\[coco\]"):
        jar_scores(metric, HYPOTHESES, REFERENCES)


@pytest.mark.parametrize("metric", [METEOR_JAR, SPICE])
def test_a_missing_java_is_an_error(metric: str, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DataError, match=f"{metric} needs Java, and no java is on PATH"):
        jar_scores(metric, HYPOTHESES, REFERENCES)


def test_missing_files_of_spice_are_an_error_and_not_downloaded(package: Path) -> None:
    """pycocoevalcap would download them."""
    jar = package / "spice/lib/stanford-corenlp-3.6.0-models.jar"
    jar.unlink()
    with pytest.raises(DataError, match=f"SPICE needs {jar.name} in {jar.parent}; they are in stanford-corenlp-full"):
        jar_scores(SPICE, HYPOTHESES, REFERENCES)


def test_missing_files_of_meteor_are_an_error(package: Path) -> None:
    for name in java._NEEDED[METEOR_JAR]:
        (package / name).unlink()
    with pytest.raises(DataError, match=r"needs meteor-1.5.jar and paraphrase-en.gz in .*; reinstall pycocoevalcap"):
        jar_scores(METEOR_JAR, HYPOTHESES, REFERENCES)


def with_spice(monkeypatch: pytest.MonkeyPatch, outcome: object) -> None:
    """Replaces pycocoevalcap's class by one that returns or raises an outcome."""

    class Spice:
        def compute_score(self, references: object, hypotheses: object) -> object:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

    module = types.ModuleType("pycocoevalcap.spice.spice")
    module.Spice = Spice  # type: ignore[attr-defined]
    for name in ("pycocoevalcap", "pycocoevalcap.spice"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "pycocoevalcap.spice.spice", module)


def test_values_of_java_are_returned(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_spice(monkeypatch, (0.3, [{"All": {"f": 0.2}}, {"All": {"f": 0.4}}]))
    corpus, per_image, release = jar_scores(SPICE, HYPOTHESES, REFERENCES)
    assert release.startswith("spice-1.0:pycocoevalcap-")
    assert corpus == 0.3
    np.testing.assert_array_equal(per_image, [0.2, 0.4])


@pytest.mark.parametrize(
    "outcome",
    [OSError("no memory"), ValueError("not a number"), (0.3, [{"All": {"f": float("nan")}}] * 2), (0.3, [])],
)
def test_a_failure_of_java_is_an_error_of_one_line(
    package: Path, monkeypatch: pytest.MonkeyPatch, outcome: object
) -> None:
    with_spice(monkeypatch, outcome)
    with pytest.raises(DataError, match="SPICE was not computed: its Java program") as caught:
        jar_scores(SPICE, HYPOTHESES, REFERENCES)
    assert "\n" not in str(caught.value)


def test_a_java_process_that_dies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug: pycocoevalcap keeps its lock when its process dies, and its destructor waited forever."""
    pytest.importorskip("pycocoevalcap.meteor.meteor")
    fake = tmp_path / "java"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(DataError, match="METEOR-jar was not computed: its Java program failed"):
        jar_scores(METEOR_JAR, HYPOTHESES, REFERENCES)


@pytest.mark.oracle
@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_the_jar_scores() -> None:
    corpus, per_image, _ = jar_scores(METEOR_JAR, HYPOTHESES, REFERENCES)
    assert per_image.shape == (2,)
    assert 0 < per_image.min() <= corpus <= per_image.max() < 1
