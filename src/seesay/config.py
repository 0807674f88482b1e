"""Every default of the project, and the way a configuration is built from layers.

A `Config` is a tree of frozen dataclasses, one a concern. It is resolved from the defaults here, a preset
(which may extend another), YAML files and single overrides, in that order, and saved whole with the run.
Field names are unique over the sections, so that each of them is also a flag of the command line.
"""

import dataclasses
import difflib
import functools
import operator
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from seesay.errors import ConfigError

Section = TypeVar("Section")


_BOUNDS = {"least": (operator.ge, "at least"), "above": (operator.gt, "above"), "below": (operator.lt, "below")}


def setting(default: Any, help: str, **bounds: float) -> Any:
    """Returns a dataclass field with its default, the one line that documents it everywhere, and its bounds.

    Args:
        default: the value where nothing else is said.
        help: one line for `--help` and the documents.
        bounds: `least`, `above` or `below`: what a number must keep to.
    """
    return field(default=default, metadata={"help": help, "bounds": bounds})


class _Section:
    """Part of the configuration; refuses numbers outside their bounds, however it is made."""

    def __post_init__(self) -> None:
        for leaf in dataclasses.fields(typing.cast("Any", self)):
            value = getattr(self, leaf.name)
            for bound, limit in leaf.metadata["bounds"].items():
                holds, words = _BOUNDS[bound]
                if not holds(value, limit):
                    section = field_paths()[leaf.name][0]
                    raise ConfigError(f"{section}.{leaf.name} is {value}; it must be {words} {limit}")


@dataclass(frozen=True)
class DataConfig(_Section):
    """Which captions are read and how pictures are dealt to the splits."""

    format: str = setting("auto", "reader of the captions; auto recognises it by looking")
    split_fractions: str = setting("80/10/10", "train/val[/test] shares where the data has no splits")
    split_seed: int = setting(0, "seed of that split, which is drawn by image")
    limit_images: int = setting(0, "use at most so many pictures of each split; 0 = all", least=0)
    limit_captions: int = setting(0, "use at most so many training captions in all; 0 = all", least=0)
    captions_per_image: int = setting(0, "use at most so many captions of a training picture; 0 = all", least=0)


@dataclass(frozen=True)
class TextConfig(_Section):
    """How caption texts become word ids."""

    level: Literal["word", "character"] = setting(
        "word", "unit of the vocabulary; character suits languages without spaces"
    )
    lowercase: bool = setting(True, "turn captions to lower case")
    filter_characters: str = setting(
        '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n', "characters replaced by a space before splitting"
    )
    min_word_length: int = setting(1, "drop shorter words", least=0)
    drop_numeric: bool = setting(False, "drop words that are not purely alphabetic")
    vocabulary_size: int = setting(0, "keep the so many commonest words; 0 = every word", least=0)
    min_count: int = setting(1, "keep words seen at least so often in the training captions", least=0)
    max_words: int = setting(0, "cut training captions after so many words; 0 = never", least=0)


@dataclass(frozen=True)
class EncoderConfig(_Section):
    """Which network looks at the pictures, and what it is shown."""

    encoder: str = setting("inception_v3.tf_in1k", "timm model name, or small-cnn, our own to train from nothing")
    encoder_weights: str = setting("pretrained", "pretrained (from the hub), none, or a safetensors file")
    layer: str = setting("", "module or stage whose output is used (such as Mixed_7a); empty = the last map")
    pool: Literal["grid", "pooled"] = setting("grid", "grid keeps the regions, pooled averages them to one")
    image_size: int = setting(0, "pictures are resized to this square; 0 = what the weights were made for", least=0)
    resize: Literal["squash", "crop"] = setting("squash", "squash the whole frame to a square, or crop its centre")
    mean: tuple[float, ...] = setting((), "channel means of the input in 0..1; empty = the weights' own")
    std: tuple[float, ...] = setting((), "channel deviations of the input; empty = the weights' own")
    tf_average_pooling: bool = setting(
        False, "leave the padding out of average pools, as TensorFlow does (converted weights need it)"
    )
    encoder_training: Literal["cached", "frozen", "full"] = setting(
        "cached",
        "cached runs the encoder once and keeps its features; frozen runs it each batch; full trains it too",
    )


