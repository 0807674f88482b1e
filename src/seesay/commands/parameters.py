"""What several commands take: the flags made of the configuration, and the parameters of one meaning."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

from seesay import config as configuration
from seesay.flags import flags_of, provided_flags

DEFAULT_PRESET = "attention-gru"
"""The system that `train`, `tune` and `extract` use where none is named."""

if TYPE_CHECKING:
    TrainFlags: TypeAlias = Any  # made below, out of the type checker's sight
    ExtractFlags: TypeAlias = Any
    DecodingFlags: TypeAlias = Any
    DataFlags: TypeAlias = Any
else:
    _DEFAULTS = configuration.resolve_config(DEFAULT_PRESET)
    _OF_PRESET = {"shown": _DEFAULTS, "note": f" (defaults of {DEFAULT_PRESET})"}
    _OF_RUN = {"shown": _DEFAULTS, "note": f" (the run's own by default; shown: those of {DEFAULT_PRESET})"}
    TrainFlags = flags_of("TrainFlags", "data", "text", "encoder", "model", "training", "decoding", **_OF_PRESET)
    ExtractFlags = flags_of("ExtractFlags", "data", "encoder", **_OF_PRESET)
    DecodingFlags = flags_of("DecodingFlags", "decoding", **_OF_RUN)
    DataFlags = flags_of("DataFlags", "data", "text")

NOT_GIVEN: dict[str, Any] = {kind.__name__: kind() for kind in (TrainFlags, ExtractFlags, DecodingFlags, DataFlags)}

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


def decoding_options(config: configuration.Config, flags: Any) -> configuration.DecodingOptions:
    """Returns a run's decoding options with the flags that were given; another strategy leaves the run's own behind.

    Raises:
        ConfigError: a flag that the search does not read, or an unfit value.
    """
    return configuration.changed_decoding(config, provided_flags(flags), lambda name: f"--{name.replace('_', '-')}")
