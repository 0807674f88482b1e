"""The command line: every command parses, calls one function, and prints."""

import sys
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve
from cyclopts import App
from cyclopts.help import DefaultFormatter, HelpEntry, HelpPanel
from rich.console import Console, ConsoleOptions

import seesay
from seesay.allocation import keep_freed_memory
from seesay.cli.console import accept_every_name, log_handler, print_error, print_line, show_table
from seesay.cli.export import export
from seesay.cli.presets import presets
from seesay.errors import SeesayError
from seesay.logs import logging_to

COMMANDS = {
    "caption": (
        "images",
        "Caption images: files, folders, globs, URLs, lists, tables or tars; exit code 1 if some images failed.",
    ),
    "review": (
        "review",
        "Check and correct captions on a local web page.\n\n"
        "On Ctrl-C or SIGTERM unsaved changes are written and the program ends.",
    ),
    "serve": (
        "serving",
        "Serve a captioner over HTTP, with a web UI that shows attention maps.\n\n"
        "On Ctrl-C or SIGTERM the server finishes accepted requests and exits.",
    ),
    "explain": (
        "images",
        "Plot the attention over the image for each word of its caption: an interactive page and a strip of images.",
    ),
    "train": (
        "training",
        "Train a captioner, after extracting missing features; with --model NAME, fine-tune a pretrained one."
        "\n\nRun the same command to resume.",
    ),
    "tune": (
        "tuning",
        "Search for better settings of a preset by the validation score; the first trial uses the preset's settings."
        "\n\nA setting passed as a flag applies to all trials. Run the same command to resume a search.",
    ),
    "extract": ("training", "Encode every image once and store its features."),
    "evaluate": (
        "scores",
        "Score a model, a file of predictions, or human captions (--human DATA) on a split of a data set.\n\n"
        "The exit code is 1 if an image of the split could not be scored, a caption is empty, or a score requested "
        "with --metrics is not available.",
    ),
    "compare": (
        "scores",
        "Compare systems with the first one on the same images: significance and largest differences.",
    ),
    "push": ("push", "Upload a finished run to the Hugging Face hub, with a model card made from the run."),
    "models": (
        "models",
        "List the runs in runs/, the models in the cache of the Hugging Face hub, and recommended ones.",
    ),
    "data": ("data", "Check, make, download and convert captioned images."),
}
"""The commands that need the configuration: module and help, so that `seesay --help` does not load it."""


class HelpFormatter(DefaultFormatter):
    """Formats `--help` without uninformative entries: `--empty-NAME`, empty choices and empty defaults."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print a panel."""
        super().__call__(console, options, panel.copy(entries=[_without_noise(entry) for entry in panel.entries]))


def _without_noise(entry: HelpEntry) -> HelpEntry:
    return evolve(
        entry,
        negative_names=tuple(name for name in entry.negative_names if not name.startswith("--empty-")),
        choices=entry.choices and tuple(choice for choice in entry.choices if choice),
        default=None if entry.default in ("", '""', "''") else entry.default,
    )


app = App(
    name="seesay",
    version=seesay.__version__,
    help="Train, evaluate, explain and run image captioners.",
    help_formatter=HelpFormatter(),
    suppress_keyboard_interrupt=False,  # `main` prints how to resume
)
for name, (module, help) in COMMANDS.items():
    app.command(f"seesay.cli.{module}:{name}", name=name, help=help)
for command in (export, presets):
    app.command(command)


@app.command
def demo(*, out: Path = Path("demo"), seed: int = 0) -> None:
    """Make the scenes data set, train on it, evaluate, caption unseen scenes and write a report.

    Args:
        out: output folder.
        seed: random seed of the data and of training.
    """
    from seesay.demo import run_demo

    result = run_demo(out, seed=seed)
    for line in result.lines():
        print_line(line)


@app.command
def doctor(*, encoders: bool = False) -> None:
    """List what this installation has: versions, device, optional libraries.

    Args:
        encoders: list the aliases of encoders instead, and whether their weights are in the cache of the hub.
    """
    from seesay.cli.doctor import diagnose, list_encoders

    if encoders:  # lines instead of a table, which would be too wide for most terminals
        for line in list_encoders():
            print_line(line)
        return
    show_table("", ("part", "state"), diagnose(), numbers=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code; a `SeesayError` becomes one line."""
    accept_every_name()
    try:
        with logging_to(log_handler(), seesay="INFO"):
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


def run_process() -> None:
    """Run the command line; the entry point of the `seesay` script and of `python -m seesay`."""
    keep_freed_memory()  # not in `main`, which other programs may call
    sys.exit(main())
