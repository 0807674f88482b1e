"""The base of every part of the configuration, of its flags and of its HTTP fields, and the one line of each error."""

import difflib
import reprlib
import typing
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from seesay.errors import ConfigError, SeesayError


def _parse_number(value: object) -> object:
    """Return a number that YAML 1.1 reads as text, such as 1e-3, as a float; other values unchanged."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _wrap_item(value: object) -> object:
    """Return a single item as a tuple, and a list as a tuple; other values unchanged."""
    if isinstance(value, (str, int, float)):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Number = Annotated[float, BeforeValidator(_parse_number)]
Numbers = Annotated[tuple[Number, ...], BeforeValidator(_wrap_item)]
Integers = Annotated[tuple[int, ...], BeforeValidator(_wrap_item)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_wrap_item)]

_KIND_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "string": "a text",
    "bool": "true or false",
    "tuple": "a list",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "less_than_equal": ("le", "at most"),
    "greater_than": ("gt", "above"),
    "less_than": ("lt", "below"),
}


def _mark_common(_: dict[str, Any]) -> None:
    """Mark a field as common; a JSON schema stays as it is."""


def option(default: Any, help: str, *, common: bool = False, **bounds: float) -> Any:
    """Return a field.

    Args:
        default: its default.
        help: the line that documents it everywhere.
        common: its flag is listed by `--help`, not only by `--help-all`.
        bounds: of its value: ge, le, gt, lt.
    """
    return Field(
        default=default,
        description=help,
        json_schema_extra=_mark_common if common else None,
        **cast("Any", bounds),
    )


def is_common(info: FieldInfo) -> bool:
    """Return whether the flag of a field is listed by `--help`."""
    return info.json_schema_extra is _mark_common


class Section(BaseModel):
    """A frozen part of the configuration. Every way to create one refuses unknown fields and unsuitable values.

    Raises:
        ConfigError: an unknown field, a value of another type or out of bounds, or options that contradict each other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    section: ClassVar[str] = ""
    noun: ClassVar[str] = "configuration key"

    if not TYPE_CHECKING:  # type checkers read the fields instead

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise ConfigError(describe_error(error, type(self))) from None

    @classmethod
    def spell(cls, name: str) -> str:
        """Return a field's name as messages show it."""
        return f"{cls.section}.{name}" if cls.section else name

    @classmethod
    def default_of(cls, name: str) -> Any:
        """Return the default of a field."""
        return cls.model_fields[name].default

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, validated as a whole.

        Raises:
            ConfigError: as on creation.
        """
        return type(self)(**{**dict(self), **changes})


class TextFields(BaseModel):
    """Fields of the configuration that arrive as text: flags of the command line or fields of an HTTP form."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)
    noun: ClassVar[str] = "field"

    @model_validator(mode="wrap")
    @classmethod
    def _validate(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            raise cls.make_error(describe_error(error, cls)) from None

    @classmethod
    def spell(cls, name: str) -> str:
        """Return a field's name as its user writes it."""
        return name

    @classmethod
    def make_error(cls, message: str) -> Exception:
        """Return the exception of a refused field: any but a ValueError, which pydantic would wrap once more."""
        return SeesayError(message)


def bounds_of(info: FieldInfo) -> dict[str, float]:
    """Return the bounds of a number: `ge`, `le`, `gt` and `lt`, where it has them."""
    names = [name for name, _ in _BOUNDS.values()]
    return {name: getattr(item, name) for item in info.metadata for name in names if hasattr(item, name)}


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the most similar of the known names, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"


def _fields_of(annotation: object) -> Collection[str]:
    """Return the names of a section's fields; nothing for the type of a single value."""
    return getattr(annotation, "model_fields", ())


def describe_error(error: ValidationError, model: "type[Section | TextFields]") -> str:
    """Return the first problem in one line: the field as the user writes it, its value and its rule."""
    problem = error.errors()[0]
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "value_error":  # by a section inside this one, or by a rule between fields
        return str(context["error"])
    name, shown = str(problem["loc"][0]), reprlib.repr(value)
    where = model.spell(name)
    if kind == "extra_forbidden":
        fields = model.model_fields.items()
        if owner := next((section for section, field in fields if name in _fields_of(field.annotation)), ""):
            return f"unknown {model.noun} {where!r}; it is a field of {owner}: write it below {owner}:"
        return f"unknown {model.noun} {where!r}; {suggest(name, model.model_fields)}"
    if kind == "model_type":
        return f"configuration section {where!r} must hold named values, not {shown}"
    if kind == "literal_error":
        choices = typing.get_args(model.model_fields[name].annotation)
        return f"{where} is {shown}; choose one of {', '.join(choices)}"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"{where} is {value!s:.50}; it must be {words} {context[bound]:.16g}"
    if kind == "finite_number":
        return f"{where} is {value!s:.50}; it must be finite"
    if kind.endswith(("_type", "_parsing", "_from_float")):
        return f"{where} must be {_KIND_NAMES[kind.partition('_')[0]]}, not {shown}"
    return f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
