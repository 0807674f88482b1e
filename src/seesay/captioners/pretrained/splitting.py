"""Batches of images, split into parts that are decoded together: by their prompts and by memory."""

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from seesay.captioners.caption import Caption
from seesay.captioners.pretrained.beam import is_plain_beam
from seesay.captioners.pretrained.families import Family
from seesay.config import DecodingOptions
from seesay.errors import ConfigError
from seesay.retrieval.rerank import search_options

logger = logging.getLogger(__name__)

HubInputs = tuple[NDArray[np.uint8], str]
"""The RGB pixels of an image, (height, width, 3), and its prompt."""

Search = Callable[[Mapping[str, Any], Sequence[str]], list[Caption]]
"""Returns the captions of images from the arguments of the model's `generate` and their names."""

_MAX_LOGITS = 2**28
"""Maximum number of logits that a beam search of transformers keeps: 1 GiB."""


@dataclass(frozen=True)
class HubPart:
    """Images of a batch that are decoded together.

    Attributes:
        places: their positions in the batch.
        features: arguments of the model's `generate`, on the CPU.
    """

    places: tuple[int, ...]
    features: Mapping[str, Any]


@dataclass(frozen=True)
class HubBatch:
    """A batch of images with the inputs of the model.

    Attributes:
        inputs: pixels and prompts.
        parts: the images that are decoded together.
        refused: why the model's processor refuses an image, by its position.
    """

    inputs: tuple[HubInputs, ...]
    parts: tuple[HubPart, ...]
    refused: Mapping[int, str]


class BatchSplitter:
    """Splits batches into parts whose prompts may share a batch and that fit into memory.

    Args:
        family: of the model.
        name: of the model, for messages.
    """

    def __init__(self, family: Family, name: str) -> None:
        self._family, self._name = family, name
        self._tokenizer = family.processor.tokenizer
        self._limit = 2**30  # images per search, halved when memory runs out

    def split(self, inputs: Sequence[HubInputs]) -> HubBatch:
        """Return images with the arguments of the model's `generate`, in parts; refused images are in none."""
        groups, limit = self.group_prompts([prompt for _, prompt in inputs]), self._limit
        parts = [group[at : at + limit] for group in groups for at in range(0, len(group), limit)]
        accepted: list[HubPart] = []
        refused: dict[int, str] = {}
        for places in parts:
            try:
                accepted.append(self._part(inputs, places))
            except Exception:  # noqa: BLE001  # processors raise almost any exception for an odd image
                for place in places:
                    try:
                        accepted.append(self._part(inputs, [place]))
                    except Exception as error:  # noqa: BLE001
                        refused[place] = self._refusal(inputs[place], error)
        return HubBatch(tuple(inputs), tuple(accepted), refused)

    def group_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the positions of prompts in groups that may share a batch."""
        groups: dict[int, list[int]] = {}
        for place, prompt in enumerate(prompts):
            length = 0 if self._family.pads_prompts else len(self._tokenizer(prompt).input_ids) if prompt else 0
            groups.setdefault(length, []).append(place)
        return list(groups.values())

    def caption(self, batch: HubBatch, names: Sequence[str], options: DecodingOptions, search: Search) -> list[Caption]:
        """Return the captions of a batch in the order of its parts, in smaller parts if they do not fit into memory.

        Args:
            batch: the images.
            names: a name per image of the batch.
            options: decoding options with all values set.
            search: captions a part.

        Raises:
            ConfigError: memory runs out for a single image.
        """
        return [
            caption
            for part in batch.parts
            for caption in self._caption_part(batch.inputs, part, names, options, search)
        ]

    def _caption_part(
        self,
        inputs: Sequence[HubInputs],
        part: HubPart,
        names: Sequence[str],
        options: DecodingOptions,
        search: Search,
    ) -> list[Caption]:
        size, limit = len(part.places), self._limit_of(options)
        if size <= limit:
            try:
                return search(part.features, [names[place] for place in part.places])
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                limit = self._halve(size)
        # Outside of the handler, whose traceback holds the tensors of the failed search.
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        captions: list[Caption] = []
        for at in range(0, size, limit):
            smaller = self._part(inputs, part.places[at : at + limit])
            captions += self._caption_part(inputs, smaller, names, options, search)
        return captions

    @property
    def _device(self) -> torch.device:
        """The device of the model, which training may move."""
        device: torch.device = self._family.model.device
        return device

    def _part(self, inputs: Sequence[HubInputs], places: Sequence[int]) -> HubPart:
        images = [Image.fromarray(inputs[place][0]) for place in places]
        return HubPart(tuple(places), self._family.inputs(images, [inputs[place][1] for place in places]))

    def _refusal(self, inputs: HubInputs, error: Exception) -> str:
        height, width, _ = inputs[0].shape
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return f"the processor of {self._name} refuses its {width} x {height} pixels ({reason})"

    def _limit_of(self, options: DecodingOptions) -> int:
        """Return the maximum number of images per search."""
        if not is_plain_beam(options):
            return self._limit
        logits = search_options(options).beam_size * (options.max_length + 2) * len(self._tokenizer)
        return min(self._limit, max(1, _MAX_LOGITS // logits))

    def _halve(self, size: int) -> int:
        """Return half of a batch size that does not fit into memory, and use it from then on.

        Raises:
            ConfigError: the batch has one image.
        """
        if size == 1:
            raise ConfigError(
                f"{self._name} does not fit into the memory of {self._device} for one image; "
                "pass --precision int4, --device cpu or a smaller model"
            )
        self._limit = size // 2
        logger.warning("%s ran out of memory with %d images; continuing with %d", self._name, size, self._limit)
        return self._limit


def _is_out_of_memory(error: RuntimeError) -> bool:
    text = str(error).casefold()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text
