"""`Family`: what differs between the architectures of pretrained captioners."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image

from seesay.captioners.pretrained.steps import end_tokens
from seesay.captioners.pretrained.targets import Captions, continue_prompts
from seesay.captioners.prompts import PromptTemplate
from seesay.captioners.settings import ModelSettings
from seesay.errors import ConfigError


@dataclass(frozen=True)
class Regions:
    """The positions of the cross-attention that are regions of the image.

    Attributes:
        positions: from the first region to the last.
        grid: their (rows, columns).
    """

    positions: slice
    grid: tuple[int, int]


class Family(ABC):
    """An architecture: prompts, inputs and attention of its models.

    Args:
        model: the model.
        processor: its processor.

    Attributes:
        model_types: `model_type` in the configuration of its models.
        default_prompt: prompt if the user passes none; empty: no prompt.
        default_length: maximum number of tokens per caption by default.
        takes_prompts: whether the user may pass a prompt.
        takes_languages: whether the prompt can ask for a language.
        pads_prompts: whether prompts of unequal length may share a batch.
        has_fixed_size: whether every image is resized to the processor's size, whatever its own.
        has_processor: whether its files describe a processor of images and text, not only one of each.
        encoder_names: names of the module that encodes images, wherever it is in the model.
        lora_targets: names of the layers that LoRA adapts by default; empty: every linear layer but the output.
    """

    model_types: ClassVar[tuple[str, ...]]
    default_prompt: ClassVar[str] = ""
    default_length: ClassVar[int] = 60
    takes_prompts: ClassVar[bool] = True
    takes_languages: ClassVar[bool] = False
    pads_prompts: ClassVar[bool] = False
    has_processor: ClassVar[bool] = True
    has_fixed_size: ClassVar[bool] = True
    encoder_names: ClassVar[tuple[str, ...]] = ("vision_model", "vision_tower", "visual", "image_encoder")
    lora_targets: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor

    @classmethod
    def template(cls, spec: ModelSettings) -> PromptTemplate | None:
        """Return the prompt of the images with its variables; None: none.

        Raises:
            ConfigError: as `prompt`; or the prompt is blank or has an unknown variable.
        """
        prompt = cls.prompt(spec)
        return PromptTemplate(prompt, columns=spec.columns) if prompt else None

    @classmethod
    def prompt(cls, spec: ModelSettings) -> str:
        """Return the prompt of the specification, by default the family's.

        Raises:
            ConfigError: the models take no prompt or no language.
        """
        kind = cls.model_types[0]
        if spec.prompt and not cls.takes_prompts:
            raise ConfigError(f"{spec.models[0]} is a {kind} model, which takes no prompt; drop --prompt")
        if spec.language and not cls.takes_languages:
            raise ConfigError(f"{spec.models[0]} is a {kind} model, which takes no language; drop --language")
        return spec.prompt or cls.default_prompt

    @abstractmethod
    def inputs(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Mapping[str, Any]:
        """Return the arguments of the model's `generate` for RGB images with a prompt each, on the CPU."""

    @property
    def end(self) -> int:
        """The token that ends a training caption."""
        return end_tokens(self.model.generation_config)[0]

    def caption_ids(self, caption: str) -> list[int]:
        """Return the token ids of a training caption, without special tokens."""
        ids: list[int] = self.processor.tokenizer(caption.strip(), add_special_tokens=False).input_ids
        return ids

    def training_inputs(
        self, images: Sequence[Image.Image], prompts: Sequence[str], captions: Captions
    ) -> dict[str, Any]:
        """Return the arguments of the model's forward pass, with `labels`, on the CPU.

        Args:
            images: an RGB image per row.
            prompts: a prompt per row.
            captions: token ids per row, from `caption_ids` and `end`.

        Returns:
            The arguments, and `labels` (R, T): the targets of the last T positions of the logits.
        """
        return continue_prompts(self.inputs(images, prompts), captions)

    def image_encoders(self) -> list[str]:
        """Return the names of the modules of the model that encode images, without modules inside them."""
        found: list[str] = []
        for name, _ in self.model.named_modules():
            inside = any(name.startswith(f"{outer}.") for outer in found)
            if name.rpartition(".")[2] in self.encoder_names and not inside:
                found.append(name)
        return found

    def lora_names(self) -> tuple[str, ...]:
        """Return the names of the layers that LoRA adapts by default; empty: every linear layer but the output."""
        return self.lora_targets

    def length(self, prompt: str) -> int:
        """Return the maximum number of tokens per caption by default."""
        return self.default_length

    def regions(self, features: Mapping[str, Any]) -> Regions | None:
        """Return the regions of the image that the model attends to; None: it has no cross-attention to them."""
        return None
