"""A captioner for tests of regeneration, whose captions state what it was asked for."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seesay.captioners.base import Captioner
from seesay.captioners.caption import Caption, CaptionSettings
from seesay.config import DecodingOptions
from seesay.errors import ConfigError
from seesay.images.loading import ImageInput, read_image
from tests.review.conftest import generated


class ScriptedCaptioner(Captioner):
    """A captioner whose captions state the prompt, the strategy and the image's width."""

    def __init__(self, prompt: str) -> None:
        self._prompt, self.closed = prompt, False

    @property
    def prompt_text(self) -> str:
        return self._prompt

    @property
    def takes_prompts(self) -> bool:
        return True

    def check_prompt(self, prompt: str) -> None:
        if prompt.isspace():
            raise ConfigError("the prompt is blank")

    @property
    def name(self) -> str:
        return "scripted"

    @property
    def defaults(self) -> DecodingOptions:
        return DecodingOptions(strategy="beam", beam_size=3)

    def check(self, options: DecodingOptions) -> None:
        if options.top_k:
            raise ConfigError("decoding.top_k is not supported by scripted")

    def load_inputs(self, image: ImageInput, prompt: str = "") -> Any:
        return np.asarray(read_image(image)), prompt or self._prompt

    def encode(self, inputs: Sequence[Any]) -> Any:
        return [(pixels.shape[1], prompt) for pixels, prompt in inputs]

    def generate(self, encoded: Any, names: Sequence[str] | None, settings: CaptionSettings) -> list[Caption]:
        options = settings.options or self.defaults
        return [generated(f"{prompt} {options.strategy} {options.beam_size} {width}") for width, prompt in encoded]

    def take(self, encoded: Any, places: Sequence[int]) -> Any:
        return [encoded[place] for place in places]

    def close(self) -> None:
        self.closed = True
