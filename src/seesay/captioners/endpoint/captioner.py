"""`EndpointCaptioner`: captions by a model server."""

import asyncio
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seesay.captioners.base import Caption, Captioner, CaptionSettings
from seesay.captioners.endpoint.address import KEY_VARIABLES, read_address
from seesay.captioners.endpoint.client import Client, RequestError
from seesay.captioners.endpoint.concurrency import MAX_IN_FLIGHT
from seesay.captioners.endpoint.protocol import (
    DEFAULT_MAX_TOKENS,
    check_options,
    read_captions,
    refused_field,
    request_body,
    without_fields,
)
from seesay.captioners.endpoint.usage import Usage, read_price
from seesay.captioners.identity import ModelIdentity
from seesay.captioners.prompts import PromptTemplate
from seesay.captioners.spec import ModelSpec
from seesay.config import DecodingOptions
from seesay.config.section import suggest
from seesay.errors import ConfigError, EndpointError, ImageError
from seesay.images.loading import ImageInput, read_image

DEFAULT_PROMPT = "Write a caption of this image: one factual sentence. Answer with the caption only."

_AHEAD = 32  # images that may be captioned before an earlier one
_JPEG_QUALITY = 90
_SHORTEST_SIDE = 32  # vision models refuse images that are smaller than a patch
_MAX_FAILURES = 3  # images in a row that the server failed on; then it is regarded as broken
_MAX_REFUSALS = 10  # images that the server refused before it captioned any
_MESSAGE = 300  # characters of a list in a message
_NO_ACCESS = (401, 403)
_GONE = (404, 410)
_UNAVAILABLE = (402, 429, 503)  # no credit, too many requests, busy
_REFUSED = (400, 403, 413, 415, 422)

ServerInputs = tuple[NDArray[np.uint8], str]
"""The bytes of a JPEG file, and the prompt."""


@dataclass
class _Record:
    """What has happened so far, which decides whether an image or the server is at fault.

    Attributes:
        captioned: images with captions.
        failed: images in a row that the server failed on.
        refused: images that the server refused.
    """

    captioned: int = 0
    failed: int = 0
    refused: int = 0


