"""Which settings a search changes, and to what: from a file of the user's, or around those of a preset."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from seesay.config import Config, field_paths, locate, read_yaml, replace
from seesay.errors import ConfigError
from seesay.models.captioning import fields_read
from seesay.models.validation import equal_widths
from seesay.training.validation import check_config

_SEARCHED = ("text", "model", "training")
_THE_SAME = {
    "data": "all trials share their images",
    "encoder": "all trials share their features",
    "decoding": "a search looks at greedy captions, which do not depend on it",
}
_BOOKKEEPING = (
    *("decoder", "monitor", "seed", "device", "precision", "loggers", "keep_best", "checkpoint_every", "log_every"),
    *("init_from", "scst", "scst_samples", "scst_weight", "scst_baseline"),
)
_SHAPES = (
    *("projection_size", "embedding_size", "hidden_size", "attention_size", "output_size", "num_layers"),
    *("feedforward_size", "tie_weights", "log_frequency_bias"),
)
"""Settings of the default space that another run's weights settle for a training that starts from them."""


@dataclass(frozen=True)
class Choices:
    """A setting that takes one of some values."""

    values: tuple[Any, ...]

    def holds(self, value: Any) -> bool:
        """Tells whether a search could come upon this value."""
        return value in self.values

    def samples(self) -> tuple[Any, ...]:
        """Returns values that must all work for the others to be likely to."""
        return self.values

    def plain(self) -> Any:
        """Returns it as it stands in a file."""
        return list(self.values)


@dataclass(frozen=True)
class Range:
    """A number between two, both included.

    Attributes:
        low: the least.
        high: the most.
        step: between two values; 0 = any value of a fraction, every whole number.
        log: whether orders of magnitude are equally likely.
    """

    low: float
    high: float
    step: float = 0
    log: bool = False

    def holds(self, value: Any) -> bool:
        """Tells whether a search could come upon this value."""
        steps = (value - self.low) / self.step if self.step else 0.0
        reached: bool = self.low <= value <= self.high and abs(steps - round(steps)) < 1e-8
        return reached and self.rounded(value) == value

    def samples(self) -> tuple[Any, ...]:
        """Returns values that must all work for the others to be likely to."""
        return self.low, self.high

    def plain(self) -> Any:
        """Returns it as it stands in a file."""
        return {"low": self.low, "high": self.high, "step": self.step, "log": self.log}

    def rounded(self, value: Any) -> Any:
        """Returns a fraction with four digits, which people can read and write; whole numbers as they are."""
        return float(f"{value:.4g}") if isinstance(value, float) else value


Dimension: TypeAlias = Choices | Range


@dataclass(frozen=True)
class Space:
    """What a search changes of a configuration.

    Attributes:
        base: every setting where a trial says nothing else.
        dimensions: setting -> its values.
        fixed: further settings that a trial may not change.
    """

    base: Config
    dimensions: Mapping[str, Dimension]
    fixed: frozenset[str] = field(default=frozenset())

    def config(self, values: Mapping[str, Any]) -> Config:
        """Returns the whole configuration of a trial; widths that must equal one that it changes go with it.

        Raises:
            ConfigError: a value that its setting does not take.
        """
        readable = {}
        for name, value in values.items():
            dimension = self.dimensions[name]
            readable[name] = dimension.rounded(value) if isinstance(dimension, Range) else value
        config = replace(self.base, **readable)
        is_done = {*self.dimensions, *self.fixed}
        pairs = equal_widths(config.model)
        following = {name: getattr(config.model, pairs[name][0]) for name in pairs if name not in is_done}
        return replace(config, **following)

    def defaults(self) -> dict[str, Any]:
        """Returns the base's own values of the dimensions that hold them."""
        values = {name: value_of(self.base, name) for name in self.dimensions}
        return {name: value for name, value in values.items() if self.dimensions[name].holds(value)}


def value_of(config: Config, name: str) -> Any:
    """Returns a setting by its unique name."""
    return getattr(getattr(config, field_paths()[name][0]), name)


