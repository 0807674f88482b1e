"""The options that a search varies and their values: from a user's file, or around those of a preset."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seesay.config import Config, field_paths, locate, read_yaml, replace
from seesay.errors import ConfigError
from seesay.models.validation import equal_widths, fields_read
from seesay.training.validation import check_config

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_SEARCHED = ("text", "model", "training")
_SHARED = {
    "data": "all trials share their images",
    "encoder": "all trials share their features",
    "decoding": "trials are compared by greedy captions, which do not depend on it",
}
_BOOKKEEPING = (
    *("decoder", "monitor", "seed", "device", "precision", "loggers", "keep_best", "checkpoint_every", "log_every"),
    *("init_from", "scst_samples", "scst_weight", "scst_baseline", "scst_bleu"),
)
_SHAPES = (
    *("projection_size", "embedding_size", "hidden_size", "attention_size", "output_size", "feedforward_size"),
    *("num_layers", "log_frequency_bias"),
)
"""Options of the default space that are given by the weights of another run, where training starts from them."""
_RANGES = {
    "label_smoothing": (0.2, 0.05),
    "feature_dropout": (0.6, 0.1),
    "embedding_dropout": (0.6, 0.1),
    "attention_dropout": (0.3, 0.1),
    "state_dropout": (0.4, 0.1),
    "output_dropout": (0.7, 0.1),
}
"""Ranges of the default space that start at 0: highest value, step."""


@dataclass(frozen=True)
class Space:
    """The options that a search varies.

    Attributes:
        base: the value of every other option.
        dimensions: option -> Optuna's distribution of its values.
        fixed: further options that a trial must not change.
    """

    base: Config
    dimensions: "Mapping[str, BaseDistribution]"
    fixed: frozenset[str] = frozenset()

    def config(self, params: Mapping[str, Any]) -> Config:
        """Return the configuration of a trial; widths that must equal one that it changes follow it.

        Numbers from a range are rounded to four digits.

        Raises:
            ConfigError: a value that its option does not accept.
        """
        values = {name: self._rounded(name, value) for name, value in params.items()}
        config = replace(self.base, **values)
        own = {*self.dimensions, *self.fixed}
        pairs = equal_widths(config.model)
        return replace(config, **{name: getattr(config.model, pairs[name][0]) for name in pairs if name not in own})

    def defaults(self) -> dict[str, Any]:
        """Return the base's own values of the dimensions that contain them."""
        values = {name: value_of(self.base, name) for name in self.dimensions}
        return {name: value for name, value in values.items() if _contains(self.dimensions[name], value)}

    def _rounded(self, name: str, value: Any) -> Any:
        is_choice = hasattr(self.dimensions[name], "choices")
        return float(f"{value:.4g}") if isinstance(value, float) and not is_choice else value


def value_of(config: Config, name: str) -> Any:
    """Return an option by its unique name."""
    return getattr(getattr(config, field_paths()[name][0]), name)


def samples(dimension: Any) -> tuple[Any, ...]:
    """Return the choices of a distribution, or the ends of its range."""
    return dimension.choices if hasattr(dimension, "choices") else (dimension.low, dimension.high)


def read_space(base: Config, given: str | Path | Mapping[str, Any], fixed: Collection[str]) -> Space:
    """Return the space that a user describes.

    Args:
        base: a configuration that can be trained.
        given: a YAML file, or the same as a mapping: option -> list of choices, or a mapping of low, high and
            optionally step or log.
        fixed: options that must not change.

    Raises:
        ConfigError: an option that does not exist, cannot be searched or is not read; an empty range; a value that
            cannot be trained with. The message names it, and the file.
    """
    if isinstance(given, Mapping):
        return _user_space(base, given, fixed)
    values = read_yaml(Path(given), "settings to search")
    try:
        return _user_space(base, values, fixed)
    except ConfigError as error:
        raise ConfigError(f"{given}: {error}") from error


def default_space(base: Config, fixed: Collection[str], captions: int) -> Space:
    """Return the space around a configuration that `docs/tuning.md` lists, without options that make no difference.

    Args:
        base: a configuration that can be trained.
        fixed: options that must not change.
        captions: captions per epoch; warm-ups of more than a quarter of all steps are left out.
    """
    read, following = fields_read(base.model), equal_widths(base.model)
    kept = {}
    for name, dimension in _candidates(base, captions).items():
        is_read = field_paths()[name][0] != "model" or (name in read and name not in following)
        is_given = name in fixed or (base.training.init_from and name in _SHAPES)
        if is_read and not is_given and not dimension.single():
            kept[name] = dimension
    space = Space(base, kept, frozenset(fixed))
    return Space(base, {name: kept[name] for name in kept if _works(space, name)}, frozenset(fixed))


