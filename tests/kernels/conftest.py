"""What the tests of native operations share."""

from collections.abc import Iterator

import pytest
import torch

from seesay.kernels.native import SWITCH, library


@pytest.fixture(params=["native", "reference"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways to compute an operation; skips the native one where it is absent."""
    if request.param == "reference":
        monkeypatch.setenv(SWITCH, "0")
    library.cache_clear()
    if request.param == "native" and library() is None:
        pytest.skip(f"no native library was built, or {SWITCH}=0")
    yield request.param
    monkeypatch.undo()
    library.cache_clear()


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Threads of torch, which the native library shares."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