@dataclass(frozen=True)
class ModelConfig(_Section):
    """The captioning network after the encoder; sizes are widths in units."""

    decoder: Literal["attention", "pooled"] = setting("attention", "attention over regions, or one pooled vector")
    projection_size: int = setting(256, "width D of a region after the projection of its features", least=1)
    projection_activation: Literal["relu", "tanh", "none"] = setting("relu", "activation of that projection")
    embedding_size: int = setting(256, "width of a word's embedding", least=1)
    hidden_size: int = setting(512, "units of a recurrent layer", least=1)
    attention_size: int = setting(512, "units of the additive attention", least=1)
    output_size: int = setting(512, "width of the dense layer before the vocabulary; 0 = none", least=0)
    layers: int = setting(1, "recurrent layers", least=1)
    merge: Literal["state", "add"] = setting(
        "state", "pooled decoder: the picture is the first state, or added to each word"
    )
    initialisation: Literal["keras", "torch"] = setting(
        "keras", "first weights: as the tutorials' Keras draws them, or as torch does (learns from nothing sooner)"
    )
    feature_dropout: float = setting(0.0, "dropout on the encoder's features", least=0, below=1)
    embedding_dropout: float = setting(0.0, "dropout on word embeddings", least=0, below=1)
    output_dropout: float = setting(0.0, "dropout before the vocabulary layer", least=0, below=1)


@dataclass(frozen=True)
class TrainingConfig(_Section):
    """How the captioner is fitted."""

    optimizer: Literal["adam", "rmsprop"] = setting("adam", "rule that updates the weights")
    learning_rate: float = setting(1e-3, "step size of the optimizer", above=0)
    lr_drop_epochs: tuple[int, ...] = setting((), "epochs after which the learning rate is dropped")
    lr_drop: float = setting(0.2, "factor of each drop", above=0)
    batch_captions: int = setting(64, "captions a batch; a batch holds whole pictures", least=1)
    epochs: int = setting(20, "passes over the training captions, at most", least=1)
    patience: int = setting(0, "stop after so many epochs without a better monitor; 0 = never", least=0)
    monitor: Literal["val_cider", "val_loss"] = setting("val_cider", "what the best checkpoint and patience look at")
    label_smoothing: float = setting(0.0, "probability spread over the whole vocabulary in the loss", least=0, below=1)
    weight_decay: float = setting(0.0, "L2 pull on the weights", least=0)
    clip_gradients: float = setting(5.0, "largest norm of the gradient; 0 = unlimited", least=0)
    seed: int = setting(0, "seed of initial weights, shuffling and dropout", least=0)
    keep_best: int = setting(5, "best checkpoints kept", least=0)
    checkpoint_every: int = setting(200, "steps between two saves of the resumable state", least=1)
    log_every: int = setting(50, "steps between two log lines", least=1)
    device: str = setting("auto", "auto, cpu, cuda or mps")
    precision: Literal["auto", "float32", "bfloat16"] = setting("auto", "arithmetic of training")
    loggers: tuple[str, ...] = setting((), "further Lightning loggers, by class name (such as WandbLogger)")


@dataclass(frozen=True)
class DecodingOptions(_Section):
    """How a caption is searched for."""

    strategy: Literal["greedy", "sample", "beam"] = setting("greedy", "how words are chosen")
    beam_size: int = setting(3, "open hypotheses of a beam search", least=1)
    max_length: int = setting(0, "most words of a caption; 0 = the longest training caption's", least=0)
    length_penalty: float = setting(0.7, "beam scores are divided by length to this power; 0 = none", least=0)
    temperature: float = setting(1.0, "sampling: above 1 flattens, below 1 sharpens", above=0)
    top_k: int = setting(0, "sampling: only the so many likeliest words; 0 = all", least=0)
    sampling_seed: int = setting(0, "sampling: seed, combined with the picture's place")
    allow_unk: bool = setting(False, "may the unknown word be said")


