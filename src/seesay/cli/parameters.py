"""Parameters shared by several commands, and the flags generated from the configuration."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from cyclopts import Group, Parameter

from seesay.captioners.prompts import prompt_variables
from seesay.captioners.spec import ModelSpec
from seesay.cli.models import choose_models
from seesay.cli.options import COMMON
from seesay.config import DecodingOptions, changed_decoding, resolve_config
from seesay.config.flags import Flags, flag_name, given_flags, make_flags
from seesay.config.schema import SECTIONS
from seesay.errors import ConfigError

DEFAULT_PRESET = "attention-gru"
"""The default preset of `train`, `tune` and `extract`."""

if TYPE_CHECKING:
    TrainFlags: TypeAlias = Flags  # generated below, which the type checker cannot follow
    ExtractFlags: TypeAlias = Flags
    DecodingFlags: TypeAlias = Flags
    DataFlags: TypeAlias = Flags
    EncoderFlags: TypeAlias = Flags
else:
    _DEFAULTS = resolve_config(DEFAULT_PRESET)
    _OF_PRESET = {"shown": _DEFAULTS, "note": f" (defaults of {DEFAULT_PRESET})"}
    _OF_RUN = {"shown": _DEFAULTS, "note": f" (default: the run's; shown: those of {DEFAULT_PRESET})"}
    TrainFlags = make_flags("TrainFlags", *SECTIONS, **_OF_PRESET)
    ExtractFlags = make_flags("ExtractFlags", "data", "encoder", **_OF_PRESET)
    DecodingFlags = make_flags("DecodingFlags", "decoding", **_OF_RUN)
    DataFlags = make_flags("DataFlags", "data", "text")
    EncoderFlags = make_flags("EncoderFlags", "encoder", shown=_DEFAULTS, note=" (of knn)")

Preset = Annotated[str, Parameter(help="name of a preset, see `seesay presets`", show=True)]
ConfigFile = Annotated[Path | None, Parameter(name="--config", help="YAML file of settings", show=True)]
Features = Annotated[Path, Parameter(help="folder of feature stores", show=True)]
Stores = Annotated[
    list[Path] | None,
    Parameter(name="--store", help="feature stores to use, concatenated along F", show=True),
]
Model = Annotated[str, Parameter(help="run folder, or OWNER/NAME of the hub [default: the latest run]", show=True)]
Models = Annotated[
    list[str] | None,
    Parameter(
        name="--model",
        help="run or exported folder, or OWNER/NAME of the hub; several runs that share a vocabulary are ensembled "
        "[default: the latest run, else a small pretrained model]",
        show=True,
    ),
]
ImageColumn = Annotated[str, Parameter(help="image column of tables [default: the first column with a usual name]")]
CaptionColumn = Annotated[str, Parameter(help="caption column of tables [default: the first column with a usual name]")]
Metrics = Annotated[list[str] | None, Parameter(consume_multiple=True, show=True)]
Flat = Parameter(name="*")
Server = Parameter(name="*", group=Group("Model and server", sort_key=50))


@dataclass(frozen=True)
class CaptionerFlags:
    """Where and how a captioner runs.

    Attributes:
        device: auto, cpu, cuda or mps.
        precision: of a pretrained model: auto, float32, bfloat16, float16, int8 or int4.
        endpoint: URL of an OpenAI-compatible server, such as http://localhost:8000/v1; --model is its model.
        prompt: prompt of a pretrained model or a server, or short, detailed, alt-text, tags or training-caption.
        language: language of the captions, for a model with a prompt.
        endpoint_key_file: file with the server's key [default: SEESAY_ENDPOINT_KEY, OPENAI_API_KEY, or no key].
        endpoint_price: prices of a million prompt and completion tokens, such as 0.15,0.6, to print the cost.
        endpoint_timeout: seconds that the server may take for one image.
        endpoint_image_size: longest side of the images that are sent to the server, in pixels.
        endpoint_concurrency: number of requests in flight; 0: as many as the server's throughput allows.
    """

    device: Annotated[str, COMMON] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16", "int8", "int4"] = "auto"
    endpoint: Annotated[str, COMMON] = ""
    prompt: Annotated[str | None, COMMON] = None
    language: Annotated[str | None, COMMON] = None
    endpoint_key_file: str = ""
    endpoint_price: str = ""
    endpoint_timeout: float = 300.0
    endpoint_image_size: int = 1024
    endpoint_concurrency: int = 0

    def spec(self, models: Sequence[str], *, yes: bool | None = None) -> ModelSpec:
        """Return the named models with these flags; without a name, the server's only model or that of `choose_models`.

        Raises:
            ConfigError: a flag is for model servers, but there is no --endpoint; or see `choose_models`.
            DataError: see `choose_models`.
        """
        self.check()
        chosen = models if self.endpoint else choose_models(models, yes=yes)
        texts = {"prompt": self.prompt or "", "language": self.language or ""}
        return ModelSpec(tuple(chosen), **{**asdict(self), **texts})

    def check(self) -> None:
        """Check the flags, before a model is chosen.

        Raises:
            ConfigError: a flag is for model servers, but there is no --endpoint; or a blank prompt or language.
        """
        for name, text in (("prompt", self.prompt), ("language", self.language)):
            if text is not None and not text.strip():
                raise ConfigError(f"the {name} is blank; write one, or drop --{name}")
        if not self.endpoint and (given := [name for name in self.given() if name.startswith("endpoint_")]):
            raise ConfigError(f"{flag_name(given[0])} is for model servers; add --endpoint URL or drop it")

    def given(self) -> list[str]:
        """Return the names of the flags that differ from their defaults."""
        return [field.name for field in fields(self) if getattr(self, field.name) != field.default]

    def prompt_variables(self) -> frozenset[str]:
        """Return the names of the variables in the prompt.

        Raises:
            ConfigError: the prompt is blank or has an unmatched brace.
        """
        return prompt_variables(self.prompt) if self.prompt else frozenset()


def decoding_options(defaults: DecodingOptions, flags: Flags | None) -> DecodingOptions:
    """Return decoding options with flags applied; options that a new strategy does not use are reset.

    Raises:
        ConfigError: the strategy does not use a flag, or a value is invalid.
    """
    return changed_decoding(defaults, given_flags(flags), flag_name)
