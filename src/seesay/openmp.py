"""How torch's threads wait for each other on a CPU."""

import os

SPIN_COUNT = "3000"
"""Iterations that a thread of libgomp spins before it sleeps; libgomp's own default is 300,000, some milliseconds."""


def limit_spinning() -> None:
    """Set libgomp's spin count for this process and its children, unless the user's environment sets how threads wait.

    A thread that spins keeps a core busy that another process could use. If the thread that it waits for has lost its
    core to that process, both lose a scheduler's time slice at every parallel region. libgomp reads the variable once,
    when torch is loaded, so call this before that; it has no effect on other OpenMP runtimes.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
