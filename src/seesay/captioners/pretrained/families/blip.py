"""BLIP (Li et al. 2022)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from seesay.captioners.pretrained.families.base import Family, Regions
from seesay.captioners.pretrained.targets import Captions, continue_prompts


class Blip(Family):
    """BLIP captioners. A prompt is the beginning of the caption, such as `a photo of`; it is not part of the result."""

    model_types = ("blip",)
    lora_targets = ("query", "value")

    def inputs(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Mapping[str, Any]:
        """Return pixels and, with prompts, their tokens."""
        text = {"text": list(prompts)} if prompts[0] else {}
        found: Mapping[str, Any] = self.processor(images=list(images), **text, return_tensors="pt")
        return found

    @property
    def end(self) -> int:
        """The separator, which the model's `generate` takes for the end."""
        return int(self.model.config.text_config.sep_token_id)

    def training_inputs(
        self, images: Sequence[Image.Image], prompts: Sequence[str], captions: Captions
    ) -> dict[str, Any]:
        """Return pixels and tokens as the model's `generate` makes them, with the start token of its decoder."""
        found = dict(self.inputs(images, prompts))
        start = torch.full((len(images), 1), self.model.config.text_config.bos_token_id)
        prompt = found["input_ids"][:, 1:-1] if "input_ids" in found else start[:, :0]
        found["input_ids"] = torch.cat([start, prompt], 1)
        found.pop("attention_mask", None)
        return continue_prompts(found, captions)

    def regions(self, features: Mapping[str, Any]) -> Regions:
        """Return the patches, which follow the class token."""
        patch = self.model.config.vision_config.patch_size
        height, width = features["pixel_values"].shape[-2:]
        return Regions(slice(1, None), (height // patch, width // patch))
