"""Reuse of freed memory, whose allocation from the system can take longer than the computation in it."""

import ctypes
import gc

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # parameters of mallopt, from glibc's malloc.h
_LARGEST = 1 << 30
_LARGEST_OF_OLD_VERSIONS = 1 << 25
_NEVER = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Keep freed memory in this process for later allocations; return whether that is possible.

    By default glibc returns every block above a few megabytes to the system, which zeroes its pages at the next
    allocation: half of the time of an image network on a CPU. Afterwards the process does not shrink. Threads share one
    heap, since the heaps that glibc creates per thread hold no block above 64 MB. Call this before threads start. It
    has an effect with glibc only.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    kept = any(mallopt(_MMAP_THRESHOLD, size) == 1 for size in (_LARGEST, _LARGEST_OF_OLD_VERSIONS))
    return kept and mallopt(_TRIM_THRESHOLD, _NEVER) == 1 and mallopt(_ARENA_MAX, 1) == 1


def return_freed_memory() -> bool:
    """Return freed memory to the system, whatever `keep_freed_memory` has set; return whether that is possible.

    Call this between tasks whose allocations differ in size, such as trainings of other sizes, and after a model is
    closed. It has an effect with glibc only.
    """
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return False
    gc.collect()  # networks contain reference cycles
    trim(0)
    return True
