"""Training batches of a pretrained model: images and captions as its processor and tokenizer make them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from seesay.captioners.pretrained.captioner import PretrainedCaptioner
from seesay.captioners.pretrained.splitting import HubBatch, HubInputs
from seesay.captioners.pretrained.steps import OFFSET
from seesay.captioners.pretrained.targets import IGNORED
from seesay.data.augmentation import Augmentation
from seesay.data.batches import Example, GlobalBatchStats, ImageBatches
from seesay.tokenizer import END_ID, START_ID
from seesay.training.finetuning.encode_once import IMAGE_OF_ROW


@dataclass(frozen=True)
class FinetuningBatch:
    """Images with their captions; with several processes, one process's share of the batch.

    Attributes:
        ids: image ids, length B.
        passes: arguments of the model's forward pass for a part of the captions each, with `labels` (R, T) and
            `IMAGE_OF_ROW`.
        totals: totals of the global batch.
        idle: as in `seesay.data.batches.Batch`.
        encoded: the images for generating captions; None if none are generated.
    """

    ids: tuple[str, ...]
    passes: tuple[Mapping[str, Any], ...]
    totals: GlobalBatchStats
    idle: bool
    encoded: HubBatch | None

    @property
    def tokens(self) -> int:
        """Number of target tokens; 0 if idle."""
        return 0 if self.idle else sum(int((each["labels"] != IGNORED).sum()) for each in self.passes)

    def to(self, device: torch.device, non_blocking: bool = False) -> "FinetuningBatch":
        """Return the batch with the tensors of its passes on a device."""
        moved = tuple(
            {
                name: value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value
                for name, value in each.items()
            }
            for each in self.passes
        )
        return replace(self, passes=moved)


def encode_caption(ids: Sequence[int], limit: int) -> list[int]:
    """Return the tokens of an `Example` from a tokenizer's ids, in the search's numbers.

    Args:
        ids: ids of a caption without special tokens.
        limit: maximum number of ids; a caption that is cut has no end token, so that no model learns to end there.
    """
    shifted = [START_ID, *(token + OFFSET for token in ids[:limit])]
    return shifted if len(ids) > limit else [*shifted, END_ID]


class FinetuningBatches(ImageBatches[FinetuningBatch]):
    """Batches of images with all of their captions, one row per caption.

    Args:
        captioner: reads and processes the images.
        examples: the images, with captions from `encode_caption`.
        batch_captions: see `ImageBatches`.
        captions_per_pass: maximum number of captions of a pass; 0: no limit.
        generates: add the images for generating captions.
        seed: see `ImageBatches`.
        shuffle: see `ImageBatches`.
        augmentation: see `ImageBatches`.
    """

    def __init__(
        self,
        captioner: PretrainedCaptioner,
        examples: Sequence[Example],
        batch_captions: int,
        captions_per_pass: int,
        generates: bool,
        seed: int = 0,
        shuffle: bool = True,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__(examples, batch_captions, seed, shuffle, augmentation)
        self.captioner = captioner
        self.captions_per_pass = captions_per_pass
        self.generates = generates

    def load(self, indices: NDArray[np.int64]) -> FinetuningBatch:
        """Return this process's share of the batch of the examples at `indices`, on the CPU."""
        own, totals, idle = self._share(indices)
        inputs = [self._inputs(int(index)) for index in own]
        chosen = [self.examples[index] for index in own]
        encoded = self.captioner.encode(inputs) if self.generates else None
        return FinetuningBatch(
            tuple(example.id for example in chosen), tuple(self._passes(inputs, chosen)), totals, idle, encoded
        )

    def _inputs(self, index: int) -> HubInputs:
        """Return the augmented pixels of an image, and its prompt."""
        example = self.examples[index]
        pixels, prompt = self.captioner.load_inputs(example.image)
        if not self.augmentation:
            return pixels, prompt
        random = self._random(index)
        flipped = self.augmentation.flips(random, example.flippable)
        pixels = np.asarray(self.augmentation.crop_image(Image.fromarray(pixels), random))
        return (np.ascontiguousarray(pixels[:, ::-1]) if flipped else pixels), prompt

    def _passes(self, inputs: Sequence[HubInputs], chosen: Sequence[Example]) -> Iterator[Mapping[str, Any]]:
        """Yield the arguments of the forward passes."""
        family, images = self.captioner.family, [Image.fromarray(pixels) for pixels, _ in inputs]
        rows = [
            (place, [family.end if token == END_ID else token - OFFSET for token in caption[1:]])
            for place, example in enumerate(chosen)
            for caption in example.tokens
        ]
        for group in self.captioner.splitter.group_prompts([inputs[place][1] for place, _ in rows]):
            limit = self.captions_per_pass or len(group)
            for at in range(0, len(group), limit):
                part = [rows[number] for number in group[at : at + limit]]
                arguments = family.training_inputs(
                    [images[place] for place, _ in part],
                    [inputs[place][1] for place, _ in part],
                    [caption for _, caption in part],
                )
                yield {**arguments, IMAGE_OF_ROW: tuple(place for place, _ in part)}
