"""What several commands take: the flags made of the configuration, and the parameters of one meaning."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Parameter

from seesay.config import Config, DecodingOptions, changed_decoding, resolve_config
from seesay.config.flags import Flags, flag_name, given_flags, make_flags
from seesay.config.schema import SECTIONS

DEFAULT_PRESET = "attention-gru"
"""The system that `train`, `tune` and `extract` use where none is named."""

if TYPE_CHECKING:
    TrainFlags: TypeAlias = Flags  # made below, where the type checker cannot follow
    ExtractFlags: TypeAlias = Flags
    DecodingFlags: TypeAlias = Flags
    DataFlags: TypeAlias = Flags
else:
    _DEFAULTS = resolve_config(DEFAULT_PRESET)
    _OF_PRESET = {"shown": _DEFAULTS, "note": f" (defaults of {DEFAULT_PRESET})"}
    _OF_RUN = {"shown": _DEFAULTS, "note": f" (default: as in the run; shown: those of {DEFAULT_PRESET})"}
    TrainFlags = make_flags("TrainFlags", *SECTIONS, **_OF_PRESET)
    ExtractFlags = make_flags("ExtractFlags", "data", "encoder", **_OF_PRESET)
    DecodingFlags = make_flags("DecodingFlags", "decoding", **_OF_RUN)
    DataFlags = make_flags("DataFlags", "data", "text")

Preset = Annotated[str, Parameter(help="a system of `seesay presets`")]
ConfigFile = Annotated[Path | None, Parameter(name="--config", help="YAML file of settings, as runs save it")]
Features = Annotated[Path, Parameter(help="folder of feature stores")]
Stores = Annotated[list[Path] | None, Parameter(name="--store", help="given feature stores, joined along F")]
Model = Annotated[str, Parameter(help="run folder; empty = the latest under runs/")]
Models = Annotated[
    list[str] | None,
    Parameter(name="--model", help="run folder, or several of one vocabulary that speak as one; none = the latest"),
]
ImageColumn = Annotated[str, Parameter(help="column of images in tables; empty = the first of a usual name")]
CaptionColumn = Annotated[str, Parameter(help="column of captions in tables; empty = the first of a usual name")]
Metrics = Annotated[list[str] | None, Parameter(consume_multiple=True)]
Flat = Parameter(name="*")


def decoding_options(config: Config, flags: Flags | None) -> DecodingOptions:
    """Return a run's decoding options with the given flags; options that another strategy does not read are reset.

    Raises:
        ConfigError: a flag that the search does not read, or an unsuitable value.
    """
    return changed_decoding(config, given_flags(flags), flag_name)