def read_space(base: Config, given: str | Path | Mapping[str, Any], fixed: Collection[str]) -> Space:
    """Returns the space that a user has described.

    Args:
        base: a configuration that can be trained.
        given: a YAML file, or the same as a mapping: setting -> list of choices, or a mapping of low, high and, if
            wanted, step or log.
        fixed: settings that are not to be changed.

    Raises:
        ConfigError: a setting that does not exist, cannot be searched or is not read; a range that is none; a value
            that cannot be trained with. The message names it, and the file.
    """
    if isinstance(given, Mapping):
        return _given_space(base, given, fixed)
    values = read_yaml(Path(given), "settings to search")
    try:
        return _given_space(base, values, fixed)
    except ConfigError as error:
        raise ConfigError(f"{given}: {error}") from error


def default_space(base: Config, fixed: Collection[str], captions: int) -> Space:
    """Returns the documented space around a configuration: of `docs/tuning.md`, what makes a difference to it.

    Args:
        base: a configuration that can be trained.
        fixed: settings that are not to be changed.
        captions: of an epoch, by which warm-ups are left out that would take more than a quarter of a training.
    """
    read, following = fields_read(base.model), equal_widths(base.model)
    kept: dict[str, Dimension] = {}
    for name, dimension in _candidates(base, captions).items():
        makes_a_difference = field_paths()[name][0] != "model" or (name in read and name not in following)
        is_done = name in fixed or (base.training.init_from and name in _SHAPES)
        if makes_a_difference and not is_done and len(set(dimension.samples())) > 1:
            kept[name] = dimension
    space = Space(base, kept, frozenset(fixed))
    sizes = [name for name in kept if field_paths()[name][0] == "model"]
    refused = {name for name in sizes if not _works(space, name)}
    # Tied weights demand equal sizes, which sizes searched one by one would seldom have.
    if "tie_weights" in kept and not all(_works(space, name, tie_weights=True) for name in {*sizes} - refused):
        refused.add("tie_weights")
    working = {name: dimension for name, dimension in kept.items() if name not in refused}
    return Space(base, working, frozenset(fixed))


def _candidates(base: Config, captions: int) -> dict[str, Dimension]:
    text, model, training = base.text, base.model, base.training
    steps = training.epochs * captions / training.batch_captions
    warmups = [warmup for warmup in (0, 200, 600) if warmup <= steps / 4]
    sizes = {name: _around(getattr(model, name), 0.5, 1, 1.5) for name in _SHAPES if name.endswith("_size")}
    decay = (0.0, 0.01, 0.1) if training.optimizer == "adam" else (0.0, 1e-5, 1e-4)  # the latter adds to gradients
    return {
        "learning_rate": Range(training.learning_rate / 4, training.learning_rate * 4, log=True),
        "batch_captions": _around(training.batch_captions, 0.5, 1, 2),
        "warmup_steps": _with(training.warmup_steps, *warmups),
        "ema_decay": _with(training.ema_decay, 0.0, 0.99, 0.999),
        "weight_decay": _with(training.weight_decay, *decay),
        "label_smoothing": Range(0.0, 0.2, step=0.05),
        "feature_dropout": Range(0.0, 0.6, step=0.1),
        "embedding_dropout": Range(0.0, 0.6, step=0.1),
        "attention_dropout": Range(0.0, 0.3, step=0.1),
        "state_dropout": Range(0.0, 0.4, step=0.1),
        "output_dropout": Range(0.0, 0.7, step=0.1),
        **sizes,
        "num_layers": _with(model.num_layers, max(1, model.num_layers - 1), model.num_layers + 1),
        "doubly_stochastic": _with(model.doubly_stochastic, 0.0, 0.5, 1.0),
        "log_frequency_bias": Choices((False, True)),
        "tie_weights": Choices((False, True)),
        "min_count": _with(text.min_count, 1, 2, 3, 5),
    }


