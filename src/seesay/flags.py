"""Configuration fields as flags of the command line: one definition, in `settings`, serves both."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, get_args, get_origin

from cyclopts import Group, Parameter, Token

from seesay.config import field_paths


def flags_of(name: str, *sections: str) -> Any:
    """Returns a dataclass of the fields of some sections, all optional: None = not given.

    `seesay.cli` takes it with `Parameter(name="*")`, so that every field is a flag of its own name; what was
    given is read back by `given`.
    """
    groups = {section: Group(f"{section} settings", sort_key=100 + place) for place, section in enumerate(sections)}
    fields = []
    for leaf, (section, field, kind) in field_paths().items():
        if section not in sections:
            continue
        note = f"{field.metadata['help']} [default: {_readable(field.default)}]"
        several = get_origin(kind) is tuple
        item = get_args(kind)[0] if several else kind
        parameter = Parameter(
            help=note,
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


def given(flags: Any) -> dict[str, Any]:
    """Returns the flags that were given, by field name."""
    if flags is None:
        return {}
    values = {field.name: getattr(flags, field.name) for field in dataclasses.fields(flags)}
    return {name: value for name, value in values.items() if value is not None}


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
