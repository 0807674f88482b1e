"""Loops in C, compiled once by the system's compiler where it has one; without one torch's operations do the work."""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SWITCH = "SEESAY_COMPILED"
"""Environment variable: 0 leaves compiled code out."""
_FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fPIC")
_SECONDS = 60
_FUNCTION = re.compile(r"^(void|int|long long) (\w+)\(([^)]*)\)", re.MULTILINE)
"""A function that a source offers: each begins a line, as those for the source alone do not."""
_NUMBERS: dict[str, type[Any]] = {
    "int": ctypes.c_int,
    "long long": ctypes.c_longlong,
    "unsigned int": ctypes.c_uint,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}
_log = logging.getLogger(__name__)


@functools.cache
def compiled(source: Path) -> ctypes.CDLL | None:
    """Returns the library of a C file, compiled for this very processor; None where that cannot be done.

    It is kept in the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`) under a name that tells of the source with
    all that it includes, the compiler and the processor. Its functions take tensors for pointers, None for none, and
    numbers, as many and of such kinds as the source says.

    Args:
        source: the file.
    """
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        # As in `make`, CC may hold options beside the compiler.
        compiler = shlex.split(os.environ.get("CC") or "cc")
        flags = [*_FLAGS, "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"]
        threads = _threads_of_torch()
        library = _folder() / f"{source.stem}-{_name(source, compiler, flags, threads)}.so"
        with contextlib.suppress(OSError):  # none there, or a damaged one
            return _declared(ctypes.CDLL(str(library)), source)
        _build(compiler, flags, threads, source, library)
        return _declared(ctypes.CDLL(str(library)), source)
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        # No compiler, no home folder, or one that cannot be written. Slower, and the same result: nothing to stop for.
        _log.debug("%s could not be compiled: %s", source.name, error)
        return None


class _Pointer:
    """What a function takes for a pointer."""

    @staticmethod
    def from_param(given: Any) -> Any:
        """Returns where a tensor's numbers lie, and what ctypes knows by itself as it is."""
        if isinstance(given, Tensor):
            return ctypes.c_void_p(given.data_ptr())
        if isinstance(given, int):  # which would be half a pointer
            raise TypeError("a number where a pointer is wanted")
        return given


def _declared(library: ctypes.CDLL, source: Path) -> ctypes.CDLL:
    """Returns a library whose functions know what they take and give."""
    for gives, name, takes in _FUNCTION.findall(source.read_text()):
        function = getattr(library, name)
        function.restype = _NUMBERS.get(gives)
        function.argtypes = [
            _Pointer if "*" in one else _NUMBERS[" ".join(one.split()[:-1])]
            for one in takes.split(",")
            if one != "void"
        ]
    return library


def _folder() -> Path:
    """Returns where libraries are kept, made if need be."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seesay" / "compiled"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _threads_of_torch() -> Path | None:
    """Returns the OpenMP library that torch brings along: two sets of threads would fight for the cores."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return found[0] if found else None


def _name(source: Path, compiler: Sequence[str], flags: Sequence[str], threads: Path | None) -> str:
    whole = _said_by(*compiler, "-E", "-P", *flags, str(source))
    options = (*compiler, *flags, str(threads), *_processor())
    parts = (whole, _version(*compiler), *(text.encode() for text in options))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@functools.cache
def _version(*compiler: str) -> bytes:
    return _said_by(*compiler, "--version")


def _said_by(*command: str) -> bytes:
    return subprocess.run(command, capture_output=True, timeout=_SECONDS, check=True).stdout


def _processor() -> Iterator[str]:
    """Yields what the processor can do: a home folder may be shared by several."""
    yield platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        yield from sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})


def _build(compiler: Sequence[str], flags: Sequence[str], threads: Path | None, source: Path, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        part, made = Path(folder) / "part.o", Path(folder) / "made.so"
        # Vectors without threads where torch's cannot be shared, such as on macOS.
        openmp = "-fopenmp-simd" if threads is None else "-fopenmp"
        for command in (
            [*compiler, *flags, openmp, "-c", str(source), "-o", str(part)],
            [*compiler, "-shared", str(part), *([] if threads is None else [str(threads)]), "-lm", "-o", str(made)],
        ):
            subprocess.run(command, capture_output=True, timeout=_SECONDS, check=True)
        made.replace(library)  # whole, also when several processes compile at once
