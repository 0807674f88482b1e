"""Training batches: images with all of their captions, bucketed by length, resumable at any step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seesay.data.augmentation import Augmentation, is_flippable
from seesay.data.feature_reader import FeatureReader, read_partly_mirrored
from seesay.data.records import Annotation
from seesay.errors import DataError
from seesay.images.loading import Preprocessing, load_pixels
from seesay.images.prefetch import prefetch
from seesay.models.packing import PAD_ID, PackedCaptions, pack_captions

LoadedBatch = TypeVar("LoadedBatch")

_AHEAD = 3
_BUCKET_BATCHES = 24
"""Number of batches that are sorted by length together: more gives less padding, fewer gives more randomness."""


@dataclass(frozen=True)
class GlobalBatchStats:
    """Totals of a batch over all processes.

    Attributes:
        images: number of images.
        captions: number of their captions.
        tokens: number of target tokens in these captions.
    """

    images: int
    captions: int
    tokens: int


@dataclass(frozen=True)
class Batch:
    """Images with all of their captions; with several processes, one process's share of the batch.

    Attributes:
        ids: image ids, length B.
        features: (B, N, F) float16 from a store, or None if `pixels` is set.
        pixels: (B, height, width, 3) uint8, or None if `features` is set.
        memory_mask: (B, N), True = real region, False = padding; None = no padding.
        captions: all captions of the images, packed.
        totals: totals of the global batch.
        idle: True if the global batch has fewer images than processes and this process holds a copy of another's image,
            which is excluded from loss and counts.
        padded: the captions as one tensor, (B, C, T) int64 with start and end; None if not kept.
        retrieved: captions of similar training images, (B, R, T) int64, padded; None = the model has no such inputs.
    """

    ids: tuple[str, ...]
    features: Tensor | None
    pixels: Tensor | None
    memory_mask: Tensor | None
    captions: PackedCaptions
    totals: GlobalBatchStats
    idle: bool = False
    padded: Tensor | None = None
    retrieved: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Number of target tokens; 0 if idle."""
        return 0 if self.idle else len(self.captions.targets)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """Return the batch with its tensors on `device`."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            features=move(self.features),
            pixels=move(self.pixels),
            memory_mask=move(self.memory_mask),
            captions=self.captions.to(device, non_blocking),
            padded=move(self.padded),
            retrieved=move(self.retrieved),
        )


@dataclass(frozen=True)
class Example:
    """A training image.

    Attributes:
        id: image id.
        image: path or URL.
        tokens: its captions as token ids, with start and end.
        flippable: its captions also describe the mirrored image, and its mirrored features are available.
        retrieved: captions of similar training images as token ids, the same number for every image; empty if they do
            not exist.
    """

    id: str
    image: str
    tokens: tuple[tuple[int, ...], ...]
    flippable: bool = True
    retrieved: Sequence[tuple[int, ...]] = ()

    @property
    def length(self) -> int:
        """Tokens of its longest caption."""
        return max(len(caption) for caption in self.tokens)


def make_examples(annotations: Sequence[Annotation], encode: Callable[[str], list[int]]) -> list[Example]:
    """Return the images with encoded captions, without captions of no words and images of no captions."""
    examples = []
    for item in annotations:
        tokens = tuple(tuple(ids) for caption in item.captions if len(ids := encode(caption)) > 2)
        if tokens:
            examples.append(Example(item.id, item.image, tokens, is_flippable(item.captions)))
    return examples


class ImageBatches(ABC, Generic[LoadedBatch]):
    """The batches of an epoch, in an order determined by the seed and the epoch; a subclass loads them.

    Every epoch has the same number of batches. The state includes the position within the epoch, so that training
    resumes with the next batch.

    Args:
        examples: the images.
        batch_captions: target number of captions per batch; an image's captions stay in one batch.
        seed: seed of order and augmentation.
        shuffle: False keeps the order of `examples`, for validation.
        augmentation: random augmentation, determined by seed, epoch and image.

    Raises:
        DataError: there are no examples.
    """

    workers = 2
    """Threads that load batches."""

    def __init__(
        self,
        examples: Sequence[Example],
        batch_captions: int,
        seed: int = 0,
        shuffle: bool = True,
        augmentation: Augmentation | None = None,
    ) -> None:
        if not examples:
            raise DataError("there are no captioned images to make batches of")
        self.examples = list(examples)
        self.seed = seed
        self.shuffle = shuffle
        self.augmentation = augmentation or Augmentation()
        self.epoch = 0
        self.rank, self.ranks = 0, 1
        self._position = 0
        self._captions = np.array([len(example.tokens) for example in self.examples])
        self._tokens = np.array([sum(len(caption) - 1 for caption in example.tokens) for example in self.examples])
        self._lengths = np.array([example.length for example in self.examples])
        self._count = max(1, round(int(self._captions.sum()) / batch_captions))
        self._count = min(self._count, len(self.examples))

    @abstractmethod
    def load(self, indices: NDArray[np.int64]) -> LoadedBatch:
        """Return this process's share of the batch of the examples at `indices`, on the CPU."""

    def __len__(self) -> int:
        return self._count

    @property
    def _flippable(self) -> int:
        """Number of images that may be flipped."""
        return sum(example.flippable for example in self.examples) if self.augmentation.flip else 0

    @property
    def captions(self) -> int:
        """Number of captions per epoch."""
        return int(self._captions.sum())

    def share(self, rank: int, ranks: int) -> None:
        """Select this process's share: image `rank`, `rank + ranks`, ... of each batch.

        Args:
            rank: index of this process.
            ranks: number of processes.
        """
        self.rank, self.ranks = rank, ranks

    def set_epoch(self, epoch: int) -> None:
        """Move to the first batch of an epoch."""
        self.epoch, self._position = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the next batch."""
        of = [len(self.examples), self.captions]
        return {"epoch": self.epoch, "position": self._position, "of": of, "mirrored": self._flippable}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Move to the position that `state_dict` returned.

        Raises:
            DataError: the state belongs to different data.
        """
        saved, current = state["of"], [len(self.examples), self.captions]
        if saved != current:
            raise DataError(
                f"the checkpoint was trained on {saved[0]} images with {saved[1]} captions, but the data has "
                f"{current[0]} with {current[1]}: restore the data, or start again with --overwrite"
            )
        if state["mirrored"] != self._flippable:
            raise DataError(
                f"the checkpoint was trained with {state['mirrored']} flippable images, but there are now "
                f"{self._flippable}: restore their features, or start again with --overwrite"
            )
        self.epoch, self._position = int(state["epoch"]), int(state["position"])

    def __iter__(self) -> Iterator[LoadedBatch]:
        """Yield the remaining batches of the epoch, or all of them if the epoch is finished."""
        if self._position >= self._count:
            self._position = 0
        plan = self.plan(self.epoch)[self._position :]
        for batch in prefetch(self.load, plan, workers=self.workers, ahead=_AHEAD):
            self._position += 1  # before the yield, so that a state saved by the consumer excludes this batch
            yield batch

    def plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the indices of the examples of each batch of an epoch."""
        order = np.arange(len(self.examples))
        if not self.shuffle:
            return self._cut(order)
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(order)
        chunk = max(1, _BUCKET_BATCHES * len(order) // self._count)
        chunks = [order[begin : begin + chunk] for begin in range(0, len(order), chunk)]
        order = np.concatenate([part[np.argsort(self._lengths[part], kind="stable")] for part in chunks])
        batches = self._cut(order)
        return [batches[index] for index in random.permutation(len(batches))]

    def _cut(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return the order cut into `len(self)` non-empty runs with about the same number of captions."""
        total = np.cumsum(self._captions[order])
        goals = total[-1] * np.arange(1, self._count) / self._count
        cuts = np.searchsorted(total, goals, side="left") + 1
        minimum = np.arange(1, self._count)
        cuts = np.maximum.accumulate(np.maximum(cuts, minimum) - minimum) + minimum  # strictly growing
        cuts = np.minimum(cuts, len(order) - self._count + minimum)
        return np.split(order, cuts)

    def _share(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], GlobalBatchStats, bool]:
        """Return this process's part of the examples of a batch, the batch's totals, and whether it is idle."""
        totals = GlobalBatchStats(len(indices), int(self._captions[indices].sum()), int(self._tokens[indices].sum()))
        own = indices[self.rank :: self.ranks]
        return (own, totals, False) if len(own) else (indices[:1], totals, True)

    def _random(self, index: int) -> np.random.Generator:
        """Return the generator of an image's augmentation in this epoch, independent of the process."""
        return np.random.default_rng([self.seed, self.epoch, int(index)])


