import platform
import subprocess
import sys

import pytest

from seesay.allocation import keep_freed_memory, return_freed_memory

FAULTS = """
import resource, sys
import numpy as np
from seesay.allocation import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
np.ones(8_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(8_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


RETURNED = """
import numpy as np
from seesay.allocation import keep_freed_memory, return_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

assert keep_freed_memory()
np.ones(8_000_000)
kept = resident()
assert return_freed_memory()
print(kept - resident())
"""


def faults(way: str) -> int:
    found = subprocess.run([sys.executable, "-c", FAULTS, way], check=True, capture_output=True, text=True)
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_that_is_freed_serves_again() -> None:
    """Ten arrays of 64 MB, one after the other: each fetched anew, or all in the place of the first."""
    assert faults("kept") < 200
    assert faults("as it is") > 200


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_that_was_kept_can_be_given_back() -> None:
    found = subprocess.run([sys.executable, "-c", RETURNED], check=True, capture_output=True, text=True)
    assert int(found.stdout) > 50  # MB, of 64


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> object:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", no_library)
    assert keep_freed_memory() is False
    assert return_freed_memory() is False
