"""Measurement of time and memory, and a description of the machine."""

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
    """Return the time of one call in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def seconds_since_start() -> float:
    """Return the age of this process in seconds; without Linux, the time since this module was imported."""
    with contextlib.suppress(OSError):
        # The program name, in brackets, may contain spaces; the start is field 22, in ticks since boot.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        running = float(Path("/proc/uptime").read_text().split()[0])
        return running - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter() - _LOADED


def alternate(variants: Mapping[str, Callable[[], float]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Return the results of each variant, round by round.

    The variants alternate because a machine's speed drifts, and every other round runs in reverse order because a
    variant affects the caches and the clock rate of the next one.

    Args:
        variants: functions that return a measurement, such as a rate.
        rounds: number of measurements per variant.
        warm_up: initial rounds whose results are dropped: they prepare kernels and memory.
    """
    results: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(warm_up + rounds):
        for name in list(variants) if number % 2 == 0 else list(variants)[::-1]:
            result = variants[name]()
            if number >= warm_up:
                results[name].append(result)
    return results


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median of the ratios within each round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def add_neighbours_option(parser: ArgumentParser) -> None:
    """Add `--neighbours N`, the number of busy processes that `busy_neighbours` runs beside a measurement."""
    parser.add_argument(
        "--neighbours", type=int, default=0, help="busy processes that run beside the measurement (default: none)"
    )


@contextlib.contextmanager
def busy_neighbours(number: int) -> Iterator[None]:
    """Run processes that keep one core busy each, and stop them when the block ends."""
    loop = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # ends with this process
    processes = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(number)]
    try:
        yield
    finally:
        for each in processes:
            each.kill()
            each.wait()


class Peak(NamedTuple):
    """Peak memory in MB: growth of the process during the work, and its total."""

    growth: float
    total: float


def peak_memory(work: Work) -> Peak:
    """Return the peak memory of this process during the work; NaN without Linux."""
    try:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # otherwise memory that was freed before would be reused
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
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
    """Return what a measurement depends on: CPU, cores, torch and its threads, and the load."""
    info: dict[str, Any] = {"cpu": _cpu_name(), "cores": cores(), "python": platform.python_version()}
    info["torch"] = importlib.metadata.version("torch")
    torch = sys.modules.get("torch")
    if torch is not None:
        info["threads"] = torch.get_num_threads()
    with contextlib.suppress(OSError, AttributeError):
        info["load"] = round(os.getloadavg()[0], 1)
    return info


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Return the number of cores that this process may use."""
    with contextlib.suppress(AttributeError):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def show_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column left-aligned, the others right-aligned."""
    widths = [max(len(cells[column]) for cells in (heads, *rows)) for column in range(len(heads))]
    for cells in (heads, *rows):
        line = cells[0].ljust(widths[0])
        for cell, width in zip(cells[1:], widths[1:], strict=True):
            line += "  " + cell.rjust(width)
        print(line.rstrip())


def print_result(benchmark: str, **result: object) -> None:
    """Print the final line of JSON, with the machine; numbers have four digits."""
    print(json.dumps({"benchmark": benchmark, **machine(), **{name: _short(value) for name, value in result.items()}}))


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None  # JSON lacks NaN and infinity
    if isinstance(value, Mapping):
        return {name: _short(each) for name, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, (list, tuple)) else value
