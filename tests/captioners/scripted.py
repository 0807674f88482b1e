"""A captioner whose captions are written in a table, to test what happens around the model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seesay.captioners.base import Captioner
from seesay.captioners.caption import Caption, CaptionSettings
from seesay.captioners.identity import ModelIdentity
from seesay.config import DecodingOptions
from seesay.errors import ConfigError, ImageError
from seesay.images.loading import ImageInput, read_image


def caption(text: str, *others: str, finished: bool = True) -> Caption:
    """Return a caption with alternatives."""
    rest = tuple(Caption(each, (each,), (-1.0,), -1.0, -2.0, finished) for each in others)
    return Caption(text, (text,), (-1.0,), -1.0, -2.0, finished, alternatives=rest)


class ScriptedCaptioner(Captioner):
    """Returns the captions of a table, one per attempt and image, the last one for all further attempts.

    Args:
        script: stem of the image's file -> captions.
        prompt: of all images.
        refused: strategies that `check` refuses.

    Attributes:
        calls: stems and options of each call of `generate`.
    """

    def __init__(
        self, script: Mapping[str, Sequence[Caption | str]], prompt: str = "", refused: Sequence[str] = ()
    ) -> None:
        self.script = {
            name: [each if isinstance(each, Caption) else caption(each) for each in captions]
            for name, captions in script.items()
        }
        self.calls: list[tuple[list[str], DecodingOptions | None]] = []
        self._prompt = prompt
        self._refused = refused

    @property
    def defaults(self) -> DecodingOptions:
        return DecodingOptions(max_length=20)

    def identities(self) -> tuple[ModelIdentity, ...]:
        return (ModelIdentity("scripted", "0"),)

    def check(self, options: DecodingOptions) -> None:
        if options.strategy in self._refused:
            raise ConfigError(f"no {options.strategy}")

    @property
    def takes_prompts(self) -> bool:
        return True

    def check_prompt(self, prompt: str) -> None:
        if prompt == "refused":
            raise ConfigError("scripted has no prompt 'refused'")

    def load_inputs(self, image: ImageInput, prompt: str = "") -> Any:
        if isinstance(image, str) and image.startswith("missing"):
            raise ImageError(f"{image}: no such file")
        stem = Path(image).stem if isinstance(image, str) else "array"
        return np.asarray(read_image(image)), prompt or self._prompt, stem

    def encode(self, inputs: Sequence[Any]) -> Any:
        return [name for _, _, name in inputs]

    def take(self, encoded: Any, places: Sequence[int]) -> Any:
        return [encoded[place] for place in places]

    def generate(self, encoded: Any, names: Sequence[str] | None, settings: CaptionSettings) -> list[Caption]:
        assert names is not None
        for name, stem in zip(names, encoded, strict=True):
            assert stem in (Path(name).stem, "array")
        self.calls.append((list(encoded), settings.options))
        captions = [self.script[name] for name in encoded]
        return [each.pop(0) if len(each) > 1 else each[0] for each in captions]
