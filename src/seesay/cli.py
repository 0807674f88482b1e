"""The command line: every command parses, calls one function, and prints."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App

import seesay
from seesay.allocation import keep_freed_memory
from seesay.commands.data import data_app
from seesay.commands.export import export
from seesay.commands.images import caption, explain
from seesay.commands.presets import presets_app
from seesay.commands.scores import compare, evaluate
from seesay.commands.serving import serve
from seesay.commands.training import extract, train
from seesay.commands.tuning import tune
from seesay.console import accept_every_name, log_handler, print_error, say, show_table
from seesay.errors import SeesayError
from seesay.flags import HelpFormatter

app = App(
    name="seesay",
    version=seesay.__version__,
    help="Train, evaluate, look inside and run image captioners.",
    help_formatter=HelpFormatter(),
    suppress_keyboard_interrupt=False,  # `main` prints how to resume
)
for command in (caption, explain, train, tune, extract, evaluate, compare, export, serve, data_app, presets_app):
    app.command(command)


@app.command
def demo(*, out: Path = Path("demo"), seed: int = 0) -> None:
    """Make the scenes data set, train on it, evaluate, caption unseen scenes and write a report to look at.

    Args:
        out: folder for everything.
        seed: of data and training.
    """
    from seesay.demo import run_demo

    result = run_demo(out, seed=seed)
    for line in result.lines():
        say(line)


@app.command
def doctor() -> None:
    """Say what this installation has: versions, device, optional libraries."""
    from seesay.doctor import diagnose

    show_table("", ("part", "state"), diagnose(), numbers=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code; a `SeesayError` becomes one line."""
    accept_every_name()
    logger = logging.getLogger("seesay")
    logger.handlers[:] = [log_handler()]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        code = app(arguments, result_action="return_value")
    except SeesayError as error:
        print_error(f"error: {error}")
        return 2
    except KeyboardInterrupt as interrupt:
        print_error(str(interrupt) or "stopped; run the same command again")
        return 130
    except BrokenPipeError:
        return 141
    except OSError as error:  # a disk that is full, a folder that may not be written
        print_error(f"error: {error}")
        return 2
    return code if isinstance(code, int) else 0


def _entry() -> None:
    keep_freed_memory()  # the process is ours alone here
    sys.exit(main())


if __name__ == "__main__":
    _entry()