class CaptionBatches(ImageBatches[Batch]):
    """Batches of stored features or pixels, with packed captions.

    Args:
        examples: the images.
        features: source of features, or None to load pixels.
        preprocessing: the encoder's preprocessing, used for pixels.
        batch_captions: see `ImageBatches`.
        seed: see `ImageBatches`.
        shuffle: see `ImageBatches`.
        augmentation: see `ImageBatches`.
        mirrored: source of the features of mirrored images; required to flip when `features` is set.

    Raises:
        DataError: there are no examples, or neither features nor preprocessing.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        features: FeatureReader | None,
        preprocessing: Preprocessing | None,
        batch_captions: int,
        seed: int = 0,
        shuffle: bool = True,
        augmentation: Augmentation | None = None,
        mirrored: FeatureReader | None = None,
    ) -> None:
        if features is None and preprocessing is None:
            raise DataError("batches need a feature store or a preprocessing for images")
        super().__init__(examples, batch_captions, seed, shuffle, augmentation)
        self.features = features
        self.preprocessing = preprocessing
        self.mirrored = mirrored
        self.workers = 2 if features is None else 1

    def load(self, indices: NDArray[np.int64]) -> Batch:
        """Return this process's share of the batch of the examples at `indices`, on the CPU."""
        own, totals, idle = self._share(indices)
        chosen = [self.examples[index] for index in own]
        features = pixels = mask = None
        ids = tuple(example.id for example in chosen)
        if self.features is not None:
            array, regions = self._read(self.features, own)
            features = torch.from_numpy(array)
            mask = None if regions is None else torch.from_numpy(regions)
        else:
            pixels = torch.from_numpy(np.stack([self._pixels(index) for index in own]))
        tokens = pad_captions([example.tokens for example in chosen])
        retrieved = pad_captions([example.retrieved for example in chosen]) if chosen[0].retrieved else None
        return Batch(ids, features, pixels, mask, pack_captions(tokens), totals, idle, tokens, retrieved)

    def _read(
        self, features: FeatureReader, indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.float16], NDArray[np.bool_] | None]:
        ids = [self.examples[index].id for index in indices]
        if self.mirrored is None or not self.augmentation.flip:
            return features.read(ids)
        flipped = [self.augmentation.flips(self._random(index), self.examples[index].flippable) for index in indices]
        return read_partly_mirrored(features, self.mirrored, ids, np.array(flipped))

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        assert self.preprocessing is not None
        example = self.examples[index]
        if not self.augmentation:
            return load_pixels(example.image, self.preprocessing)
        return self.augmentation.pixels(example.image, self.preprocessing, self._random(index), example.flippable)


def pad_captions(captions: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """Return the captions of B images as one tensor (B, C, T) int64, padded with `PAD_ID`."""
    most = max(len(of_image) for of_image in captions)
    longest = max(len(caption) for of_image in captions for caption in of_image)
    tokens = np.full((len(captions), most, longest), PAD_ID, np.int64)
    for image, of_image in enumerate(captions):
        for index, caption in enumerate(of_image):
            tokens[image, index, : len(caption)] = caption
    return torch.from_numpy(tokens)
