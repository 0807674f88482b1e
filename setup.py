"""Builds the native operations of `seesay.kernels`, once per instruction set; without a compiler they are left out.

SEESAY_NATIVE=0 leaves them out everywhere, which gives a wheel for any platform.
"""

import os
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("src/seesay/kernels")
FLAGS = ["-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
AVX2 = ["-mavx2", "-mfma"]
LEVELS = {
    "base": [],
    **(
        {"avx2": AVX2, "avx512": [*AVX2, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"]}
        if sysconfig.get_platform().endswith(("x86_64", "amd64"))  # the target's, also when cross-compiling
        else {}
    ),
}


class BuildNative(build_ext):
    """Builds each instruction set in a folder of its own, as all compile the same files."""

    def build_extension(self, ext: Extension) -> None:
        """Builds one extension."""
        folder = self.build_temp
        self.build_temp = str(Path(folder, ext.name))
        try:
            super().build_extension(ext)
        finally:
            self.build_temp = folder


def extension(level: str, flags: list[str]) -> Extension:
    """Returns the library for an instruction set, which `seesay.kernels.native` loads if the CPU has it."""
    # Compiled for OpenMP and not linked with it: its functions are found in the library that torch has loaded.
    threads = "-fopenmp" if sys.platform == "linux" else "-fopenmp-simd"
    return Extension(
        f"seesay.kernels._native_{level}",
        sources=sorted(str(path) for path in SOURCES.glob("*.c")),
        depends=[str(SOURCES / "common.h")],
        extra_compile_args=[*FLAGS, threads, *flags],
        libraries=["m"] if sys.platform == "linux" else [],
        optional=True,
        py_limited_api=LIMITED,
    )


BUILT = os.environ.get("SEESAY_NATIVE") != "0"
# It uses nothing of Python's C API, so that one build serves every version, except those without the GIL.
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")
setup(
    ext_modules=[extension(level, flags) for level, flags in LEVELS.items()] if BUILT else [],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if BUILT and LIMITED else {},
)
