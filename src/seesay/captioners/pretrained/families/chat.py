"""Chat models that take images: SmolVLM, Idefics3, Qwen-VL, LLaVA, Gemma 3, InternVL and others."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from seesay.captioners.pretrained.families.base import Family
from seesay.captioners.prompts import PromptTemplate
from seesay.captioners.settings import ModelSettings
from seesay.errors import CheckpointError


class Chat(Family):
    """Models that are prompted with a chat template; the caption is their answer."""

    model_types = (
        "smolvlm",
        "idefics3",
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "qwen3_vl_moe",
        "qwen3_5",
        "llava",
        "llava_next",
        "llava_onevision",
        "gemma3",
        "gemma4",
        "internvl",
    )
    default_prompt = "Describe this image in one sentence. Answer with the description only."
    default_length = 128
    takes_languages = True
    pads_prompts = True
    has_fixed_size = False

    def __init__(self, model: Any, processor: Any) -> None:
        """Check that the model has a template.

        Raises:
            CheckpointError: it has none.
        """
        super().__init__(model, processor)
        if not (getattr(processor, "chat_template", None) or processor.tokenizer.chat_template):
            raise CheckpointError(
                f"{model.name_or_path} has no chat template (chat_template.jinja); choose one that is tuned for chat"
            )

    @classmethod
    def template(cls, spec: ModelSettings) -> PromptTemplate:
        """Return the prompt with the request for a language."""
        return PromptTemplate(cls.prompt(spec), spec.language, spec.columns)

    def inputs(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Mapping[str, Any]:
        """Return the tokens of the conversations with the pixels of their images."""
        texts = [self._conversation(prompt) for prompt in prompts]
        # Templates that write the start token themselves would otherwise have it twice.
        start = self.processor.tokenizer.bos_token
        has_start = start is not None and texts[0].startswith(start)
        found: Mapping[str, Any] = self.processor(
            images=[[image] for image in images],
            text=texts,
            padding=True,
            return_tensors="pt",
            add_special_tokens=not has_start,
        )
        return found

    def _conversation(self, prompt: str) -> str:
        """Return a conversation of an image with a prompt as the model expects it."""
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
        text: str = self.processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
        return text
