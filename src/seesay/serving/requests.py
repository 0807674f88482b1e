"""What a request may ask for: the decoding options and what is told of each word, checked before anything is done."""

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Any, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from seesay.config import Config, DecodingOptions, changed_decoding
from seesay.errors import ConfigError
from seesay.serving import limits
from seesay.serving.errors import ApiError
from seesay.settings import field_types

# Bounds of the service beneath those of the options themselves.
_MOST = {
    "beam_size": limits.MAX_BEAM_SIZE,
    "num_beam_groups": limits.MAX_BEAM_SIZE,
    "num_return_sequences": limits.MAX_CAPTIONS,
    "max_length": limits.MAX_WORDS,
    "min_length": limits.MAX_WORDS,
    "no_repeat_ngram_size": limits.MAX_WORDS,
    "top_k": 1_000_000,
    "temperature": 1_000.0,
    "sampling_seed": 2**53,
}
_LEAST = {"sampling_seed": -(2**53), "temperature": 1e-3}

Phrase = Annotated[str, Field(max_length=limits.MAX_PHRASE_CHARACTERS)]


class _Told(BaseModel):
    """What is told of each word."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    attention: bool = Field(default=False, description="tell where the model looked at each word")
    top_tokens: int = Field(
        default=0, ge=0, le=limits.MAX_TOP_TOKENS, description="how many of the likeliest words to tell at each place"
    )


def _request_model() -> type[_Told]:
    """Returns the model of a request's fields, made of the decoding options: one definition serves everywhere."""
    fields: dict[str, Any] = {}
    for leaf in dataclasses.fields(DecodingOptions):
        kind = field_types(DecodingOptions)[leaf.name]
        bounds = dict(leaf.metadata["bounds"])
        if leaf.name in _MOST:
            bounds["le"] = min(_MOST[leaf.name], bounds.get("le", _MOST[leaf.name]))
        if leaf.name in _LEAST:
            bounds.pop("gt", None)
            bounds["ge"] = _LEAST[leaf.name]
        if get_origin(kind) is tuple:
            kind, bounds = list[Phrase], {"max_length": limits.MAX_PHRASES}
        help = f"{leaf.metadata['help']}; as the model's run says where it is left out"
        # Never used as it is: only fields that were sent are read.
        field = Field(default=None, description=help, json_schema_extra=_without_default, **bounds)
        fields[leaf.name] = (kind, field)
    return create_model("CaptionOptions", __base__=_Told, **fields)


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


RequestModel = _request_model()

_SEVERAL = {name for name, field in RequestModel.model_fields.items() if get_origin(field.annotation) is list}


@dataclasses.dataclass(frozen=True)
class Request:
    """How the images of one request are to be captioned."""

    options: DecodingOptions
    attention: bool
    top_tokens: int


def read_request(fields: Iterable[tuple[str, str]], config: Config) -> Request:
    """Returns what the fields of a form ask for, over a run's own options.

    Raises:
        ApiError: an unknown field, a value out of bounds, or options that contradict each other.
    """
    values: dict[str, Any] = {}
    for name, value in fields:
        if name in _SEVERAL:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise ApiError("invalid_options", f"{name[:50]!r} is given twice; give it once")
        else:
            values[name] = value
    try:
        asked = RequestModel.model_validate(values).model_dump(exclude_unset=True)
        attention, top_tokens = asked.pop("attention", False), asked.pop("top_tokens", 0)
        options = changed_decoding(config, asked)
    except ValidationError as error:
        raise ApiError("invalid_options", "; ".join(map(_told, error.errors()[:5]))) from error
    except ConfigError as error:
        raise ApiError("invalid_options", str(error).removeprefix("decoding.")) from error
    words = sum(len(phrase.split()) for phrase in options.force_words)
    if words > limits.MAX_REQUIRED_WORDS:
        raise ApiError(
            "invalid_options", f"force_words has {words} words; at most {limits.MAX_REQUIRED_WORDS} are allowed"
        )
    return Request(_bounded(options), attention, top_tokens)


def _bounded(options: DecodingOptions) -> DecodingOptions:
    """Returns the options with what the run itself leaves unbounded kept in bounds."""
    if options.max_length == 0:
        return options  # the longest training caption's
    return dataclasses.replace(options, max_length=min(options.max_length, limits.MAX_WORDS))


def _told(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])[:50]
    if problem["type"] == "extra_forbidden":
        return f"{where!r} is no option; known are {', '.join(RequestModel.model_fields)}"
    return f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
