"""Chat models that take images: SmolVLM, Idefics3, Qwen-VL, LLaVA, Gemma 3, InternVL and others."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from seesay.captioners.pretrained.families.base import Family
from seesay.captioners.pretrained.steps import end_tokens
from seesay.captioners.prompts import PromptTemplate
from seesay.captioners.settings import ModelSettings
from seesay.errors import CheckpointError

_ANSWER = "answer"


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

    @property
    def end(self) -> int:
        """The end token that the template writes after an answer, else the first one of the model."""
        ends = end_tokens(self.model.generation_config)
        _, _, after = self._answer.partition(_ANSWER)
        written = self.processor.tokenizer(after, add_special_tokens=False).input_ids
        return next((token for token in written if token in ends), ends[0])

    def caption_ids(self, caption: str) -> list[int]:
        """Return the token ids of a caption as the template writes an answer: mostly after a space or a line end."""
        before, _, _ = self._answer.partition(_ANSWER)
        ids: list[int] = self.processor.tokenizer(before + caption.strip(), add_special_tokens=False).input_ids
        return ids

    @functools.cached_property
    def _answer(self) -> str:
        """What the template writes after the prompt for the answer `_ANSWER`; that alone if it writes no answers."""
        prompt = self._conversation("question")
        answer = {"role": "assistant", "content": [{"type": "text", "text": _ANSWER}]}
        try:
            text: str = self.processor.apply_chat_template([_request("question"), answer], tokenize=False)
        except Exception:  # noqa: BLE001  # a template may refuse answers in any way
            return _ANSWER
        answered = text.removeprefix(prompt)
        return answered if answered != text and _ANSWER in answered else _ANSWER

    def _conversation(self, prompt: str) -> str:
        """Return a conversation of an image with a prompt as the model expects it."""
        text: str = self.processor.apply_chat_template([_request(prompt)], add_generation_prompt=True, tokenize=False)
        return text


def _request(prompt: str) -> dict[str, Any]:
    """Return the user's message: an image and a prompt."""
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
