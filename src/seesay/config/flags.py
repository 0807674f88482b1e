"""The fields of the configuration as flags of the command line."""

from typing import Annotated, Any, ClassVar

from cyclopts import Group, Parameter
from pydantic import create_model

from seesay.config.schema import SECTIONS, Config
from seesay.config.section import TextFields, bounds_of, is_common
from seesay.errors import SeesayError

_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


class FlagError(SeesayError):
    """A flag holds a value that its field does not take."""


class Flags(TextFields):
    """Flags made from sections of the configuration, none of them required."""

    noun: ClassVar[str] = "flag"

    @classmethod
    def spell(cls, name: str) -> str:
        """Return the flag of a field."""
        return flag_name(name)

    @classmethod
    def make_error(cls, message: str) -> Exception:
        """Return the exception of a refused flag."""
        return FlagError(message)


def flag_name(field: str) -> str:
    """Return the flag of a field, such as --beam-size."""
    return f"--{field.replace('_', '-')}"


def make_flags(name: str, *sections: str, shown: Config | None = None, note: str = "") -> Any:
    """Return a model of the fields of some sections, for a parameter `Annotated[..., Parameter(name="*")]`.

    The rules between fields are left to the sections, as the run's configuration holds the other values.

    Args:
        name: of the model.
        sections: of the configuration.
        shown: its values are the defaults in `--help`; None = those of the schema.
        note: follows the title of each section in `--help`.
    """
    fields: dict[str, Any] = {}
    for position, section in enumerate(sections):
        defaults = getattr(shown or Config(), section)
        group = Group(f"{section} settings{note}", sort_key=100 + position)
        for key, info in SECTIONS[section].model_fields.items():
            bounds = ", ".join(f"{_SIGNS[bound]} {limit:g}" for bound, limit in bounds_of(info).items())
            help = f"{info.description} [{bounds}]" if bounds else info.description
            several = isinstance(info.default, tuple)
            parameter = Parameter(group=group, help=help, show_default=_readable, consume_multiple=several)
            marks = (Parameter(show=True),) if is_common(info) else ()
            fields[key] = (Annotated[(info.annotation, *info.metadata, parameter, *marks)], getattr(defaults, key))
    return create_model(name, __base__=Flags, **fields)


def given_flags(flags: Flags | None) -> dict[str, Any]:
    """Return the flags that were given, by field name."""
    return {} if flags is None else flags.model_dump(exclude_unset=True)


def _readable(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return repr(value) if value == "" or (isinstance(value, str) and not value.isprintable()) else str(value)
