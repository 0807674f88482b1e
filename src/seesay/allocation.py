"""Keeping the memory that large temporaries give back, which costs more to get from the system than to compute in."""

import ctypes
import gc

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # parameters of mallopt, from glibc's malloc.h
_LARGEST = 1 << 30
_LARGEST_OF_OLD_VERSIONS = 1 << 25
_NEVER = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Makes this process keep freed memory for the next temporaries; returns whether it could.

    By default glibc gives every block above a few megabytes back to the system at once and gets it anew, page by page
    and zeroed, for the next one: half of the time of an image network on a processor. The process then stays as large
    as it once was. Threads share one heap: the ones that glibc makes for each of them hold no block above 64 MB, which
    would come from the system in any case. Call it before there are threads. Only with glibc; elsewhere nothing is
    changed.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    kept = any(mallopt(_MMAP_THRESHOLD, size) == 1 for size in (_LARGEST, _LARGEST_OF_OLD_VERSIONS))
    return kept and mallopt(_TRIM_THRESHOLD, _NEVER) == 1 and mallopt(_ARENA_MAX, 1) == 1


def return_freed_memory() -> bool:
    """Gives the system back what was freed and kept; returns whether that could be.

    Of use between pieces of work that have little in common, such as trainings of other sizes, whose temporaries do not
    fit into each other's places. Only with glibc; elsewhere nothing is changed.
    """
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return False
    gc.collect()  # a training's network and its hooks hold each other
    trim(0)
    return True
