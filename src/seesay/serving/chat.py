"""The chat-completions protocol of OpenAI: an image in the last message, its caption as the answer.

Clients of that protocol (taggers, photo managers, scripts) can use any captioner of seesay. Fields of seesay's own API,
such as `strategy` and `beam_size`, are accepted beside those of the protocol.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request as HttpRequest

from seesay.captioners.base import Captioner
from seesay.captioners.caption import Caption, CaptionSettings
from seesay.errors import ConfigError
from seesay.images.sources import ImageBytes
from seesay.serving import limits
from seesay.serving.errors import ApiError
from seesay.serving.requests import RequestModel, make_request
from seesay.serving.uploads import check_size, read_body

_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,(.*)", re.DOTALL)
_REFUSED = ("tools", "functions", "response_format", "audio", "modalities")
"""Fields of the protocol that change the kind of answer; other unknown fields are ignored, as servers do."""


class ImageUrl(BaseModel):
    """An image of a message."""

    url: str = Field(description="a data URL: data:image/jpeg;base64,...")


class ContentPart(BaseModel):
    """A part of a message: text or an image."""

    type: str
    text: str | None = None
    image_url: ImageUrl | str | None = None


class Message(BaseModel):
    """A message of a conversation."""

    role: str
    content: str | list[ContentPart] | None = None


class ChatRequest(BaseModel):
    """Body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(description="name of the served model, as in `GET /v1/models`")
    messages: list[Message] = Field(
        min_length=1,
        max_length=limits.MAX_FIELDS,
        description="the last image in them is captioned; the text is the prompt of models that take it",
    )
    max_tokens: int | None = Field(None, ge=1, description="maximum number of words")
    max_completion_tokens: int | None = Field(None, ge=1, description="the same under its newer name")
    temperature: float | None = Field(None, ge=0, le=2, description="0: greedy; above: sampling; absent: the model's")
    top_p: float | None = Field(None, gt=0, le=1, description="below 1: sampling from the most probable words")
    n: int | None = Field(None, ge=1, le=limits.MAX_CAPTIONS, description="number of captions")
    seed: int | None = Field(None, description="seed of sampling")
    stream: bool | None = Field(None, description="answer as server-sent events")
    logprobs: bool | None = Field(None, description="return the log-probability of each word")
    top_logprobs: int | None = Field(None, ge=0, le=limits.MAX_TOP_TOKENS, description="most probable words per place")

    def decoding(self) -> dict[str, Any]:
        """Return the fields of `RequestModel` that this request sets."""
        values = {name: value for name, value in (self.model_extra or {}).items() if name in RequestModel.model_fields}
        longest = self.max_completion_tokens or self.max_tokens
        if longest is not None:
            values.setdefault("max_length", min(longest, limits.MAX_WORDS))
        if self.n is not None:
            values["num_return_sequences"] = self.n
        if self.logprobs and self.top_logprobs:
            values["top_tokens"] = self.top_logprobs
        nucleus = self.top_p is not None and self.top_p < 1
        if self.temperature or (self.temperature is None and nucleus):
            values.setdefault("strategy", "sample")
            sampling = {"temperature": self.temperature, "top_p": self.top_p, "sampling_seed": self.seed}
            values.update((name, value) for name, value in sampling.items() if value is not None)
        elif self.temperature == 0:
            values.setdefault("strategy", "greedy")
        return values


class Choice(BaseModel):
    """One caption."""

    index: int
    message: dict[str, str | None]
    finish_reason: Literal["stop", "length"]
    logprobs: dict[str, list[dict[str, Any]]] | None = None


