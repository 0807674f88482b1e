"""How a configuration is resolved from presets, YAML files and overrides, and saved."""

import functools
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import create_model

from seesay.config.schema import (
    SECTIONS,
    Config,
    DecodingFields,
    DecodingOptions,
    field_paths,
    unread_fields,
)
from seesay.config.section import suggest
from seesay.errors import ConfigError
from seesay.files import write_atomically


def preset_names(*, overlays: bool = False) -> list[str]:
    """Return the names of the presets that ship inside the package, sorted.

    Args:
        overlays: return those to be applied on top of another preset instead of the complete systems.
    """
    return sorted(name for name, content in _presets().items() if content.get("overlay", False) is overlays)


def preset_values(name: str) -> dict[str, Any]:
    """Return the values of a preset or overlay as nested sections, merged over the preset that it `extends`.

    Raises:
        ConfigError: there is no such preset; the message names the nearest.
    """
    if name not in _presets():
        raise ConfigError(f"no preset {name!r}; {suggest(name, sorted(_presets()))}")
    content = _presets()[name]
    values = {section: content[section] for section in content if section in SECTIONS}
    return _merge(preset_values(content["extends"]), values) if "extends" in content else values


def preset_description(name: str) -> str:
    """Return the sentence that describes a preset."""
    return str(_presets()[name]["description"])


@functools.cache
def _presets() -> dict[str, dict[str, Any]]:
    """Return every preset's name -> the content of its file."""
    folder = resources.files("seesay.config") / "presets"
    files = {Path(entry.name).stem: entry for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    return {name: yaml.safe_load(entry.read_text(encoding="utf-8")) for name, entry in files.items()}


def resolve_config(
    preset: str = "",
    file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    overlay: str = "",
) -> Config:
    """Return the configuration made of the defaults, then `preset`, `file`, `overlay` and `overrides`.

    Args:
        preset: a name of `preset_names()`, a preset of fine-tuning, or empty for the bare defaults.
        file: a YAML file of sections (the form that runs save).
        overrides: single values; a key is `section.field` or just `field`, as names are unique.
        overlay: a preset of a few values that is applied on top, such as `scst`.

    Raises:
        ConfigError: an unknown preset, section or field (the nearest is named), or an unsuitable value.
    """
    needed = _presets().get(preset, {}).get("needs", "")
    if preset in preset_names(overlays=True) and not needed:
        raise ConfigError(f"{preset} is applied on top of a preset; name that, or the run to start from, too")
    values: dict[str, Any] = preset_values(preset) if preset else {}
    if file is not None:
        values = _merge(values, _read_sections(Path(file)))
    if overlay:
        values = _merge(values, preset_values(overlay))
    config = Config(**_override(values, overrides or {}))
    if needed and not getattr(getattr(config, needed.partition(".")[0]), needed.partition(".")[2]):
        raise ConfigError(f"the preset {preset} needs {needed}; set it, as with --model NAME")
    return config


def replace(config: Config, **overrides: Any) -> Config:
    """Return `config` with single fields changed by their unique names, validated like any other values.

    Raises:
        ConfigError: an unknown field or an unsuitable value.
    """
    return Config(**_override(config.model_dump(), overrides))


def locate(key: str) -> tuple[str, str]:
    """Return the section and the name of a field, given as `section.field` or just `field`.

    Raises:
        ConfigError: there is no such field; the nearest is named.
    """
    section, _, name = key.rpartition(".")
    fields = field_paths()
    if name not in fields or section not in ("", fields[name][0]):
        raise ConfigError(f"unknown configuration key {key!r}; {suggest(name, fields)}")
    return fields[name][0], name


def changed_decoding(
    options: DecodingOptions, values: Mapping[str, Any], written: Callable[[str], str] = str
) -> DecodingOptions:
    """Return decoding options with some changed; options that another strategy does not read are reset.

    Reranking selects the beam search, unless a strategy is among the changes.

    Args:
        options: for example those of a run.
        values: what is changed, by field.
        written: how the caller's user writes a field, for messages.

    Raises:
        ConfigError: a value that the search does not read, or an unsuitable one.
    """
    reranks = values.get("rerank", "none") != "none"
    strategy = values.get("strategy", "beam" if reranks else options.strategy)
    groups, rerank = (values.get(name, getattr(options, name)) for name in ("num_beam_groups", "rerank"))
    unread = unread_fields(strategy, groups, rerank)
    for name in values:
        if name in unread:
            reader = written(unread[name])
            raise ConfigError(f"{written(name)} is read by {reader} only; the strategy is {strategy}")
    reset = {name: DecodingOptions.default_of(name) for name in unread}
    return options.replace(**{"strategy": strategy, **reset, **values})


def to_dict(config: Config) -> dict[str, Any]:
    """Return the configuration as nested plain values that YAML and JSON can hold."""
    return config.model_dump(mode="json")


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Return a YAML file of named values.

    Args:
        path: the file.
        what: the values are, for the message if there are none.

    Raises:
        ConfigError: it cannot be read, is not YAML, or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {reason}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no {what}")
    return values


def save_config(config: Config, path: Path) -> None:
    """Write the whole resolved configuration as YAML, atomically."""
    # In ASCII: left as they are, characters that YAML takes for line ends would be read back as spaces.
    write_atomically(path, yaml.safe_dump(to_dict(config), sort_keys=False).encode())


def _override(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in overrides.items():
        section, name = locate(key)
        values = _merge(values, {section: {name: value}})
    return dict(values)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _read_sections(path: Path) -> dict[str, Any]:
    """Return the sections of a file, validated by themselves, so that a message names the file.

    Rules between decoding options are left to the whole configuration: the file may hold half of what fits together.
    """
    values = cast("dict[str, Any]", _text_keys(read_yaml(path, "configuration sections")))
    try:
        _file_model()(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return values


@functools.cache
def _file_model() -> Any:
    return create_model("ConfigFile", __base__=Config, decoding=(DecodingFields, DecodingFields()))


def _text_keys(value: object) -> object:
    return {str(key): _text_keys(item) for key, item in value.items()} if isinstance(value, dict) else value
