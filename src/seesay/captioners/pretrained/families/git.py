"""GIT (Wang et al. 2022)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from seesay.captioners.pretrained.families.base import Family


class Git(Family):
    """GIT captioners. A prompt is the beginning of the caption; it is not part of the result."""

    model_types = ("git",)
    lora_targets = ("query", "value")

    def inputs(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Mapping[str, Any]:
        """Return pixels and the tokens of the prompts, which the start token precedes."""
        tokenizer = self.processor.tokenizer
        found: dict[str, Any] = dict(self.processor.image_processor(list(images), return_tensors="pt"))
        rows = [[tokenizer.cls_token_id, *tokenizer(prompt, add_special_tokens=False).input_ids] for prompt in prompts]
        found["input_ids"] = torch.tensor(rows)
        found["attention_mask"] = torch.ones_like(found["input_ids"])
        return found
