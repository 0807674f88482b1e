"""Shared by the commands: printing, the status line, progress bars, and the choice of a run."""

import codecs
import io
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from seesay.errors import DataError
from seesay.formatting import format_duration
from seesay.logs import plain_handler

if TYPE_CHECKING:
    from seesay.captioners.base import Captioner
    from seesay.captioners.spec import ModelSpec


class _StatusLine:
    """One transient line on stderr that shows what a command is doing before it prints anything.

    It is shown on a terminal only, and removed by everything that this module prints.

    Attributes:
        enabled: whether the line is shown; False with --quiet and without a terminal.
    """

    def __init__(self) -> None:
        self.enabled = False
        self._shown = False

    def show(self, text: str) -> None:
        """Replace the line."""
        if self.enabled:
            self._shown = True
            sys.stderr.write(f"\r\x1b[K{text} ...")
            sys.stderr.flush()

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            self._shown = False
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


status = _StatusLine()


class _Console(Console):
    """A console that removes the status line before it prints."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does."""
        status.clear()
        super().print(*objects, **options)


console = _Console()
# FORCE_COLOR asks for colours, not for bars that are redrawn.
errors = _Console(stderr=True, force_interactive=sys.stderr.isatty() if os.environ.get("FORCE_COLOR") else None)

PLAIN_PROGRESS = 30.0
"""Seconds between progress lines without a terminal."""

_ESCAPE = "seesay.escape"


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Return JSON escapes of characters that a stream cannot encode."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)), error.end


codecs.register_error(_ESCAPE, _escaped)


def accept_every_name() -> None:
    """Configure the standard streams for every file name.

    Bytes that are not text are kept in names that are read; characters that a stream cannot encode are printed as
    escapes, which JSON decodes to the name.
    """
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, _ESCAPE), (sys.stderr, _ESCAPE)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def set_quiet(quiet: bool) -> None:
    """Print only results, warnings and errors (--quiet), or everything."""
    global _quiet
    _quiet = quiet
    status.enabled = not quiet and errors.is_interactive


_quiet = False


def print_line(text: str) -> None:
    """Print text unchanged: no colours, no markup, no wrapping."""
    status.clear()
    print(text, flush=True)


def print_json(document: object) -> None:
    """Print a result as one JSON document; numbers that JSON does not have are null, paths are text."""
    print_line(json.dumps(_as_json(document), ensure_ascii=False, indent=2, allow_nan=False))


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _as_json(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def print_error(line: str) -> None:
    """Print a warning or an error to stderr, prefixed with the program's name."""
    errors.print(f"seesay: {line}", highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_note(line: str) -> None:
    """Print information to stderr, unless --quiet is given."""
    if not _quiet:
        print_error(line)


def limit_calls(function: Callable[[str], None], limit: int, last: str) -> Callable[[str], None]:
    """Return a function that passes on the first `limit` lines, then once `last`, then nothing."""
    calls = 0

    def limited(line: str) -> None:
        nonlocal calls
        calls += 1
        if calls <= limit + 1:
            function(line if calls <= limit else last)

    return limited


def show_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True) -> None:
    """Print a table; with `numbers`, all columns but the first are right-aligned."""
    if title:
        print_line(title)
    table = Table()
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if numbers and number else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def log_handler() -> logging.Handler:
    """Return the log handler: above the progress bar on a terminal, else plain lines."""
    if errors.is_interactive:
        return RichHandler(console=errors, show_path=False, show_level=False, markup=False)
    return plain_handler()


@contextmanager
def progress(verb: str, noun: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, total) that shows progress with rate and remaining time.

    A terminal shows a bar, which is removed at the end; otherwise a line is printed every `PLAIN_PROGRESS` seconds.
    """
    columns = (
        TextColumn(f"{verb} {{task.completed:.0f}}/{{task.total:.0f}} {noun}"),
        BarColumn(),
        TextColumn(f"{{task.fields[rate]}} {noun}/s"),
        TimeRemainingColumn(),
    )
    with _bar(*columns) as bar:
        task: Any = None
        first = last = 0
        start = last_print = time.monotonic()

        def advance(done: int, total: int) -> None:
            nonlocal task, first, last, start, last_print
            now = time.monotonic()
            if task is None or done < last:  # the first call, or new work
                first, task = done, bar.add_task(verb, total=total, completed=done, rate="")
                start = last_print = now
            last = done
            rate = (done - first) / (now - start) if now > start else 0.0
            bar.update(task, completed=done, rate=f"{rate:.0f}" if rate else "", visible=done < total)
            _show_or_remove(bar, done, total)
            if not (_quiet or errors.is_interactive) and rate and now - last_print >= PLAIN_PROGRESS:
                last_print = now
                left = format_duration((total - done) / rate)
                print_error(f"{verb} {done:,}/{total:,} {noun}, {rate:.1f} {noun}/s, {left} left")

        yield advance


@contextmanager
def step_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function of (label, done, total) that shows a bar with the remaining time on a terminal, else nothing."""
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    with _bar(*columns) as bar:
        task = bar.add_task("")

        def advance(label: str, done: int, total: int) -> None:
            if bar.tasks[0].description != label:
                bar.reset(task, description=label, total=total)
            bar.update(task, completed=done)
            _show_or_remove(bar, done, total)

        yield advance


@contextmanager
def _bar(*columns: ProgressColumn) -> Iterator[Progress]:
    """Yield a bar that is shown only once it has progress, because a terminal shows one bar at a time."""
    bar = Progress(*columns, console=errors, transient=True, disable=_no_bars())
    try:
        yield bar
    finally:
        bar.live.stop()


def _show_or_remove(bar: Progress, done: int, total: int) -> None:
    if done >= total:
        bar.live.stop()
    elif not _no_bars():
        bar.start()


def _no_bars() -> bool:
    return _quiet or not errors.is_interactive


@contextmanager
def download_progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """Yield a function of (file name, bytes done, total bytes) that shows a bar per file."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=errors,
        disable=_no_bars(),
    ) as bar:
        tasks: dict[str, Any] = {}

        def advance(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield advance


@contextmanager
def open_captioner(spec: "ModelSpec") -> "Iterator[Captioner]":
    """Yield the captioner of a specification; at the end, also after an error, print its summary and close it."""
    status.show(f"loading {', '.join(spec.models) or spec.endpoint}")
    with spec.load() as captioner:
        status.show("captioning")
        try:
            yield captioner
        finally:
            if line := captioner.summary():
                print_note(line)


def choose_run(name: str) -> Path:
    """Return the named run folder; without a name, the latest usable one, printed to stderr if there are several."""
    if name:
        return Path(name)

    runs = trained_runs()
    if not runs:
        raise DataError("no --model, and no trained run under runs/; train one with: seesay train DATA")
    chosen = runs[-1]
    if len(runs) > 1:
        print_note(f"no --model: using {chosen}, the latest of {len(runs)} runs under runs/")
    return chosen


def trained_runs() -> list[Path]:
    """Return the usable run folders under runs/, the latest last."""
    from seesay.checkpoint import ADAPTER_FOLDER, MODEL_FILE, PRETRAINED_FOLDER

    runs = {path.parent: path.stat().st_mtime for path in Path("runs").glob(f"*/{MODEL_FILE}")}
    for folder in (ADAPTER_FOLDER, PRETRAINED_FOLDER):
        for path in Path("runs").glob(f"*/{folder}/*.safetensors"):
            runs[path.parent.parent] = max(runs.get(path.parent.parent, 0.0), path.stat().st_mtime)
    return sorted(runs, key=lambda run: (runs[run], run))
