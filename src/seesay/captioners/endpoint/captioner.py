"""`EndpointCaptioner`: captions by a model server."""

import asyncio
import functools
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seesay.captioners.base import Captioner
from seesay.captioners.caption import Caption, CaptionSettings
from seesay.captioners.endpoint.address import read_address
from seesay.captioners.endpoint.client import Client, RequestError
from seesay.captioners.endpoint.faults import Faults
from seesay.captioners.endpoint.models import choose_model, list_models
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
from seesay.captioners.settings import ModelSettings
from seesay.config import DecodingOptions
from seesay.errors import ConfigError, ImageError
from seesay.images.loading import ImageInput, read_image

DEFAULT_PROMPT = "Write a caption of this image: one factual sentence. Answer with the caption only."

_AHEAD = 32  # images that may be captioned before an earlier one
_MOST_CONCURRENT = 256  # each image in flight has a thread
_JPEG_QUALITY = 90
_SHORTEST_SIDE = 32  # vision models refuse images that are smaller than a patch

ServerInputs = tuple[NDArray[np.uint8], str]
"""The bytes of a JPEG file, and the prompt."""


class EndpointCaptioner(Captioner):
    """A model of a server with the OpenAI chat-completions protocol.

    Requests run concurrently, as many as are set or as the server's throughput allows (`ConcurrencyLimit`). An image
    that the server refuses is an `ImageError`; a server that cannot be used at all is an `EndpointError`.

    Args:
        client: the server.
        spec: its model, the prompt and the size of images.
    """

    def __init__(self, client: Client, spec: ModelSettings) -> None:
        (self._model,) = spec.models
        self._client = client
        # A call may have a prompt of its own.
        self._templates = functools.lru_cache(maxsize=64)(
            lambda prompt: PromptTemplate(prompt or spec.prompt or DEFAULT_PROMPT, spec.language, spec.columns)
        )
        self.check_prompt("")
        self._longest_side = spec.endpoint_image_size
        self._faults = Faults(client, self._model)
        self._refused_fields: set[str] = set()
        self.usage.price = read_price(spec.endpoint_price)

    @classmethod
    def connect(cls, spec: ModelSettings) -> "EndpointCaptioner":
        """Return the captioner of a server's model, after a check that the server has it.

        Args:
            spec: the URL and the name of one model; without a name, the only model of the server.

        Raises:
            ConfigError: an invalid URL, key, price or setting, no or another model, or several.
            EndpointError: the server cannot be reached or refuses the key.
            MissingDependencyError: httpx is not installed.
        """
        _check_spec(spec)
        address = read_address(spec.endpoint, spec.endpoint_key_file)
        client = Client(address, spec.endpoint_timeout, spec.endpoint_concurrency)
        try:
            listed = client.run(list_models(client))
            model = choose_model(client.address.url, "".join(spec.models), listed)
            return cls(client, replace(spec, models=(model,)))
        except BaseException:
            client.close()
            raise

    @property
    def name(self) -> str:
        """Name of the model."""
        return self._model

    @property
    def prompt_text(self) -> str:
        """The prompt of the images before its variables are filled in."""
        return self._templates("").source

    @property
    def usage(self) -> Usage:
        """Requests and tokens so far."""
        return self._client.usage

    @property
    def takes_prompts(self) -> bool:
        """True: every model of a server takes a prompt."""
        return True

    def check_prompt(self, prompt: str) -> None:
        """Check the prompt of a call; an empty one stands for the captioner's.

        Raises:
            ConfigError: the prompt is blank or has an unknown variable.
        """
        self._templates(prompt)

    def identities(self) -> tuple[ModelIdentity, ...]:
        """Return the model's name and its URL, without credentials; the server does not tell its version."""
        return (ModelIdentity(self._model, f"{self._client.address.url}/models/{self._model}"),)

    @property
    def defaults(self) -> DecodingOptions:
        """Greedy decoding."""
        return DecodingOptions()

    def options(self, options: DecodingOptions | None = None, prompt: str = "") -> DecodingOptions:
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
        return self._client.limit.bound + _AHEAD

    def load_inputs(self, image: ImageInput, prompt: str = "") -> ServerInputs:
        """Return an image as JPEG of bounded size, and its prompt."""
        pixels = read_image(image, min_side=self._longest_side)
        scale = min(1.0, self._longest_side / max(pixels.size))
        width, height = (max(_SHORTEST_SIDE, round(side * scale)) for side in pixels.size)
        if (width, height) != pixels.size:
            pixels = pixels.resize((width, height), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        pixels.save(file, "JPEG", quality=_JPEG_QUALITY)
        return np.frombuffer(file.getvalue(), np.uint8), self._templates(prompt).render(image)

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

    def unavailable(self) -> str:
        """Return why the last request could not connect to the server, after another attempt; empty if it can."""
        if self._client.unreachable:
            self._client.run(self._client.reachable())
        return self._client.unreachable and f"{self._client.address.url}: {self._client.unreachable}"

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
            return await self._faults.judge(name, error)
        self._faults.count_caption()
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


def _check_spec(spec: ModelSettings) -> None:
    if len(spec.models) > 1:
        raise ConfigError(f"a server captions with one model; pass one --model instead of {len(spec.models)}")
    if spec.device != "auto" or spec.precision != "auto":
        raise ConfigError("a server chooses device and precision; drop --device and --precision")
    if not spec.endpoint_timeout > 0:
        raise ConfigError(f"--endpoint-timeout is {spec.endpoint_timeout:g}; it must be above 0")
    if not 0 <= spec.endpoint_concurrency <= _MOST_CONCURRENT:
        raise ConfigError(
            f"--endpoint-concurrency is {spec.endpoint_concurrency}; it must be from 1 to {_MOST_CONCURRENT}, or 0 "
            "to adapt to the server"
        )
    if spec.endpoint_image_size < _SHORTEST_SIDE:
        raise ConfigError(f"--endpoint-image-size is {spec.endpoint_image_size}; it must be at least {_SHORTEST_SIDE}")
