"""Configuration fields as flags of the command line: one definition, in `settings`, serves both."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, get_args, get_origin

from attrs import evolve
from cyclopts import Group, Parameter, Token
from cyclopts.help import DefaultFormatter, HelpEntry, HelpPanel
from rich.console import Console, ConsoleOptions

from seesay.config import Config, field_paths


def flags_of(name: str, *sections: str, shown: Config | None = None, note: str = "") -> Any:
    """Returns a dataclass of the fields of some sections, all optional: None = not given.

    `seesay.cli` takes it with `Parameter(name="*")`, so that every field is a flag of its own name; what was
    given is read back by `given`.

    Args:
        name: of the dataclass.
        sections: of the configuration.
        shown: its values are the defaults that `--help` shows; None = those of the schema.
        note: follows the title of each section in `--help`.
    """
    shown = shown or Config()
    groups = {
        section: Group(f"{section} settings{note}", sort_key=100 + place) for place, section in enumerate(sections)
    }
    fields = []
    for leaf, (section, field, kind) in field_paths().items():
        if section not in sections:
            continue
        default = getattr(getattr(shown, section), leaf)
        several = get_origin(kind) is tuple
        item = get_args(kind)[0] if several else kind
        parameter = Parameter(
            help=f"{field.metadata['help']} [default: {_readable(default)}]",
            group=groups[section],
            show_default=False,
            consume_multiple=several,
            converter=_whole_numbers if item is int else None,
        )
        # Not `| None`: then cyclopts would read the word none, which some fields take, as not given.
        annotated: Any = Annotated[list[item] if several else item, parameter, _MayBeNone()]  # type: ignore[valid-type]
        fields.append((leaf, annotated, dataclasses.field(default=None)))
    made = dataclasses.make_dataclass(name, fields, frozen=True, kw_only=True)
    made.__module__ = __name__  # else it counts as Python's own `types`, which cyclopts does not look into
    return made


class _MayBeNone:
    """Tells pydantic, which cyclopts asks wherever another library has loaded it, that a flag may be not given."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.nullable_schema(handler(source))


def provided_flags(flags: Any) -> dict[str, Any]:
    """Returns the flags that were given, by field name."""
    if flags is None:
        return {}
    values = {field.name: getattr(flags, field.name) for field in dataclasses.fields(flags)}
    return {name: value for name, value in values.items() if value is not None}


class HelpFormatter(DefaultFormatter):
    """Formats `--help` without what is valid but not informative: `--empty-NAME`, empty choices and empty defaults."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Prints a panel."""
        super().__call__(console, options, panel.copy(entries=[_without_noise(entry) for entry in panel.entries]))


def _without_noise(entry: HelpEntry) -> HelpEntry:
    return evolve(
        entry,
        negative_names=tuple(name for name in entry.negative_names if not name.startswith("--empty-")),
        choices=entry.choices and tuple(choice for choice in entry.choices if choice),
        default=None if entry.default in ("", '""', "''") else entry.default,
    )


def _whole_numbers(kind: Any, tokens: Sequence[Token]) -> Any:
    """Returns a flag's whole number, or several; cyclopts by itself would round 1.5 to 2."""
    numbers = []
    for token in tokens:
        try:
            numbers.append(int(token.value))
        except ValueError:
            raise ValueError(f"{token.value!r} is not a whole number") from None
    return numbers if get_origin(kind) is list else numbers[0]


def _readable(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return repr(value) if value == "" or (isinstance(value, str) and not value.isprintable()) else str(value)
