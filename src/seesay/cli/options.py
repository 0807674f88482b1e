"""What all commands share: the mark of common options, the flag --json, and exit codes. Imports no configuration."""

import contextlib
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any

from cyclopts import Parameter

COMMON = Parameter(show=True)
"""Marks a parameter that `--help` lists; the others are listed by `--help-all` only."""

UNMARKED = Parameter(show=False)
"""Default of parameters without a mark under `--help`."""

Json = Annotated[bool, Parameter(negative="", help="print the result as one JSON document", show=True)]


class ExitCode(IntEnum):
    """Exit codes of the command line; docs/command-line.md describes them."""

    OK = 0
    INCOMPLETE = 1
    """Finished, but part of the input failed, or the check that the command makes was not passed."""
    ERROR = 2
    """Bad command line, input, configuration or environment; one line on stderr states it."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C (128 + SIGINT)."""
    BROKEN_PIPE = 141
    """The reader of stdout closed it (128 + SIGPIPE)."""
    TERMINATED = 143
    """Stopped by SIGTERM during training (128 + SIGTERM)."""


def use_docstring_help() -> None:
    """Make cyclopts read the help of parameters with `docstring_help`.

    Its own function also parses the source of every base class for strings after attributes: that takes longer than the
    rest of `--help`, and CPython 3.11 can fail in it with a SystemError. It is private; a version of cyclopts without
    it is left as it is, which is slower.
    """
    with contextlib.suppress(ImportError):
        from cyclopts.argument import _collection

        vars(_collection)["extract_docstring_help"] = docstring_help


def docstring_help(described: Callable[..., Any]) -> dict[tuple[str, ...], Parameter]:
    """Return the help of parameters from the docstrings of a function, or of a class and its bases in this package."""
    from docstring_parser import DocstringStyle, parse

    kinds = reversed(described.__mro__) if isinstance(described, type) else (described,)
    return {
        (parameter.arg_name,): Parameter(help=" ".join((parameter.description or "").split()))
        for kind in kinds
        if kind.__module__.startswith("seesay.") and kind.__doc__
        for parameter in parse(kind.__doc__, DocstringStyle.GOOGLE).params
    }
