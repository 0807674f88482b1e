"""`Family`: what differs between the architectures of pretrained captioners."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image

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
    """

    model_types: ClassVar[tuple[str, ...]]
    default_prompt: ClassVar[str] = ""
    default_length: ClassVar[int] = 60
    takes_prompts: ClassVar[bool] = True
    takes_languages: ClassVar[bool] = False
    pads_prompts: ClassVar[bool] = False
    has_processor: ClassVar[bool] = True
    has_fixed_size: ClassVar[bool] = True

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

    def length(self, prompt: str) -> int:
        """Return the maximum number of tokens per caption by default."""
        return self.default_length

    def regions(self, features: Mapping[str, Any]) -> Regions | None:
        """Return the regions of the image that the model attends to; None: it has no cross-attention to them."""
        return None
