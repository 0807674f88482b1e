"""Short names of encoders, such as siglip2-base, and the timm networks that they stand for (`encoders.yaml`)."""

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any

import yaml


@dataclass(frozen=True)
class EncoderAlias:
    """What an alias stands for.

    Attributes:
        settings: fields of `EncoderConfig`: the network as timm names it, and an image size other than the weights'.
        license: licence of the weights, as timm states it.
        parameters: number of parameters without the classifier.
        pixels: side of the images.
        grid: rows and columns of the features, each.
        features: width F of the features.
    """

    settings: Mapping[str, Any]
    license: str
    parameters: int
    pixels: int
    grid: int
    features: int

    @property
    def network(self) -> str:
        """Timm's name of the network and its weights."""
        return str(self.settings["encoder"])


@functools.cache
def encoder_aliases() -> Mapping[str, EncoderAlias]:
    """Return every alias by its name."""
    text = resources.files("seesay.config").joinpath("encoders.yaml").read_text(encoding="utf-8")
    return MappingProxyType({name: EncoderAlias(**entry) for name, entry in yaml.safe_load(text).items()})


def resolve(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of `EncoderConfig` with an alias replaced by timm's name; an image size that is set is kept.

    Args:
        values: fields by name; without an alias they are returned unchanged.
    """
    alias = encoder_aliases().get(str(values.get("encoder")))
    if alias is None:
        return dict(values)
    given = {name: value for name, value in values.items() if value or name not in alias.settings}
    return {**alias.settings, **given, "encoder": alias.network}


def similar_aliases(name: str) -> list[str]:
    """Return up to three aliases similar to a name, the most similar first."""
    return difflib.get_close_matches(name.lower(), encoder_aliases(), n=3, cutoff=0.6)