def _candidates(base: Config, captions: int) -> "dict[str, BaseDistribution]":
    text, model, training = base.text, base.model, base.training
    steps = training.epochs * captions / training.batch_captions
    decay = (0.0, 0.01, 0.1) if training.optimizer == "adam" else (0.0, 1e-5, 1e-4)  # the latter adds to gradients
    rate = training.learning_rate
    choices: dict[str, Sequence[Any]] = {
        "batch_captions": _multiples(training.batch_captions, 0.5, 1, 2),
        "warmup_steps": (training.warmup_steps, *(warmup for warmup in (0, 200, 600) if warmup <= steps / 4)),
        "ema_decay": (training.ema_decay, 0.0, 0.99, 0.999),
        "weight_decay": (training.weight_decay, *decay),
        **{name: _multiples(getattr(model, name), 0.5, 1, 1.5) for name in _SHAPES if name.endswith("_size")},
        "num_layers": (model.num_layers, max(1, model.num_layers - 1), model.num_layers + 1),
        "doubly_stochastic": (model.doubly_stochastic, 0.0, 0.5, 1.0),
        "log_frequency_bias": (False, True),
        "min_count": (text.min_count, 1, 2, 3, 5),
    }
    return {
        "learning_rate": _range(low=rate / 4, high=rate * 4, log=True),
        **{name: _range(low=0.0, high=high, step=step) for name, (high, step) in _RANGES.items()},
        **{name: _choices(sorted(set(values))) for name, values in choices.items()},
    }


def _multiples(value: int, *factors: float) -> Sequence[int]:
    """Return multiples of a size; a size of 0, which disables something, only itself."""
    return [max(1, round(value * factor)) for factor in factors] if value else [0]


def _works(space: Space, name: str) -> bool:
    """Return whether each sample of a dimension can be trained with, beside the base's own values."""
    try:
        for value in samples(space.dimensions[name]):
            check_config(space.config({name: value}))
    except ConfigError:
        return False
    return True


def _user_space(base: Config, given: Mapping[str, Any], fixed: Collection[str]) -> Space:
    dimensions: dict[str, BaseDistribution] = {}
    for key, values in given.items():
        section, name = locate(str(key))
        where = f"{section}.{name}"
        if section not in _SEARCHED or name in _BOOKKEEPING:
            reason = _SHARED.get(section, "it is the same in all trials")
            raise ConfigError(f"{where} cannot be searched: {reason}; set it for all trials instead")
        if name in dimensions:
            raise ConfigError(f"{where} is given twice")
        if name in fixed:
            raise ConfigError(f"{where} is to be searched, but also set by --{name.replace('_', '-')}; leave one out")
        dimensions[name] = _dimension(base, name, where, values)
    if not dimensions:
        raise ConfigError("there is no setting to search")
    space = Space(base, dimensions, frozenset(fixed))
    configs = [space.config({name: value}) for name, found in dimensions.items() for value in samples(found)]
    for config in configs:
        check_config(config)
    read = frozenset.union(*(fields_read(config.model) for config in configs))
    for name in dimensions:
        if field_paths()[name][0] == "model" and name not in read:
            raise ConfigError(f"model.{name} is to be searched, but the {base.model.decoder} decoder does not read it")
    return space


def _dimension(base: Config, name: str, where: str, given: Any) -> "BaseDistribution":
    """Return the distribution of a list or a mapping; the configuration validates the values, Optuna the range."""

    def valid(value: Any) -> Any:
        return value_of(replace(base, **{name: value}), name)

    try:
        if isinstance(given, Mapping):
            found = _range(**{key: valid(end) if key in ("low", "high") else end for key, end in given.items()})
        else:
            found = _choices([valid(value) for value in given])
        if found.single():
            raise ValueError("it has a single value")
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        form = "a list of different choices, or a range of numbers such as {low: 0.0001, high: 0.01, log: true}"
        raise ConfigError(f"{where} must be {form}, not {given!r} ({error})") from error
    return found


def _choices(values: Sequence[Any]) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution

    if len(set(values)) < len(values) or any(isinstance(value, tuple) for value in values):
        raise ValueError("choices are different numbers, texts, true or false")
    return CategoricalDistribution(values)


def _range(low: float, high: float, step: float | None = None, log: bool = False) -> "BaseDistribution":
    """Return Optuna's distribution of a range; it ends at the last value that the steps reach.

    Raises:
        TypeError: `step` is not a number or `log` not a bool.
        ValueError: the range is empty, or its options exclude each other.
    """
    from optuna.distributions import FloatDistribution, IntDistribution

    is_whole = isinstance(low, int)
    if isinstance(low, (bool, str)) or not isinstance(log, bool) or not isinstance(step, type(low) | int | None):
        raise TypeError(f"low, high and step are {'whole ' * is_whole}numbers, log is true or false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps that do not divide the range
        if is_whole:
            return IntDistribution(int(low), int(high), log, 1 if step is None else int(step))
        return FloatDistribution(low, high, log, step)


def _contains(dimension: Any, value: Any) -> bool:
    if hasattr(dimension, "choices"):
        return value in dimension.choices
    steps = (value - dimension.low) / dimension.step if dimension.step else 0.0
    return bool(dimension.low <= value <= dimension.high and abs(steps - round(steps)) < 1e-8)
