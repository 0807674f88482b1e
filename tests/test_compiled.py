import ctypes
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch

from seesay import compiled as module
from seesay.compiled import SWITCH, compiled

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler (cc)")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv(SWITCH, raising=False)
    compiled.cache_clear()
    return tmp_path / "cache"


def unknown() -> Path:
    raise RuntimeError("Could not determine home directory.")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "answer.c"
    path.write_text("int answer(void) { return 42; }\n")
    return path


def test_a_file_is_compiled_once_and_kept_for_the_next_process(source: Path, cache: Path) -> None:
    library = compiled(source)
    assert library is not None
    assert library.answer() == 42
    (kept,) = cache.rglob("*.so")
    changed = kept.stat().st_mtime_ns
    compiled.cache_clear()
    again = compiled(source)
    assert again is not None
    assert again.answer() == 42
    assert kept.stat().st_mtime_ns == changed
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700  # nobody else puts code there


def test_another_source_is_another_library(source: Path, cache: Path) -> None:
    compiled(source)
    source.write_text("int answer(void) { return 43; }\n")
    compiled.cache_clear()
    library = compiled(source)
    assert library is not None
    assert library.answer() == 43
    assert len(list(cache.rglob("*.so"))) == 2


def test_what_a_source_includes_is_part_of_it(source: Path, cache: Path) -> None:
    header = source.with_name("number.h")
    header.write_text("#define NUMBER 1\n")
    source.write_text('#include "number.h"\nint answer(void) { return NUMBER; }\n')
    compiled(source)
    header.write_text("#define NUMBER 2\n")
    compiled.cache_clear()
    library = compiled(source)
    assert library is not None
    assert library.answer() == 2


def test_a_damaged_library_is_made_anew(
    source: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash of the machine, or on a disk that was full."""
    compiled(source)
    (whole,) = cache.rglob("*.so")
    kept = tmp_path / "elsewhere" / whole.relative_to(cache)  # this process has the whole one loaded, by its path
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    compiled.cache_clear()
    library = compiled(source)
    assert library is not None
    assert library.answer() == 42
    assert kept.stat().st_size > 0


@pytest.mark.parametrize("compiler", ["cc -pipe", ""])
def test_a_compiler_is_named_as_for_make(compiler: str, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", compiler)
    assert compiled(source) is not None


@pytest.mark.parametrize("reason", ["switch", "no compiler", "no command line", "refused", "no folder", "no home"])
def test_without_a_library_nothing_is_raised(
    reason: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason == "switch":
        monkeypatch.setenv(SWITCH, "0")
    elif reason == "no compiler":
        monkeypatch.setenv("CC", "no-such-compiler")
    elif reason == "no command line":
        monkeypatch.setenv("CC", "cc '")
    elif reason == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", unknown)
    elif reason == "refused":
        source.write_text("this is not C\n")
    else:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compiled(source) is None


def test_functions_take_tensors_and_numbers_as_the_source_says(source: Path) -> None:
    source.write_text(
        "static long long half(long long x) { return x / 2; }\n"
        "long long half_sum(const long long *numbers, long long count,\n"
        "                   double more)\n"
        "{\n    long long sum = 0;\n"
        "    for (long long i = 0; numbers && i < count; i++)\n        sum += numbers[i];\n"
        "    return half(sum + (long long)more);\n}\n"
    )
    library = compiled(source)
    assert library is not None
    large = torch.tensor([2**40, 2**41])
    assert library.half_sum(large, 2, 4.5) == (2**40 + 2**41 + 4) // 2
    assert library.half_sum(None, 2, 4) == 2
    for wrong in ((large, 2), (large, 2.0, 1), ([1], 1, 1), (7, 1, 1)):  # too few, a broken count, no tensor twice
        with pytest.raises((TypeError, ctypes.ArgumentError)):
            library.half_sum(*wrong)


@pytest.mark.parametrize("name", ["models/kernels.c", "decoding/sampling.c"])
def test_every_function_that_is_offered_is_declared(name: str) -> None:
    path = Path(module.__file__).parent / name
    library = compiled(path)
    assert library is not None
    begun = [line for line in path.read_text().splitlines() if "(" in line and line[0].isalpha()]
    offered = [line for line in begun if not line.startswith(("static", "typedef"))]
    assert offered
    for line in offered:
        function = getattr(library, line.partition("(")[0].split()[-1])
        assert function.argtypes is not None, line


def test_nothing_unfinished_is_left_behind(source: Path, cache: Path) -> None:
    source.write_text("this is not C\n")
    assert compiled(source) is None
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_threads_are_torchs_own() -> None:
    """A second OpenMP library would have threads of its own, which would wait for work on the cores of the first."""
    found = module._threads_of_torch()
    if found is None:
        pytest.skip("this torch brings no OpenMP library of GNU's along")
    library = compiled(Path(module.__file__).parent / "models" / "kernels.c")
    assert library is not None
    loaded = {
        Path(line.split()[-1]).resolve()
        for line in Path(f"/proc/{os.getpid()}/maps").read_text().splitlines()
        if "libgomp" in line
    }
    assert len(loaded) == 1
