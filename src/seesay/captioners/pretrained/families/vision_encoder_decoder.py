"""An image encoder with a text decoder, such as ViT-GPT2."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from seesay.captioners.pretrained.families.base import Family, Regions
from seesay.captioners.pretrained.targets import Captions, decode_after

_TOKENS_BEFORE_PATCHES = {"vit": 1, "beit": 1, "dinov2": 1, "deit": 2, "swin": 0, "swinv2": 0}


class VisionEncoderDecoder(Family):
    """Models of transformers' `VisionEncoderDecoderModel`, which take no prompt."""

    model_types = ("vision-encoder-decoder",)
    takes_prompts = False
    has_processor = False

    def inputs(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Mapping[str, Any]:
        """Return pixels."""
        found = self.processor.image_processor(list(images), return_tensors="pt")
        return {"pixel_values": found["pixel_values"]}

    def training_inputs(
        self, images: Sequence[Image.Image], prompts: Sequence[str], captions: Captions
    ) -> dict[str, Any]:
        """Return pixels, and the captions after the start token of the decoder."""
        generation = self.model.generation_config
        start = generation.decoder_start_token_id
        start = generation.bos_token_id if start is None else start
        return decode_after(self.inputs(images, prompts), [start], captions)

    def image_encoders(self) -> list[str]:
        """Return the name of the encoder; modules of the decoder may have the same name."""
        return ["encoder"]

    def lora_names(self) -> tuple[str, ...]:
        """Return the attention layers of a GPT-2 decoder."""
        return ("c_attn", "q_attn") if self.model.config.decoder.model_type == "gpt2" else ()

    def regions(self, features: Mapping[str, Any]) -> Regions | None:
        """Return the patches of the encoder."""
        config = self.model.config.encoder
        before = _TOKENS_BEFORE_PATCHES.get(config.model_type)
        if before is None:
            return None
        patch = config.patch_size * 2 ** (len(getattr(config, "depths", "1")) - 1)  # of hierarchical encoders
        height, width = features["pixel_values"].shape[-2:]
        return Regions(slice(before, None), (height // patch, width // patch))
