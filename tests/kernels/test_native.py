import logging
from collections.abc import Iterator
from ctypes import CDLL
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import torch

from seesay.kernels import native as module
from seesay.kernels.native import SWITCH, library, native


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(SWITCH, raising=False)
    library.cache_clear()
    yield
    library.cache_clear()


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder without libraries in the place of the package's."""
    monkeypatch.setattr(module, "__file__", str(tmp_path / "native.py"))
    return tmp_path


@pytest.mark.usefixtures("empty")
def test_an_absent_library_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "seesay"):
        assert library() is None
        assert native(torch.zeros(1)) is None
    (record,) = caplog.records
    assert (record.levelname, "no native library" in record.message) == ("INFO", True)


def test_a_damaged_library_is_as_an_absent_one(empty: Path) -> None:
    for suffix in EXTENSION_SUFFIXES:
        for level in ("avx512", "avx2", "base"):
            (empty / f"_native_{level}{suffix}").write_bytes(b"not a library")
    assert library() is None


def test_the_switch_leaves_it_out_without_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SWITCH, "0")
    with caplog.at_level(logging.INFO, "seesay"):
        assert library() is None
    assert not caplog.records


def test_every_build_gives_the_same(request: pytest.FixtureRequest) -> None:
    """Each instruction set that this CPU has and that was built."""
    best = module.LEVELS.get(torch.backends.cpu.get_cpu_capability(), ("base",))
    built = [level for level in best if list(Path(module.__file__).parent.glob(f"_native_{level}.*"))]
    if not built:
        pytest.skip("no native library was built")
    from seesay.kernels.packed_linear import pack_linear, packed_linear

    torch.manual_seed(0)
    weight, x = torch.randn(75, 40), torch.randn(7, 40)
    capability = {"avx512": "AVX512", "avx2": "AVX2", "base": "DEFAULT"}
    monkeypatch = request.getfixturevalue("monkeypatch")
    for level in built:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda level=level: capability[level])
        library.cache_clear()
        found = library()
        assert found is not None
        assert level in found._name
        packed = pack_linear(weight)
        assert packed is not None
        torch.testing.assert_close(packed_linear(x, packed, None, 75), x @ weight.T)


def test_only_what_it_can_read_is_handed_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there = CDLL(None)
    monkeypatch.setattr(module, "library", lambda: there)
    good, whole = torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64)
    assert native(good, None, whole) is there
    for wrong in (good.double(), good.bfloat16(), good.T, good[:0], good.to("meta")):
        assert native(good, wrong) is None