class EndpointCaptioner(Captioner):
    """A model of a server with the OpenAI chat-completions protocol.

    Requests run concurrently, as many as the server's throughput allows (`ConcurrencyLimit`). An image that the server
    refuses is an `ImageError`; a server that cannot be used at all is an `EndpointError`.

    Args:
        client: the server.
        spec: its model, the prompt and the size of images.

    Attributes:
        usage: requests and tokens so far.
    """

    def __init__(self, client: Client, spec: ModelSpec) -> None:
        (self._model,) = spec.models
        self._client = client
        self._prompt = PromptTemplate(spec.prompt or DEFAULT_PROMPT, spec.language)
        self._longest_side = spec.endpoint_image_size
        self._record = _Record()
        self._refused_fields: set[str] = set()
        self.usage = Usage(read_price(spec.endpoint_price))

    @classmethod
    def connect(cls, spec: ModelSpec) -> "EndpointCaptioner":
        """Return the captioner of a server's model, after a check that the server has it.

        Args:
            spec: the URL and the name of one model; without a name, the only model of the server.

        Raises:
            ConfigError: an invalid URL, key, price or setting, no or another model, or several.
            EndpointError: the server cannot be reached or refuses the key.
            MissingDependencyError: httpx is not installed.
        """
        _check_spec(spec)
        client = Client(read_address(spec.endpoint, spec.endpoint_key_file), spec.endpoint_timeout)
        try:
            listed = client.run(_list_models(client))
            model = _choose_model(client.address.url, "".join(spec.models), listed)
            return cls(client, replace(spec, models=(model,)))
        except BaseException:
            client.close()
            raise

    @property
    def name(self) -> str:
        """Name of the model."""
        return self._model

    def identities(self) -> tuple[ModelIdentity, ...]:
        """Return the model's name and its URL, without credentials; the server does not tell its version."""
        return (ModelIdentity(self._model, f"{self._client.address.url}/models/{self._model}"),)

    @property
    def defaults(self) -> DecodingOptions:
        """Greedy decoding."""
        return DecodingOptions()

    def options(self, options: DecodingOptions | None = None) -> DecodingOptions:
        """Return `options` with `max_length` set, which is in tokens.

        Raises:
            ConfigError: the protocol lacks an option.
        """
        chosen = options or self.defaults
        self.check(chosen)
        return chosen.replace(max_length=chosen.max_length or DEFAULT_MAX_TOKENS)

    def check(self, options: DecodingOptions) -> None:
        """Check that the protocol has the options.

        Raises:
            ConfigError: it lacks one.
        """
        check_options(options)

    @property
    def concurrent_images(self) -> int:
        """Images that are in `generate` at the same time.

        More than the largest concurrency, so that requests do not wait for the captions of earlier images, which are
        delivered in order.
        """
        return MAX_IN_FLIGHT + _AHEAD

    def load_inputs(self, image: ImageInput) -> ServerInputs:
        """Return an image as JPEG of bounded size, and its prompt."""
        pixels = read_image(image, min_side=self._longest_side)
        scale = min(1.0, self._longest_side / max(pixels.size))
        width, height = (max(_SHORTEST_SIDE, round(side * scale)) for side in pixels.size)
        if (width, height) != pixels.size:
            pixels = pixels.resize((width, height), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        pixels.save(file, "JPEG", quality=_JPEG_QUALITY)
        return np.frombuffer(file.getvalue(), np.uint8), self._prompt.render(image)

    def encode(self, inputs: Sequence[ServerInputs]) -> list[ServerInputs]:
        """Return the inputs: the server encodes the images."""
        return list(inputs)

    def take(self, encoded: Any, places: Sequence[int]) -> list[ServerInputs]:
        """Return the images at some positions."""
        return [encoded[place] for place in places]

    def generate(
        self, encoded: Any, names: Sequence[str] | None, settings: CaptionSettings
    ) -> list[Caption | ImageError]:
        """Return the captions of images, or an `ImageError` for each that the server refuses.

        Raises:
            ConfigError: the protocol lacks an option, attention or the most probable words.
            EndpointError: the server cannot be used.
        """
        if settings.attention or settings.top_tokens:
            what = "attention" if settings.attention else "top_tokens"
            raise ConfigError(f"{what} is not available from a model server; use a model in a folder or of the hub")
        options = self.options(settings.options)
        chosen = names or [str(place) for place in range(len(encoded))]
        return self._client.run(self._caption_all(encoded, chosen, options))

    def warm_up(self) -> bool:
        """Return False, without a request: the server has no attention, and may cost money."""
        return False

    def cancel(self) -> None:
        """Cancel all requests."""
        self._client.cancel()

    def summary(self) -> str:
        """Return the tokens used so far, and their price if it is known."""
        return self.usage.describe()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    async def _caption_all(
        self, inputs: Sequence[ServerInputs], names: Sequence[str], options: DecodingOptions
    ) -> list[Caption | ImageError]:
        try:
            async with asyncio.TaskGroup() as group:
                each = zip(inputs, names, strict=True)
                tasks = [group.create_task(self._caption_one(given, name, options)) for given, name in each]
        except BaseExceptionGroup as errors:  # of the first task that failed; the others were cancelled
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _caption_one(self, inputs: ServerInputs, name: str, options: DecodingOptions) -> Caption | ImageError:
        jpeg, prompt = inputs
        body = request_body(self._model, (prompt, jpeg.tobytes()), options, name)
        try:
            caption = await self._request(body, options.num_return_sequences)
        except RequestError as error:
            return await self._blame(name, error)
        self._record.captioned += 1
        self._record.failed = 0
        return caption

    async def _request(self, body: dict[str, Any], count: int) -> Caption:
        """Return the best of several distinct captions, with the others as alternatives."""
        captions: list[Caption] = []
        for number in range(count):
            if number:  # the server ignores `n`: request the others one by one
                body = {**body, "n": count - len(captions), "seed": (body["seed"] + 1) % 2**31}
            captions += await self._post(body)
            if len(captions) >= count:
                break
        distinct = list({caption.text: caption for caption in captions[:count]}.values())
        if not any(math.isnan(caption.score) for caption in distinct):
            distinct.sort(key=lambda caption: -caption.score)
        return replace(distinct[0], alternatives=tuple(distinct[1:]))

    async def _post(self, body: dict[str, Any]) -> list[Caption]:
        while True:
            sent = without_fields(body, self._refused_fields)
            try:
                return await self._client.post("/chat/completions", sent, self._read)
            except RequestError as error:
                field = refused_field(error, sent)
                if field is None:
                    raise
                self._refused_fields.add(field)

    def _read(self, answer: dict[str, Any]) -> list[Caption]:
        self.usage.add(answer)
        return read_captions(answer)

    async def _blame(self, name: str, error: RequestError) -> ImageError:
        """Return the error of an image whose request failed.

        Raises:
            EndpointError: not the image is the reason, but the server.
        """
        record, status, url = self._record, error.status, self._client.address.url
        if status == 401 or (status == 403 and not record.captioned):
            raise _no_access(url, status)
        if status in _GONE:
            raise EndpointError(
                f"{url} does not have the model {self._model} ({error}); "
                "check --model, and --endpoint, which usually ends in /v1"
            )
        if status in _UNAVAILABLE or 300 <= status < 400:
            raise EndpointError(f"{url} captions no more images ({error}); run the same command later to resume")
        if status in _REFUSED:
            record.refused += 1
            if not record.captioned and record.refused >= _MAX_REFUSALS:
                raise EndpointError(f"{url} refused the first {record.refused} images ({error}); check --model")
            return ImageError(f"{name}: {error}")
        record.failed += 1
        if record.failed >= _MAX_FAILURES or not await self._client.reachable():
            raise EndpointError(
                f"{url} failed after {error.attempts} attempts ({error}); restart it and run the same command to resume"
            )
        return ImageError(f"{name}: {error}, after {error.attempts} attempts")


def _check_spec(spec: ModelSpec) -> None:
    if len(spec.models) > 1:
        raise ConfigError(f"a server captions with one model; pass one --model instead of {len(spec.models)}")
    if spec.device != "auto" or spec.precision != "auto":
        raise ConfigError("a server chooses device and precision; drop --device and --precision")
    if not spec.endpoint_timeout > 0:
        raise ConfigError(f"--endpoint-timeout is {spec.endpoint_timeout:g}; it must be above 0")
    if spec.endpoint_image_size < _SHORTEST_SIDE:
        raise ConfigError(f"--endpoint-image-size is {spec.endpoint_image_size}; it must be at least {_SHORTEST_SIDE}")


async def _list_models(client: Client) -> list[str]:
    """Return the names of the server's models; empty if it does not list them.

    Raises:
        EndpointError: the server cannot be used.
    """
    url = client.address.url
    try:
        return await client.get("/models", _read_models)
    except RequestError as error:
        if error.status in (*_GONE, 405, 501):
            return []
        if error.status in _NO_ACCESS:
            raise _no_access(url, error.status) from None
        if error.status:
            raise EndpointError(f"{url}/models: {error}; check --endpoint, which usually ends in /v1") from None
        raise EndpointError(f"{url} cannot be used: {error}; start the server, or check --endpoint") from None


def _read_models(answer: dict[str, Any]) -> list[str]:
    entries = next((answer[key] for key in ("data", "models") if isinstance(answer.get(key), list)), None)
    if entries is None:
        raise RequestError(0, "its response is no list of models")
    names = (entry.get("id") or entry.get("name") for entry in entries if isinstance(entry, dict))
    return [str(name) for name in names if name]


def _choose_model(url: str, name: str, listed: Sequence[str]) -> str:
    """Return the model to use.

    Raises:
        ConfigError: the server does not have it, or no name is given and there is a choice.
    """
    if name and (not listed or name in listed or f"{name}:latest" in listed):
        return name
    if name:
        raise ConfigError(f"{url} has no model {name!r}; {suggest(name, listed)[:_MESSAGE]}")
    if len(listed) == 1:
        return listed[0]
    if not listed:
        raise ConfigError(f"{url} does not list its models; name one with --model")
    raise ConfigError(f"{url} has several models; choose one with --model: {', '.join(listed)[:_MESSAGE]}")


def _no_access(url: str, status: int) -> EndpointError:
    # Without the server's reason, which may repeat a part of the key.
    return EndpointError(
        f"{url} refuses the key ({status}); set {KEY_VARIABLES[0]}, or pass a file with it as --endpoint-key-file"
    )
