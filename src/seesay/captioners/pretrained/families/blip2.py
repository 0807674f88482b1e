"""BLIP-2 (Li et al. 2023) and InstructBLIP (Dai et al. 2023)."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from seesay.captioners.pretrained.families.base import Family
from seesay.captioners.pretrained.targets import Captions, continue_prompts, decode_after


class Blip2(Family):
    """BLIP-2 captioners. A prompt is the beginning of the caption, or an instruction for models with a T5 decoder."""

    model_types = ("blip-2",)

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        if getattr(processor, "num_query_tokens", 0) is None:  # files of older versions lack it
            processor.num_query_tokens = model.config.num_query_tokens

    def inputs(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Mapping[str, Any]:
        """Return pixels and the tokens of image and prompts."""
        found: Mapping[str, Any] = self.processor(images=list(images), text=list(prompts), return_tensors="pt")
        return found

    def training_inputs(
        self, images: Sequence[Image.Image], prompts: Sequence[str], captions: Captions
    ) -> dict[str, Any]:
        """Return pixels and tokens; the captions continue the prompts, or follow the start token of a T5 decoder."""
        inputs, text = self.inputs(images, prompts), self.model.config.text_config
        if text.is_encoder_decoder:
            return decode_after(inputs, [text.decoder_start_token_id], captions)
        return continue_prompts(inputs, captions)


class InstructBlip(Blip2):
    """InstructBLIP captioners, whose prompt is an instruction."""

    model_types = ("instructblip",)
    default_prompt = "Describe the image in one sentence."
