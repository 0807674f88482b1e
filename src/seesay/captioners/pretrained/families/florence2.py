"""Florence-2 (Xiao et al. 2023)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from seesay.captioners.pretrained.families.base import Family, Regions
from seesay.captioners.pretrained.steps import forced_start
from seesay.captioners.pretrained.targets import Captions, decode_after
from seesay.captioners.settings import ModelSettings
from seesay.errors import ConfigError

TASKS = {"<CAPTION>": 60, "<DETAILED_CAPTION>": 150, "<MORE_DETAILED_CAPTION>": 300}
"""The prompts that ask for captions, with the maximum number of tokens by default."""
PRESETS = {"short": "<CAPTION>", "alt-text": "<CAPTION>", "detailed": "<MORE_DETAILED_CAPTION>"}
"""The tasks of those presets of `seesay.captioners.prompts` that the models can answer."""


class Florence2(Family):
    """Florence-2 models, whose prompt is exactly one of `TASKS`."""

    model_types = ("florence2",)
    default_prompt = "<CAPTION>"

    @classmethod
    def prompt(cls, spec: ModelSettings) -> str:
        """Return the task.

        Raises:
            ConfigError: the prompt is not a task, or there is a language.
        """
        prompt = super().prompt(spec)
        task = PRESETS.get(prompt, prompt)
        if task not in TASKS:
            raise ConfigError(f"{spec.models[0]} has no prompt {prompt!r}; choose from {', '.join([*TASKS, *PRESETS])}")
        return task

    def inputs(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Mapping[str, Any]:
        """Return pixels and the tokens of the tasks."""
        found: Mapping[str, Any] = self.processor(images=list(images), text=list(prompts), return_tensors="pt")
        return found

    def training_inputs(
        self, images: Sequence[Image.Image], prompts: Sequence[str], captions: Captions
    ) -> dict[str, Any]:
        """Return pixels and tokens of the task; the captions follow the start token and the one forced after it."""
        forced = forced_start(self.model)
        start = [self.model.generation_config.decoder_start_token_id, *([] if forced is None else [forced])]
        return decode_after(self.inputs(images, prompts), start, captions)

    def length(self, prompt: str) -> int:
        """Return the maximum number of tokens of a task."""
        return TASKS[prompt]

    def regions(self, features: Mapping[str, Any]) -> Regions:
        """Return the image tokens, which follow one for the whole image."""
        count = int((features["input_ids"][0] == self.model.config.image_token_id).sum())
        side = math.isqrt(count - 1)
        return Regions(slice(1, count), (side, side))