def _around(value: int, *factors: float) -> Choices:
    """Returns multiples of a size; of a size of 0, which turns something off, only itself."""
    return Choices(tuple(sorted({max(1, round(value * factor)) for factor in factors} if value else {0})))


def _with(value: Any, *others: Any) -> Choices:
    return Choices(tuple(sorted({value, *others})))


def _works(space: Space, name: str, **others: Any) -> bool:
    """Tells whether each value of a dimension can be trained with, beside the base's own and the others given."""
    try:
        for value in space.dimensions[name].samples():
            check_config(space.config({**others, name: value}))
    except ConfigError:
        return False
    return True


def _given_space(base: Config, given: Mapping[str, Any], fixed: Collection[str]) -> Space:
    dimensions: dict[str, Dimension] = {}
    for key, values in given.items():
        section, name = locate(str(key))
        where = f"{section}.{name}"
        if section not in _SEARCHED or name in _BOOKKEEPING:
            why = _THE_SAME.get(section, "it is the same in all trials")
            raise ConfigError(f"{where} cannot be searched: {why}; give it as a setting instead")
        if name in dimensions:
            raise ConfigError(f"{where} is given twice")
        if name in fixed:
            raise ConfigError(f"{where} is to be searched, but also set by --{name.replace('_', '-')}; leave one out")
        dimensions[name] = _dimension(base, name, where, values)
    if not dimensions:
        raise ConfigError("there is no setting to search")
    space = Space(base, dimensions, frozenset(fixed))
    read = fields_read(base.model)
    for name, dimension in dimensions.items():
        for value in dimension.samples():
            config = space.config({name: value})
            check_config(config)
            read |= fields_read(config.model)
    for name in dimensions:
        if field_paths()[name][0] == "model" and name not in read:
            raise ConfigError(f"model.{name} is to be searched, but the {base.model.decoder} decoder does not read it")
    return space


def _dimension(base: Config, name: str, where: str, given: Any) -> Dimension:
    if isinstance(given, list):
        values = tuple(value_of(replace(base, **{name: value}), name) for value in given)
        if len(set(values)) < max(2, len(values)):
            raise ConfigError(f"{where} is {given!r}; a search needs two or more different choices")
        if any(isinstance(value, tuple) for value in values):
            raise ConfigError(f"{where} is a list by itself, of which there are no choices")
        return Choices(values)
    kind = field_paths()[name][2]
    if not isinstance(given, Mapping) or kind not in (int, float):
        example = "{low: 0.0001, high: 0.01, log: true}"
        allowed = f"a list of choices or a range such as {example}" if kind in (int, float) else "a list of choices"
        raise ConfigError(f"{where} must be {allowed}, not {given!r}")
    return _range(base, name, where, given)


def _range(base: Config, name: str, where: str, given: Mapping[str, Any]) -> Range:
    unknown = [key for key in given if key not in ("low", "high", "step", "log")]
    if unknown or not {"low", "high"} <= set(given):
        problem = f"no {unknown[0]!r}" if unknown else "both low and high"
        raise ConfigError(f"{where}: a range has {problem}; it is low, high and, if wanted, step or log")
    low, high = (value_of(replace(base, **{name: given[end]}), name) for end in ("low", "high"))
    step, log = given.get("step", 0), given.get("log", False)
    if low >= high:
        raise ConfigError(f"{where}: the range ends at {high}, which is not above its low, {low}")
    if not isinstance(log, bool) or (log and (low <= 0 or step)):
        raise ConfigError(f"{where}: log is true or false, and needs a low above 0 and no step")
    whole = isinstance(low, int)
    if isinstance(step, bool) or not isinstance(step, int if whole else (int, float)) or not 0 <= step <= high - low:
        kind = "whole number" if whole else "number"
        raise ConfigError(f"{where}: step is {step!r}; it must be a {kind} that fits between low and high")
    if step:
        high = low + step * int((high - low) / step + 1e-9)  # the last value that the steps reach
    return Range(low, high, step, log)