class ChatResponse(BaseModel):
    """Response to `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="time of the response, seconds since 1970")
    model: str
    choices: list[Choice]
    usage: dict[str, int]


async def read_chat(request: HttpRequest, seconds: float) -> ChatRequest:
    """Read the body of a chat request.

    Raises:
        ApiError: the body is too large, too slow, not JSON, or a field is missing, unsuitable or not supported.
        ClientDisconnectedError: the client closed the connection.
    """
    body = await read_body(request, limits.MAX_BODY_BYTES, seconds, "a smaller image")
    try:
        content = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))[:100]
        raise ApiError("bad_request", f"{place or 'the body'}: {first['msg'][:200]}") from error
    for name in _REFUSED:
        if (content.model_extra or {}).get(name):
            raise ApiError("invalid_options", f"{name} is not supported; drop it")
    return content


def image_of(chat: ChatRequest) -> ImageBytes:
    """Return the last image of the messages.

    Raises:
        ApiError: there is no image, it is not a data URL, or it is too large.
    """
    parts = [part for message in chat.messages if isinstance(message.content, list) for part in message.content]
    urls = [part.image_url for part in parts if part.image_url is not None]
    if not urls:
        raise ApiError("bad_request", "no image; send a content part of type image_url with a data URL")
    url = urls[-1] if isinstance(urls[-1], str) else urls[-1].url
    found = _DATA_URL.fullmatch(url)
    if found is None:
        raise ApiError("bad_request", "image_url must be a data URL (data:image/jpeg;base64,...); no other is fetched")
    try:
        content = base64.b64decode(found[1], validate=True)
    except binascii.Error as error:
        raise ApiError("bad_request", "the data URL of the image is not valid base64") from error
    if too_large := check_size("image", len(content)):
        raise too_large
    return ImageBytes("image", content)


def prompt_of(chat: ChatRequest) -> str:
    """Return the text of system and user messages, a line each; empty if there is none."""
    texts = []
    for message in chat.messages:
        if message.role == "assistant" or message.content is None:
            continue
        parts = [message.content] if isinstance(message.content, str) else [part.text for part in message.content]
        texts += [part.strip() for part in parts if part and part.strip()]
    return "\n".join(texts)[: limits.MAX_PROMPT_CHARACTERS]


def chat_settings(chat: ChatRequest, captioner: Captioner) -> CaptionSettings:
    """Return the settings of a chat request.

    Clients of the protocol always send text. It is the prompt if the model takes it, and ignored otherwise.

    Raises:
        ApiError: another model is requested, or the options are invalid.
    """
    require_model(chat.model, captioner.name)
    settings = make_request({"prompt": prompt_of(chat), **chat.decoding()}, captioner.defaults)
    try:
        captioner.check_prompt(settings.prompt)
    except ConfigError:
        return replace(settings, prompt="")
    return settings


def require_model(requested: str, served: str) -> None:
    """Check the name of the requested model.

    Raises:
        ApiError: another model is served.
    """
    if requested != served:
        raise ApiError("not_found", f"the model {requested[:100]!r} is not served; this service has {served!r}")


def chat_response(chat: ChatRequest, caption: Caption, identity: Mapping[str, Any]) -> ChatResponse:
    """Return the response with the captions of an image.

    Args:
        chat: the request.
        caption: the caption with its alternatives.
        identity: `id`, `created` and `model` of the response.
    """
    captions = (caption, *caption.alternatives)
    choices = [
        Choice(
            index=number,
            message={"role": "assistant", "content": each.text},
            finish_reason="stop" if each.finished else "length",
            logprobs={"content": _word_scores(each)} if chat.logprobs else None,
        )
        for number, each in enumerate(captions)
    ]
    words = sum(len(each.words) + each.finished for each in captions)
    usage = {"prompt_tokens": 0, "completion_tokens": words, "total_tokens": words}
    return ChatResponse(choices=choices, usage=usage, **identity)


def events(response: ChatResponse) -> Iterator[str]:
    """Yield a response as server-sent events: a chunk per choice, its end, and `[DONE]`."""
    common = {**response.model_dump(include={"id", "created", "model"}), "object": "chat.completion.chunk"}
    for choice in response.choices:
        first = {"index": choice.index, "delta": choice.message, "logprobs": choice.logprobs, "finish_reason": None}
        last = {"index": choice.index, "delta": {}, "logprobs": None, "finish_reason": choice.finish_reason}
        for each in (first, last):
            yield f"data: {json.dumps({**common, 'choices': [each]}, ensure_ascii=False)}\n\n"
    yield "data: [DONE]\n\n"


def _word_scores(caption: Caption) -> list[dict[str, Any]]:
    """Return the log-probability of each word and, if requested, the most probable words at its place."""
    places = caption.top_tokens or ((),) * len(caption.words)
    return [
        {
            **_word_score(word, value),
            "top_logprobs": [_word_score(other or "", log_prob) for other, log_prob in place],
        }
        for word, value, place in zip(caption.words, caption.log_probs, places, strict=False)
    ]


def _word_score(word: str, value: float) -> dict[str, Any]:
    # The protocol's own stand-in for a word that is impossible; JSON has no infinity.
    return {"token": word, "logprob": max(value, -9999.0), "bytes": list(word.encode())}
