"""The spin count is set before torch is loaded and never overrides the user's settings."""

import os
import subprocess
import sys

import pytest

from seesay.openmp import SPIN_COUNT, limit_spinning


def spin_count() -> str | None:
    return os.environ.get("GOMP_SPINCOUNT")


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("unset")
def test_spinning_is_limited_by_default() -> None:
    limit_spinning()
    assert spin_count() == SPIN_COUNT


@pytest.mark.usefixtures("unset")
def test_the_users_own_spin_count_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    limit_spinning()
    assert spin_count() == "7"


@pytest.mark.usefixtures("unset")
def test_the_users_own_wait_policy_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    limit_spinning()
    assert spin_count() is None


@pytest.mark.usefixtures("unset")
def test_importing_the_package_limits_spinning_without_loading_torch() -> None:
    code = "import os, sys, seesay; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [SPIN_COUNT, "False"]
