"""The way a configuration is built from layers, checked, and written down.

A `Config` is resolved from the defaults in `seesay.settings`, a preset (which may extend another), YAML files and
single overrides, in that order, and saved whole with the run.
"""

import dataclasses
import difflib
import typing
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from seesay.errors import ConfigError
from seesay.files import write_atomically
from seesay.settings import (
    KIND_NAMES,
    SECOND_STAGE,
    Config,
    DataConfig,
    DecodingOptions,
    EncoderConfig,
    ModelConfig,
    TextConfig,
    TrainingConfig,
    check_bounds,
    check_kind,
    field_paths,
    field_types,
    unread_fields,
)

__all__ = [
    "Config",
    "DataConfig",
    "DecodingOptions",
    "EncoderConfig",
    "ModelConfig",
    "TextConfig",
    "TrainingConfig",
    "changed_decoding",
    "field_paths",
    "locate",
    "preset_description",
    "preset_names",
    "preset_values",
    "read_yaml",
    "replace",
    "resolve_config",
    "save_config",
    "to_dict",
    "unread_fields",
]


def preset_names() -> list[str]:
    """Returns the names of the presets that ship inside the package, sorted."""
    folder = resources.files("seesay") / "presets"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def preset_values(name: str) -> dict[str, Any]:
    """Returns what a preset sets, as nested sections, with the preset it `extends` merged beneath.

    Raises:
        ConfigError: there is no such preset; the message names the nearest.
    """
    if name not in preset_names():
        raise ConfigError(f"no preset {name!r}; {_suggest(name, preset_names())}")
    text = (resources.files("seesay") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    values.pop("description", None)
    parent = values.pop("extends", None)
    return _merge(preset_values(parent), values) if parent else values


def preset_description(name: str) -> str:
    """Returns the sentence a preset says of itself."""
    text = (resources.files("seesay") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return str(yaml.safe_load(text)["description"])


def resolve_config(
    preset: str = "", file: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Returns the configuration made of the defaults, then `preset`, then `file`, then `overrides`.

    Beneath the first layer that turns on `training.scst` come the settings of a second stage
    (`seesay.settings.SECOND_STAGE`), so that they take the place of the first stage's but not of its own.

    Args:
        preset: a name of `preset_names()`, or empty for the bare defaults.
        file: a YAML file of sections (the form that runs save).
        overrides: single values; a key is `section.field` or just `field`, as names are unique.

    Raises:
        ConfigError: an unknown preset, section or field (the nearest is named), or an unfit value.
    """
    layers = [preset_values(preset) if preset else {}, _read_sections(Path(file)) if file is not None else {}, {}]
    for key, value in (overrides or {}).items():
        section, leaf = locate(key)
        layers[-1] = _merge(layers[-1], {section: {leaf: value}})
    values: dict[str, Any] = {}
    staged = False
    for layer in layers:
        if not staged and _turns_on_second_stage(layer):
            values, staged = _merge(values, {"training": SECOND_STAGE}), True
        values = _merge(values, layer)
    return _build(values)


def replace(config: Config, **overrides: Any) -> Config:
    """Returns `config` with single fields changed by their unique names, checked like any other layer.

    Raises:
        ConfigError: an unknown field or an unfit value.
    """
    values = to_dict(config)
    for key, value in overrides.items():
        section, leaf = locate(key)
        values[section][leaf] = value
    return _build(values)


def locate(key: str) -> tuple[str, str]:
    """Returns the section and the name of a setting, given as `section.field` or just `field`.

    Raises:
        ConfigError: there is no such setting; the nearest is named.
    """
    section, _, leaf = key.rpartition(".")
    leaves = field_paths()
    if leaf not in leaves or section not in ("", leaves[leaf][0]):
        raise ConfigError(f"unknown configuration key {key!r}; {_suggest(leaf, list(leaves))}")
    return leaves[leaf][0], leaf


def changed_decoding(config: Config, values: Mapping[str, Any], written: Callable[[str], str] = str) -> DecodingOptions:
    """Returns a run's decoding options with some changed; another strategy leaves the run's own behind.

    Args:
        config: of the run.
        values: what is changed, by field.
        written: how the caller's user writes a field, for messages.

    Raises:
        ConfigError: a value that the search does not read, or that is unfit.
    """
    strategy = values.get("strategy", config.decoding.strategy)
    unread = unread_fields(strategy, values.get("num_beam_groups", config.decoding.num_beam_groups))
    for name in values:
        if name in unread:
            reader = written(unread[name])
            raise ConfigError(f"{written(name)} is read by {reader} only; the strategy is {strategy}")
    defaults = {name: getattr(DecodingOptions, name) for name in unread}
    return replace(config, **defaults, **values).decoding


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the configuration as nested plain values that YAML and JSON can hold."""
    return typing.cast("dict[str, Any]", _plain(dataclasses.asdict(config)))


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Returns a YAML file of named values.

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
    """Writes the whole resolved configuration as YAML, atomically."""
    # In ASCII: left as they are, characters that YAML takes for line ends would be read back as spaces.
    write_atomically(path, yaml.safe_dump(to_dict(config), sort_keys=False).encode())


def _turns_on_second_stage(layer: Mapping[str, Any]) -> bool:
    section = layer.get("training")
    return isinstance(section, Mapping) and section.get("scst") is True


def _build(values: Mapping[str, Any]) -> Config:
    return Config(**{name: field_types(Config)[name](**leaves) for name, leaves in _checked(values).items()})


def _checked(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the values as the fields' types, each checked by itself: a layer may hold half of what fits together."""
    sections = {}
    for name, content in values.items():
        if name not in field_types(Config):
            raise ConfigError(
                f"unknown configuration section {name!r}; {_suggest(str(name), list(field_types(Config)))}"
            )
        sections[name] = _checked_section(name, field_types(Config)[name], content)
    return sections


def _checked_section(name: str, kind: type, content: object) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise ConfigError(f"configuration section {name!r} must hold named values, not {content!r}")
    hints = field_types(kind)
    for key in content:
        if key not in hints:
            raise ConfigError(f"unknown configuration key {name}.{key}; {_suggest(str(key), list(hints))}")
    coerced = {key: _coerce(f"{name}.{key}", value, hints[key]) for key, value in content.items()}
    for key, value in coerced.items():
        check_bounds(field_paths()[key][1], value)
    return coerced


def _coerce(where: str, value: Any, kind: Any) -> Any:
    """Returns `value` as the field's type: YAML's ints for floats, lists for tuples; refuses the rest."""
    origin = typing.get_origin(kind)
    if origin is Literal:
        check_kind(where, value, kind)
        return value
    if origin is tuple:
        items = [value] if isinstance(value, (str, int, float)) else value
        if not isinstance(items, (list, tuple)):
            raise ConfigError(f"{where} must be a list, not {value!r}")
        return tuple(_coerce(where, item, typing.get_args(kind)[0]) for item in items)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string
        try:
            return float(value)
        except ValueError:
            pass
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"{where} must be {KIND_NAMES[kind]}, not {value!r}")


def _suggest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _read_sections(path: Path) -> dict[str, Any]:
    values = read_yaml(path, "configuration sections")
    try:
        _checked(values)  # by itself, so that its faults are laid to it and not hidden by the layers above
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
