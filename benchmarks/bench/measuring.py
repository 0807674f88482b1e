"""Time, memory, and what machine they were measured on."""

import contextlib
import ctypes
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Work = Callable[[], object]
_LOADED = time.perf_counter()


def seconds(work: Work) -> float:
    """Returns how long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def seconds_since_start() -> float:
    """Returns how long this process has been there; since this module was loaded where Linux is not there."""
    with contextlib.suppress(OSError):
        # The name of the program, in brackets, may hold spaces; the start is field 22, in ticks since the system's.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        running = float(Path("/proc/uptime").read_text().split()[0])
        return running - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter() - _LOADED


def alternate(ways: Mapping[str, Callable[[], float]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Returns what each way gives, round by round.

    The ways take turns, for a machine's speed drifts, and every other round goes through them backwards, for what
    ran before leaves the caches and the clock rate to what runs next.

    Args:
        ways: what to measure; each call returns its figure, such as a rate.
        rounds: how many figures are kept of each.
        warm_up: rounds before them, whose figures are not kept: they prepare kernels and memory.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(warm_up + rounds):
        for name in list(ways) if number % 2 == 0 else list(ways)[::-1]:
            figure = ways[name]()
            if number >= warm_up:
                found[name].append(figure)
    return found


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Returns the median of the ratios inside each round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def add_neighbours_option(parser: ArgumentParser) -> None:
    """Adds `--neighbours N`, the number of busy processes that `busy_neighbours` runs beside a measurement."""
    parser.add_argument(
        "--neighbours", type=int, default=0, help="busy processes that run beside the measurement (default: none)"
    )


@contextlib.contextmanager
def busy_neighbours(number: int) -> Iterator[None]:
    """Runs processes beside the block, each of which keeps one core busy, and stops them at its end."""
    loop = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # ends with this process
    busy = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(number)]
    try:
        yield
    finally:
        for each in busy:
            each.kill()
            each.wait()


class Peak(NamedTuple):
    """Memory at its highest, in MB: by how much the process grew while it worked, and all of it."""

    growth: float
    whole: float


def peak_memory(work: Work) -> Peak:
    """Returns the most memory that a process holds while it works; not a number where Linux is not there."""
    try:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # else what was freed before would be used again
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    except OSError:
        work()
        return Peak(math.nan, math.nan)
    work()
    peak = _status("VmHWM")
    return Peak((peak - before) / 1024, peak / 1024)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def machine() -> dict[str, Any]:
    """Returns what a figure depends on: processor, cores, torch and its threads, and how busy the machine is."""
    found: dict[str, Any] = {"processor": _processor(), "cores": cores(), "python": platform.python_version()}
    found["torch"] = importlib.metadata.version("torch")
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
    with contextlib.suppress(OSError, AttributeError):
        found["load"] = round(os.getloadavg()[0], 1)
    return found


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Returns on how many cores this process may run."""
    with contextlib.suppress(AttributeError):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def show_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table: the first column to the left, the others to the right."""
    widths = [max(len(cells[place]) for cells in (heads, *rows)) for place in range(len(heads))]
    for cells in (heads, *rows):
        line = cells[0].ljust(widths[0])
        for cell, width in zip(cells[1:], widths[1:], strict=True):
            line += "  " + cell.rjust(width)
        print(line.rstrip())


def print_result(benchmark: str, **result: object) -> None:
    """Prints the line of JSON that a benchmark ends with, the machine included; numbers to four digits."""
    print(json.dumps({"benchmark": benchmark, **machine(), **{name: _short(value) for name, value in result.items()}}))


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None  # JSON has no such numbers
    if isinstance(value, Mapping):
        return {name: _short(each) for name, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, (list, tuple)) else value
