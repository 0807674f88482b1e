"""The command line: every command parses, calls one function, and prints."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from attrs import evolve
from cyclopts import App, CycloptsError, Parameter
from cyclopts.help import DefaultFormatter, HelpEntry, HelpPanel
from rich.console import Console, ConsoleOptions

import seesay
from seesay.allocation import keep_freed_memory
from seesay.cli.console import (
    accept_every_name,
    console,
    errors,
    log_handler,
    print_error,
    print_json,
    print_line,
    set_quiet,
    show_table,
    status,
)
from seesay.cli.interrupts import keyboard_interrupts
from seesay.cli.options import COMMON, UNMARKED, ExitCode, Json, use_docstring_help
from seesay.cli.usage import describe
from seesay.errors import SeesayError, core_dependencies
from seesay.logs import logging_to

use_docstring_help()

COMMANDS = {
    "caption": (
        "images",
        "Caption images: files, folders, globs, URLs, lists, tables or tars.",
        "seesay caption photos/ --out captions.jsonl",
        "The exit code is 1 if some images failed.",
    ),
    "review": (
        "review",
        "Check and correct captions on a local web page.",
        "seesay review captions.jsonl",
        "On Ctrl-C or SIGTERM unsaved changes are written and the program ends.",
    ),
    "serve": (
        "serving",
        "Serve a captioner over HTTP, with a web UI that shows attention maps.",
        "seesay serve runs/mine",
        "On Ctrl-C or SIGTERM the server finishes accepted requests and exits.",
    ),
    "explain": (
        "images",
        "Plot the attention over the image for each word of its caption: an interactive page and a strip of images.",
        "seesay explain photo.jpg --model runs/mine",
        "",
    ),
    "train": (
        "training",
        "Train a captioner, after extracting missing features; with --model NAME, fine-tune a pretrained one.",
        "seesay train data/mine --out runs/mine",
        "Run the same command to resume.",
    ),
    "tune": (
        "tuning",
        "Search for better settings of a preset by the validation score; the first trial uses the preset's settings.",
        "seesay tune data/mine --trials 30",
        "A setting passed as a flag applies to all trials. Run the same command to resume a search.",
    ),
    "extract": (
        "training",
        "Encode every image once and store its features.",
        "seesay extract data/mine",
        "Run the same command to resume.",
    ),
    "evaluate": (
        "scores",
        "Score a model, a file of predictions, or human captions (--human DATA) on a split of a data set.",
        "seesay evaluate runs/mine data/mine",
        "The exit code is 1 if an image of the split could not be scored, a caption is empty, or a score requested "
        "with --metrics is not available.",
    ),
    "compare": (
        "scores",
        "Compare systems with the first one on the same images: significance and largest differences.",
        "seesay compare runs/mine runs/other",
        "",
    ),
    "push": (
        "push",
        "Upload a finished run to the Hugging Face hub, with a model card made from the run.",
        "seesay push runs/mine ada/garden",
        "",
    ),
    "export": (
        "export",
        "Write a run as a folder of ONNX graphs that captions images without torch; a fine-tuned model for "
        "transformers.",
        "seesay export runs/mine",
        "",
    ),
    "models": (
        "models",
        "List the runs in runs/, the models in the cache of the Hugging Face hub, and recommended ones.",
        "seesay models",
        "",
    ),
    "data": (
        "data",
        "Check, make, download and convert captioned images.",
        "seesay data check data/mine",
        "",
    ),
    "presets": ("presets", "List the built-in presets, or show one.", "seesay presets show attention-gru", ""),
    "completion": (
        "completion",
        "Print or install the completion of commands and flags for bash, zsh or fish.",
        "seesay completion bash --install",
        "",
    ),
}
"""The commands that load further modules: module, sentence, example and further text of `--help`.

They are kept here so that `seesay --help` loads none of these modules.
"""

_HELP_ALL = "--help-all"
_QUIET_FLAGS = ("--quiet", "-q")
_EPILOGUE = "Every command: --help-all lists all options; --quiet (-q) prints only results, warnings and errors."


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
    help="Train, evaluate, explain and run image captioners.\n\nExample: seesay caption photo.jpg",
    help_flags=("--help", "-h", _HELP_ALL),
    help_format="plaintext",
    help_formatter=HelpFormatter(),
    help_epilogue=_EPILOGUE,
    default_parameter=UNMARKED,
    console=console,
    error_console=errors,
    suppress_keyboard_interrupt=False,  # `main` prints how to resume
    exit_on_error=False,
    print_error=False,
)
for name, (module, sentence, example, further) in COMMANDS.items():
    text = "\n\n".join(filter(None, (sentence, f"Example: {example}", further)))
    app.command(f"seesay.cli.{module}:{name}", name=name, help=text)


@app.command
def demo(*, out: Annotated[Path, COMMON] = Path("demo"), seed: Annotated[int, COMMON] = 0) -> None:
    """Make the scenes data set, train on it, evaluate, caption unseen scenes and write a report.

    Example: seesay demo

    Args:
        out: output folder.
        seed: random seed of the data and of training.
    """
    from seesay.demo import run_demo

    result = run_demo(out, seed=seed)
    for line in result.lines():
        print_line(line)


@app.command
def doctor(*, encoders: Annotated[bool, Parameter(negative="", show=True)] = False, json: Json = False) -> None:
    """List what this installation has: versions, device, optional libraries.

    Example: seesay doctor

    Args:
        encoders: list the aliases of encoders instead, and whether their weights are in the cache of the hub.
    """
    from seesay.cli.doctor import cached_encoders, describe_encoder, diagnose

    if encoders:  # lines instead of a table, which would be too wide for most terminals
        found = cached_encoders()
        if json:
            print_json(found)
            return
        for encoder in found:
            print_line(describe_encoder(encoder))
        return
    rows = diagnose()
    if json:
        print_json(dict(rows))
    else:
        show_table("", ("part", "state"), rows, numbers=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code; a `SeesayError` becomes one line."""
    accept_every_name()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = given[: given.index("--")] if "--" in given else given
    quiet = any(flag in options for flag in _QUIET_FLAGS)
    parsed = ["--help" if word == _HELP_ALL else word for word in options if word not in _QUIET_FLAGS]
    app.default_parameter = None if _HELP_ALL in options else UNMARKED
    set_quiet(quiet)
    status.show("starting")
    try:
        with (
            keyboard_interrupts(),
            core_dependencies("this command"),
            logging_to(log_handler(), seesay="WARNING" if quiet else "INFO"),
        ):
            code = app(parsed + given[len(options) :], result_action="return_value")
    except CycloptsError as error:
        print_error(f"error: {describe(error)}")
        return ExitCode.ERROR
    except SeesayError as error:
        print_error(f"error: {error}")
        return ExitCode.ERROR
    except KeyboardInterrupt as interrupt:
        print_error(str(interrupt) or "stopped; run the same command again")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return ExitCode.BROKEN_PIPE
    except OSError as error:  # a disk that is full, a folder that may not be written
        print_error(f"error: {error}")
        return ExitCode.ERROR
    finally:
        status.clear()
    return code if isinstance(code, int) else ExitCode.OK


def run_process() -> None:
    """Run the command line; the entry point of the `seesay` script and of `python -m seesay`."""
    keep_freed_memory()  # not in `main`, which other programs may call
    sys.exit(main())
