"""BLIP (Li et al. 2022)."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from seesay.captioners.pretrained.families.base import Family, Regions


class Blip(Family):
    """BLIP captioners. A prompt is the beginning of the caption, such as `a photo of`; it is not part of the result."""

    model_types = ("blip",)

    def inputs(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Mapping[str, Any]:
        """Return pixels and, with prompts, their tokens."""
        text = {"text": list(prompts)} if prompts[0] else {}
        found: Mapping[str, Any] = self.processor(images=list(images), **text, return_tensors="pt")
        return found

    def regions(self, features: Mapping[str, Any]) -> Regions:
        """Return the patches, which follow the class token."""
        patch = self.model.config.vision_config.patch_size
        height, width = features["pixel_values"].shape[-2:]
        return Regions(slice(1, None), (height // patch, width // patch))