@dataclass(frozen=True)
class Config:
    """The whole of a run: everything needed to do it again."""

    data: DataConfig = DataConfig()
    text: TextConfig = TextConfig()
    encoder: EncoderConfig = EncoderConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    decoding: DecodingOptions = DecodingOptions()


def field_paths() -> dict[str, tuple[str, dataclasses.Field[Any], Any]]:
    """Returns every leaf name of `Config` -> (its section, its field, its resolved type)."""
    leaves: dict[str, tuple[str, dataclasses.Field[Any], Any]] = {}
    for section in dataclasses.fields(Config):
        kind = _hints(Config)[section.name]
        for leaf in dataclasses.fields(kind):
            leaves[leaf.name] = (section.name, leaf, _hints(kind)[leaf.name])
    return leaves


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

    Args:
        preset: a name of `preset_names()`, or empty for the bare defaults.
        file: a YAML file of sections (the form that runs save).
        overrides: single values; a key is `section.field` or just `field`, as names are unique.

    Raises:
        ConfigError: an unknown preset, section or field (the nearest is named), or an unfit value.
    """
    values = preset_values(preset) if preset else {}
    if file is not None:
        values = _merge(values, _read_yaml(Path(file)))
    for key, value in (overrides or {}).items():
        section, leaf = _locate(key)
        values = _merge(values, {section: {leaf: value}})
    return _build(values)


def replace(config: Config, **overrides: Any) -> Config:
    """Returns `config` with single fields changed by their unique names, checked like any other layer.

    Raises:
        ConfigError: an unknown field or an unfit value.
    """
    values = to_dict(config)
    for key, value in overrides.items():
        section, leaf = _locate(key)
        values[section][leaf] = value
    return _build(values)


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the configuration as nested plain values that YAML and JSON can hold."""
    return typing.cast("dict[str, Any]", _plain(dataclasses.asdict(config)))


def save_config(config: Config, path: Path) -> None:
    """Writes the whole resolved configuration as YAML, atomically."""
    # In ASCII: left as they are, characters that YAML takes for line ends would be read back as spaces.
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")
    temporary.replace(path)


def _build(values: Mapping[str, Any]) -> Config:
    sections = {}
    for name, content in values.items():
        if name not in _hints(Config):
            raise ConfigError(f"unknown configuration section {name!r}; {_suggest(str(name), list(_hints(Config)))}")
        sections[name] = _build_section(name, _hints(Config)[name], content)
    return Config(**sections)


def _build_section(name: str, kind: type[Section], content: object) -> Section:
    if not isinstance(content, Mapping):
        raise ConfigError(f"configuration section {name!r} must hold named values, not {content!r}")
    hints = _hints(typing.cast("type", kind))
    for key in content:
        if key not in hints:
            raise ConfigError(f"unknown configuration key {name}.{key}; {_suggest(str(key), list(hints))}")
    return kind(**{key: _coerce(f"{name}.{key}", value, hints[key]) for key, value in content.items()})


def _coerce(where: str, value: Any, kind: Any) -> Any:
    """Returns `value` as the field's type: YAML's ints for floats, lists for tuples; refuses the rest."""
    origin = typing.get_origin(kind)
    if origin is Literal:
        if value not in typing.get_args(kind):
            choices = [str(choice) for choice in typing.get_args(kind)]
            raise ConfigError(f"{where} is {value!r}; choose one of {', '.join(choices)}")
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
    raise ConfigError(f"{where} must be {_type_name(kind)}, not {value!r}")


def _type_name(kind: Any) -> str:
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(kind, str(kind))


def _locate(key: str) -> tuple[str, str]:
    section, _, leaf = key.rpartition(".")
    leaves = field_paths()
    if leaf not in leaves or section not in ("", leaves[leaf][0]):
        raise ConfigError(f"unknown configuration key {key!r}; {_suggest(leaf, list(leaves))}")
    return leaves[leaf][0], leaf


def _suggest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {reason}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no configuration sections")
    try:
        _build(values)  # by itself, so that its faults are laid to it and not hidden by the layers above
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return values


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
