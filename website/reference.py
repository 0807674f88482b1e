"""Reference pages as Markdown, generated from the objects that they describe: settings, commands and the HTTP API."""

import functools
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cyclopts import App
from cyclopts.argument import Argument
from fastapi import FastAPI
from pydantic.fields import FieldInfo

import seesay
from seesay.cli.main import app
from seesay.config import DecodingOptions, preset_names, resolve_config
from seesay.config.flags import flag_name
from seesay.config.schema import SECTIONS, field_paths
from seesay.config.section import bounds_of
from seesay.serving.app import _add_api, _add_probes
from seesay.serving.requests import RequestModel

ROOT = Path(__file__).parents[1]
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"

    names = list(header)
    return "\n".join([line(names), line("---" for _ in names), *map(line, rows)])


def _code(value: object) -> str:
    """Return a value as code; nothing for an empty one."""
    if isinstance(value, (tuple, list)):
        value = " ".join(map(str, value))
    text = str(value).replace("\t", "\\t").replace("\n", "\\n")
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}" if text else "–"


def _kind(annotation: Any) -> str:
    """Return the values that a type takes, as a reader sees them: choices, or the name of the type."""
    arguments = [item for item in typing.get_args(annotation) if item is not type(None)]
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in arguments if choice)
    if origin in (tuple, list):
        return f"{_kind(arguments[0])}, several"
    if arguments:  # optional or annotated
        return _kind(arguments[0])
    return {bool: "flag", int: "integer", float: "number", str: "text", Path: "path"}.get(annotation, "text")


def settings() -> str:
    """Return one table per section of the configuration."""
    return "\n\n".join(_section(name) for name in SECTIONS)


def _section(name: str) -> str:
    kind = SECTIONS[name]
    title = (DecodingOptions if name == "decoding" else kind).__doc__ or ""
    fields = kind.model_fields.items()
    rows = ((f"`{flag_name(key)}`", _values(info), _code(info.default), info.description or "") for key, info in fields)
    return f"## `{name}`\n\n{title.splitlines()[0]}\n\n{_table(('flag', 'values', 'default', 'meaning'), rows)}"


def _values(info: FieldInfo) -> str:
    bounds = ", ".join(f"{_SIGNS[bound]} {limit:g}" for bound, limit in bounds_of(info).items())
    return f"{_kind(info.annotation)} {bounds}".strip()


def preset_table() -> str:
    """Return the settings in which the presets of the trained captioners differ."""
    names = [name for name in preset_names() if "tutorial" not in name]
    configs = {name: resolve_config(name) for name in names}
    rows = []
    for key, (section, _) in field_paths().items():
        values = [getattr(getattr(configs[name], section), key) for name in names]
        if len(set(values)) > 1:
            rows.append((f"`{key}`", *map(_code, values)))
    return _table(("setting", *(f"`{name}`" for name in names)), rows)


def walk(group: App = app, prefix: str = "seesay") -> Iterator[tuple[str, App]]:
    """Yield every command that does something -> its full name and its application."""
    for name in group:
        if name.startswith("-"):
            continue
        command = group[name]
        full = f"{prefix} {name}"
        if command.default_command:
            yield full, command
        yield from walk(command, full)


@functools.cache
def commands() -> str:
    """Return one section per command: help, usage, arguments and flags that are not settings."""
    return "\n\n".join(_command(name, command) for name, command in walk())


def _command(name: str, command: App) -> str:
    listed = [each for each in command.assemble_argument_collection(parse_docstring=True) if each.show]
    own = [each for each in listed if not _is_setting(each)]
    sections = dict.fromkeys(field_paths()[_field(each)][0] for each in listed if _is_setting(each))
    positional = [each for each in own if each.index is not None]
    flags = ["[FLAGS]"] if len(listed) > len(positional) else []
    usage = " ".join([name, *map(_placeholder, positional), *flags])
    parts = [f"## `{name}`", f"```text\n{usage}\n```", _help(command)]
    if own:
        parts.append(_table(("argument", "values", "default", "meaning"), map(_row, own)))
    if sections:
        links = ", ".join(f"[`{section}`](settings.md#{section})" for section in sections)
        parts.append(f"Every setting of {links} is also a flag.")
    return "\n\n".join(parts)


def _help(command: App) -> str:
    """Return the help of a command without the part that describes its arguments."""
    return command.help.partition("Args:")[0].strip()


def _field(argument: Argument) -> str:
    return str(argument.name).lstrip("-").replace("-", "_")


def _is_setting(argument: Argument) -> bool:
    """Whether an argument was made from a setting of the configuration, rather than defined by the command."""
    if (name := _field(argument)) not in field_paths():
        return False
    description, help = field_paths()[name][1].description, argument.parameter.help or ""
    return help == description or help.startswith(f"{description} [")


def _placeholder(argument: Argument) -> str:
    name = _field(argument).upper()
    several = typing.get_origin(argument.hint) in (list, tuple)
    return f"[{name}...]" if several else name if argument.required else f"[{name}]"


def _row(argument: Argument) -> tuple[str, str, str, str]:
    shown = f"`{_placeholder(argument)}`" if argument.index is not None else f"`{argument.name}`"
    default = argument.field_info.default
    empty = argument.index is not None or default is None or default is False or default == ""
    return shown, _kind(argument.hint), "–" if empty else _code(default), argument.parameter.help or ""


def http_api() -> str:
    """Return the routes, and the fields of a request for captions."""
    schema = openapi()
    rows = [
        (f"`{method.upper()} {path}`", entry.get("summary", ""), ", ".join(f"`{code}`" for code in entry["responses"]))
        for path, methods in schema["paths"].items()
        for method, entry in methods.items()
    ]
    fields = RequestModel.model_json_schema()["properties"]
    described = [(f"`{name}`", _json_kind(entry), entry["description"]) for name, entry in fields.items()]
    return "\n\n".join(
        [
            "## Routes",
            _table(("request", "meaning", "status codes"), rows),
            "## Form fields of `POST /v1/caption`",
            _table(("field", "values", "meaning"), [("`images`", "one or more files", "the images"), *described]),
        ]
    )


def _json_kind(entry: dict[str, Any]) -> str:
    names = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
    bounds = ", ".join(f"{sign} {entry[name]:g}" for name, sign in names.items() if name in entry)
    kind = ", ".join(f"`{choice}`" for choice in entry.get("enum", ())) or entry.get("type", "text")
    kind = {"string": "text", "array": "texts, repeated field", "boolean": "`true`, `false`"}.get(kind, kind)
    return f"{kind} {bounds}".strip()


def openapi() -> dict[str, Any]:
    """Return the OpenAPI description, which is the same for every captioner."""
    api = FastAPI(title="seesay", version=seesay.__version__)
    service: Any = None  # read when a request arrives, not by the description
    _add_api(api, service, "")
    _add_probes(api, service)
    return api.openapi()


def changelog() -> str:
    """Return the changelog without its title, with links as seen from `docs/`."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return text.partition("\n")[2].replace("](docs/", "](")
