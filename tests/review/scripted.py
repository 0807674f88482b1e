"""A captioner for tests of regeneration, whose captions state what it was asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from seesay.captioners.base import Caption, Captioner, CaptionSettings
from seesay.captioners.spec import ModelSpec
from seesay.config import DecodingOptions
from seesay.errors import ConfigError
from seesay.images.loading import ImageInput, read_image
from tests.review.conftest import generated


class ScriptedCaptioner(Captioner):
    """A captioner whose captions state the prompt, the strategy and the image's width."""

    def __init__(self, prompt: str) -> None:
        self.prompt, self.closed = prompt, False

    @property
    def name(self) -> str:
        return "scripted"

    @property
    def defaults(self) -> DecodingOptions:
        return DecodingOptions(strategy="beam", beam_size=3)

    def check(self, options: DecodingOptions) -> None:
        if options.top_k:
            raise ConfigError("decoding.top_k is not supported by scripted")

    def load_inputs(self, image: ImageInput) -> Any:
        return (read_image(image),)

    def encode(self, inputs: Sequence[Any]) -> Any:
        return [image.width for (image,) in inputs]

    def generate(self, encoded: Any, names: Sequence[str] | None, settings: CaptionSettings) -> list[Caption]:
        options = settings.options or self.defaults
        return [generated(f"{self.prompt} {options.strategy} {options.beam_size} {width}") for width in encoded]

    def take(self, encoded: Any, places: Sequence[int]) -> Any:
        return [encoded[place] for place in places]

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class ScriptedSpec(ModelSpec):
    loaded: list[ScriptedCaptioner] = field(default_factory=list)

    def load(self) -> Captioner:
        self.loaded.append(ScriptedCaptioner(self.prompt or "default"))
        return self.loaded[-1]


SPEC = ScriptedSpec(("scripted",), endpoint="http://localhost:1/v1")
