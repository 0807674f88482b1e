"""What the commands of the command line share: where they print, progress bars, and the run they mean."""

import codecs
import io
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from seesay.errors import DataError
from seesay.formatting import format_duration

console = Console()
errors = Console(stderr=True)

PLAIN_PROGRESS = 30.0
"""Seconds between two lines of progress where there is no terminal."""


_ESCAPE = "seesay.escape"


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Returns JSON's escapes of characters that an output cannot encode."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)), error.end


codecs.register_error(_ESCAPE, _escaped)


def accept_every_name() -> None:
    """Prepares the standard streams for every file name.

    Bytes that are not text are kept in names that are read; characters that an output cannot encode are printed as
    escapes, which a line of JSON turns back into the name.
    """
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, _ESCAPE), (sys.stderr, _ESCAPE)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def say(text: str) -> None:
    """Prints text as it is: no colours, no markup, and no line broken where the reader is no terminal."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_error(line: str) -> None:
    """Prints a line of what is wrong on the error stream, under the program's name."""
    errors.print(f"seesay: {line}", highlight=False, markup=False, soft_wrap=True)


def limit_calls(tell: Callable[[str], None], most: int, then: str) -> Callable[[str], None]:
    """Returns a function that tells the first lines it is given, then once that there are more, then nothing."""
    told = 0

    def tell_few(line: str) -> None:
        nonlocal told
        told += 1
        if told <= most + 1:
            tell(line if told <= most else then)

    return tell_few


def show_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True) -> None:
    """Prints a table; columns of numbers, which are all but the first, stand to the right."""
    if title:
        say(title)
    table = Table()
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if numbers and number else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def log_handler() -> logging.Handler:
    """Returns where log lines go: above the progress bar on a terminal, else one plain line each."""
    if errors.is_terminal:
        return RichHandler(console=errors, show_path=False, show_level=False, markup=False)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    return handler


@contextmanager
def progress(verb: str, noun: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function that is told what is done of how many, and shows it with rate and time left.

    On a terminal as a bar that is removed when all is done, else as a line every `PLAIN_PROGRESS` seconds.
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
        begun = told = time.monotonic()

        def advance(done: int, total: int) -> None:
            nonlocal task, first, last, begun, told
            now = time.monotonic()
            if task is None or done < last:  # the first of all, or of further work
                first, task = done, bar.add_task(verb, total=total, completed=done, rate="")
                begun = told = now
            last = done
            rate = (done - first) / (now - begun) if now > begun else 0.0
            bar.update(task, completed=done, rate=f"{rate:.0f}" if rate else "", visible=done < total)
            _show_or_remove(bar, done, total)
            if not errors.is_terminal and rate and now - told >= PLAIN_PROGRESS:
                told = now
                left = format_duration((total - done) / rate)
                print_error(f"{verb} {done:,}/{total:,} {noun}, {rate:.1f} {noun}/s, {left} left")

        yield advance


@contextmanager
def step_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yields a function that is given what is being done, how many steps of it are done, and their number.

    It shows them as a bar on a terminal, with the time left, and nothing elsewhere.
    """
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
    """Yields a bar that is not shown before there is progress, as a terminal shows one bar at a time."""
    bar = Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal)
    try:
        yield bar
    finally:
        bar.live.stop()


def _show_or_remove(bar: Progress, done: int, total: int) -> None:
    if done >= total:
        bar.live.stop()
    elif errors.is_terminal:
        bar.start()


@contextmanager
def download_progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """Yields a function that is told a file's name, the bytes of it done, and of how many."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=errors,
        disable=not errors.is_terminal,
    ) as bar:
        tasks: dict[str, Any] = {}

        def advance(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield advance


def choose_run(name: str) -> Path:
    """Returns the run folder that was named, or the latest that can be used, which is printed on the error stream."""
    if name:
        return Path(name)

    from seesay.checkpoint import MODEL_FILE

    runs = sorted(Path("runs").glob(f"*/{MODEL_FILE}"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise DataError(
            "no --model was given and there is no trained run under runs/; train one with: seesay train DATA"
        )
    chosen = runs[-1].parent
    if len(runs) > 1:
        print_error(f"no run was named: using {chosen}, the latest of the {len(runs)} under runs/")
    return chosen
