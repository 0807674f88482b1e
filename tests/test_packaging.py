"""The version, the metadata, the workflows and the source archive agree."""

import re
import runpy
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from seesay import __version__
from seesay.captioners.onnx.manifest import REQUIREMENTS
from seesay.captioners.recommended import recommended_models
from seesay.errors import CORE_MODULES

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = ROOT / ".github/workflows"
HEADING = re.compile(r"^## (?P<version>\d+\.\d+\.\d+) \((?P<date>unreleased|\d{4}-\d\d-\d\d)\)$")


def _headings() -> list[re.Match[str]]:
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    matches = {line: HEADING.match(line) for line in lines if line.startswith("## ")}
    assert all(matches.values()), matches
    return [match for match in matches.values() if match]


def _workflow(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((WORKFLOWS / name).read_text(encoding="utf-8"))
    return content


def test_the_changelog_begins_with_the_version_and_descends() -> None:
    headings = _headings()
    assert headings[0]["version"] == __version__
    numbers = [tuple(map(int, heading["version"].split("."))) for heading in headings]
    assert numbers == sorted(set(numbers), reverse=True)
    assert all(heading["date"] != "unreleased" for heading in headings[1:])


def test_the_version_is_stated_once_for_the_package_and_once_for_citations() -> None:
    assert "version" in PROJECT["dynamic"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (__version__, PROJECT["license"])


def test_classifiers_lower_bound_and_tested_versions_of_python_agree() -> None:
    classifiers = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    jobs = _workflow("test.yml")["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == classifiers
    assert PROJECT["requires-python"] == f">={classifiers[0]}"
    assert classifiers[0] in [step.get("with", {}).get("python-version") for step in jobs["lowest"]["steps"]]
    assert (ROOT / "Makefile").read_text(encoding="utf-8").count(f"Python {classifiers[0]} or newer") == 1


def test_every_requirement_of_users_states_its_lowest_version() -> None:
    extras = [listed for name, listed in PROJECT["optional-dependencies"].items() if name not in ("dev", "docs")]
    for requirement in [*PROJECT["dependencies"], *(each for listed in extras for each in listed)]:
        assert ">=" in requirement, requirement


def test_development_and_extras_have_the_same_bounds() -> None:
    extras = PROJECT["optional-dependencies"]
    for name, listed in extras.items():
        for requirement in listed if name not in ("dev", "docs", "quantised") else []:
            assert requirement in extras["dev"], f"{name}: {requirement}"


def test_licences_are_listed() -> None:
    page = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    packages, models = page.split("## Recommended")
    requirements = runpy.run_path(str(ROOT / "examples/licences.py"))["requirements"]()
    assert dict(re.findall(r"^\| (\S+) \| (\S+) \| [^|]+ \|$", packages, re.MULTILINE)) == requirements
    listed = re.findall(r"^\| (\S+/\S+) \| ([^|]+) \|$", models, re.MULTILINE)
    assert listed == [(model.name, model.license) for model in recommended_models()[1]]


def test_workflows_have_minimal_permissions() -> None:
    paths = sorted(WORKFLOWS.glob("*.yml"))
    assert paths
    for path in paths:
        workflow = _workflow(path.name)
        assert workflow["permissions"] == {"contents": "read"}, path.name
        for step in (step for job in workflow["jobs"].values() for step in job["steps"]):
            if step.get("uses", "").startswith("actions/checkout"):
                assert step["with"]["persist-credentials"] is False, path.name


def test_the_source_archive_is_what_git_tracks(tmp_path: Path) -> None:
    """Nothing that the tests or a build need is missing, and no build output or data is included."""
    if not (ROOT / ".git").exists():
        pytest.skip("git lists the files that belong to the source archive")
    pytest.importorskip("setuptools")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = {name for name in listing.split("\0") if (ROOT / name).is_file()}
    for name in [*tracked, "src/seesay/kernels/_native_base.abi3.so", "runs/mine/model.safetensors", "src/x.pyc"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes() if name in tracked else b"")
    code = "from setuptools.build_meta import build_sdist; build_sdist('dist')"  # it writes into its folder
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)
    with tarfile.open(tmp_path / f"dist/seesay-{__version__}.tar.gz") as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert tracked - names == set()
    assert {name for name in names - tracked if ".egg-info/" not in name} == {"PKG-INFO", "setup.cfg"}


def test_the_dependencies_have_modules_that_are_named_when_they_are_missing() -> None:
    modules = {"pillow": "PIL", "pyyaml": "yaml"}
    names = [re.split("[<>=]", line)[0] for line in PROJECT["dependencies"]]
    assert {modules.get(name, name) for name in names} == CORE_MODULES
    assert set(REQUIREMENTS) < set(names)


def test_the_image_is_healthy_while_its_queue_is_full() -> None:
    # Bug: the check requested /readyz, so that a busy container was marked as unhealthy and restarted.
    check = (ROOT / "Dockerfile").read_text(encoding="utf-8").partition("HEALTHCHECK")[2]
    assert "/healthz" in check
    assert "/readyz" not in check
