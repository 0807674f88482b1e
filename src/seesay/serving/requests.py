"""The fields of a caption request: the decoding options, and which details of each word are returned."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field, create_model

from seesay.captioners.caption import CaptionSettings
from seesay.captioners.prompts import literal
from seesay.config import DecodingOptions, changed_decoding
from seesay.config.section import TextFields, bounds_of
from seesay.errors import ConfigError
from seesay.serving import limits
from seesay.serving.errors import ApiError

# Bounds of the service, inside those of the options.
_BOUNDS: dict[str, dict[str, float]] = {
    "beam_size": {"le": limits.MAX_BEAM_SIZE},
    "num_beam_groups": {"le": limits.MAX_BEAM_SIZE},
    "num_return_sequences": {"le": limits.MAX_CAPTIONS},
    "rerank_candidates": {"le": limits.MAX_BEAM_SIZE},
    "rerank_neighbours": {"le": limits.MAX_NEIGHBOURS},
    "max_length": {"le": limits.MAX_WORDS},
    "min_length": {"le": limits.MAX_WORDS},
    "no_repeat_ngram_size": {"le": limits.MAX_WORDS},
    "top_k": {"le": 1_000_000},
    "temperature": {"ge": 1e-3, "le": 1_000},
    "sampling_seed": {"ge": -(2**53), "le": 2**53},
}

Phrase = Annotated[str, Field(max_length=limits.MAX_PHRASE_CHARACTERS)]


class _Details(TextFields):
    """What is generated beside the options, and returned per word."""

    prompt: str = Field(
        default="", max_length=limits.MAX_PROMPT_CHARACTERS, description="prompt, of models that take one"
    )

    attention: bool = Field(default=False, description="return the attention weights of each word")
    top_tokens: int = Field(
        default=0, ge=0, le=limits.MAX_TOP_TOKENS, description="number of most probable words returned per position"
    )

    @classmethod
    def spell(cls, name: str) -> str:
        """Return a field's name, cut as clients may send any."""
        return name[:50]

    @classmethod
    def make_error(cls, message: str) -> Exception:
        """Return the exception of a refused field."""
        return ApiError("invalid_options", message)


def _request_model() -> type[_Details]:
    """Return the model of a request's fields: the decoding options, narrowed to the bounds of the service."""
    fields: dict[str, Any] = {}
    for name, info in DecodingOptions.model_fields.items():
        bounds: dict[str, Any] = bounds_of(info) | _BOUNDS.get(name, {})
        kind: Any = info.annotation
        if isinstance(info.default, tuple):
            kind, bounds = tuple[Phrase, ...], {"max_length": limits.MAX_PHRASES}
        help = f"{info.description}; default: as in the model's run"
        # The default is never used: only fields that were sent are read.
        field = Field(default=None, description=help, json_schema_extra=_without_default, **bounds)
        fields[name] = (kind, field)
    return create_model("CaptionOptions", __base__=_Details, **fields)


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


RequestModel = _request_model()

_REPEATED = {name for name, info in DecodingOptions.model_fields.items() if isinstance(info.default, tuple)}


def read_request(fields: Iterable[tuple[str, str]], defaults: DecodingOptions) -> CaptionSettings:
    """Return the settings that the fields of a form make, over a captioner's own options.

    Raises:
        ApiError: an unknown field, a value out of bounds, or options that contradict each other.
    """
    values: dict[str, Any] = {}
    for name, value in fields:
        if name in _REPEATED:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise ApiError("invalid_options", f"{name[:50]!r} is given twice; give it once")
        else:
            values[name] = value
    return make_request(values, defaults)


def make_request(values: Mapping[str, Any], defaults: DecodingOptions) -> CaptionSettings:
    """Return the settings of some fields of `RequestModel`, over a captioner's own options.

    Raises:
        ApiError: as for `read_request`.
    """
    given = RequestModel.model_validate(values).model_dump(exclude_unset=True)
    details = {name: given.pop(name) for name in _Details.model_fields if name in given}
    if "prompt" in details:
        details["prompt"] = literal(details["prompt"])  # the variables of a prompt are those of files
    try:
        options = changed_decoding(defaults, given)
    except ConfigError as error:
        raise ApiError("invalid_options", str(error).removeprefix("decoding.")) from error
    words = sum(len(phrase.split()) for phrase in options.force_words)
    if words > limits.MAX_REQUIRED_WORDS:
        raise ApiError(
            "invalid_options", f"force_words has {words} words; at most {limits.MAX_REQUIRED_WORDS} are allowed"
        )
    return CaptionSettings(_bounded(options), **details)


def _bounded(options: DecodingOptions) -> DecodingOptions:
    """Return the options with a `max_length` of the run itself that is within the bounds of the service."""
    if options.max_length == 0:
        return options  # the longest training caption's
    return options.replace(max_length=min(options.max_length, limits.MAX_WORDS))
