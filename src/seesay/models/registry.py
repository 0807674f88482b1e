"""The decoders by name: a class with `@register_decoder(name, options)` is what `model.decoder: name` builds."""

import importlib
import pkgutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from seesay.config import ModelConfig
from seesay.config.section import suggest
from seesay.errors import ConfigError

DecoderBuilder = Callable[[ModelConfig, int], nn.Module]
"""Makes a decoder of the network's sizes and the size V of the vocabulary."""

Builder = TypeVar("Builder", bound=DecoderBuilder)

_SHARED = frozenset(
    ("decoder", "projection_size", "projection_activation", "initialisation", "log_frequency_bias", "feature_dropout")
)
"""The fields of `ModelConfig` that are read whatever the decoder."""


@dataclass(frozen=True)
class _Decoder:
    build: DecoderBuilder
    options: frozenset[str]


_DECODERS: dict[str, _Decoder] = {}


def register_decoder(name: str, options: Collection[str]) -> Callable[[Builder], Builder]:
    """Return a class decorator that registers a decoder as `name`.

    The class is called with a `ModelConfig` and the size V of the vocabulary, and is a `TrainableDecoder`.

    Args:
        name: of the decoder.
        options: the fields of `ModelConfig` that it reads, beside those of every captioner. Others are refused where
            they are set, and not searched by `seesay tune`.

    Raises:
        ConfigError: the name is another decoder's already, or an option is no field of `ModelConfig`.
    """
    for option in options:
        if option not in ModelConfig.model_fields:
            raise ConfigError(f"the decoder {name!r} reads {option!r}; {suggest(option, ModelConfig.model_fields)}")

    def register(builder: Builder) -> Builder:
        if name in _DECODERS:
            raise ConfigError(f"there is a decoder {name!r} already ({_DECODERS[name].build.__module__})")
        _DECODERS[name] = _Decoder(builder, _SHARED | frozenset(options))
        return builder

    return register


def decoder_names() -> list[str]:
    """Return the names of all decoders, sorted; those of `seesay.models.decoders` are loaded first."""
    from seesay.models import decoders

    for module in pkgutil.iter_modules(decoders.__path__, f"{decoders.__name__}."):
        importlib.import_module(module.name)
    return sorted(_DECODERS)


def decoder_builder(name: str) -> DecoderBuilder:
    """Return what makes the decoder of that name.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    return _find(name).build


def decoder_options(name: str) -> frozenset[str]:
    """Return the fields of `ModelConfig` that a captioner with this decoder reads.

    Raises:
        ConfigError: there is no such decoder; the message names the nearest.
    """
    return _find(name).options


def _find(name: str) -> _Decoder:
    known = decoder_names()
    if name not in known:
        raise ConfigError(f"model.decoder is {name!r}, which is no decoder; {suggest(name, known)}")
    return _DECODERS[name]
