"""How torch's CPU threads wait for each other."""

import os

SPIN_COUNT = "3000"
"""Iterations that a thread of libgomp spins before it sleeps; libgomp's own default is 300,000, some milliseconds."""


def limit_spinning() -> None:
    """Set libgomp's spin count for this process and its children, unless the environment already configures waiting.

    A spinning thread occupies a core that another process could use. If that process occupies the core of the thread it
    waits for, both threads lose a scheduler time slice at every parallel region. libgomp reads the variable once, when
    torch is loaded, so call this before that; it has no effect on other OpenMP runtimes.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
