"""PaliGemma (Beyer et al. 2024)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from seesay.captioners.pretrained.families.base import Family
from seesay.captioners.pretrained.targets import Captions, continue_prompts
from seesay.captioners.settings import ModelSettings
from seesay.errors import ConfigError

_LANGUAGE_LETTERS = 2


class PaliGemma(Family):
    """PaliGemma models, whose prompt names a task and a language, such as `caption en`."""

    model_types = ("paligemma",)
    default_prompt = "caption en"
    takes_languages = True

    @classmethod
    def prompt(cls, spec: ModelSettings) -> str:
        """Return the prompt; a language replaces that of the default prompt.

        Raises:
            ConfigError: the language is not a code, or there is a prompt too.
        """
        if not spec.language:
            return super().prompt(spec)
        if spec.prompt or len(spec.language) != _LANGUAGE_LETTERS:
            raise ConfigError(
                f"{spec.models[0]} takes a language as a code of two letters, such as de, and no prompt beside it; "
                "or pass the prompt 'caption de'"
            )
        return f"caption {spec.language.lower()}"

    def inputs(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Mapping[str, Any]:
        """Return pixels and the tokens of images and prompts."""
        token = getattr(self.processor, "image_token", "<image>")
        texts = [f"{token}{prompt}" for prompt in prompts]
        found: Mapping[str, Any] = self.processor(images=list(images), text=texts, return_tensors="pt")
        return found

    def training_inputs(
        self, images: Sequence[Image.Image], prompts: Sequence[str], captions: Captions
    ) -> dict[str, Any]:
        """Return pixels and tokens; those of the captions have type 1, and attend to earlier ones only."""
        inputs = dict(self.inputs(images, prompts))
        inputs.setdefault("token_type_ids", torch.zeros_like(inputs["input_ids"]))
        return continue_prompts(inputs, captions, token_type=1)
