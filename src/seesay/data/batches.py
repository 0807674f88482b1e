"""Batches of whole images with all of their captions, bucketed by length and resumable at any step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seesay.data.augmentation import Augmentation, may_be_mirrored
from seesay.data.reading import FeatureReader, read_some_mirrored
from seesay.data.records import Annotation
from seesay.errors import DataError
from seesay.images import Preprocessing, load_pixels
from seesay.models.packing import PAD_ID, PackedCaptions, pack_captions
from seesay.prefetch import prefetch

_AHEAD = 3
_BUCKET_BATCHES = 24
"""Batches whose images are sorted by length together: more means equal lengths, fewer means more chance."""


@dataclass(frozen=True)
class GlobalBatchStats:
    """What a batch holds over all processes that share it.

    Attributes:
        images: how many.
        captions: of these images.
        tokens: words to be predicted in these captions.
    """

    images: int
    captions: int
    tokens: int


@dataclass(frozen=True)
class Batch:
    """Images with all of their captions; of several processes each has its share of them.

    Attributes:
        ids: image ids, B of them.
        features: (B, N, F) float16 from a store, or None where pixels are given.
        pixels: (B, height, width, 3) uint8, or None where features are given.
        memory_mask: (B, N), True = a real region; None = all are real.
        captions: every caption of the images, packed.
        whole: the batch that this is a share of, the batch itself in one process.
        idle: fewer images than processes: this one has none of its own and holds one of another's, which does
            not count.
        padded: the captions as one tensor, (B, C, T) int64 with start and end; None = it is not kept.
    """

    ids: tuple[str, ...]
    features: Tensor | None
    pixels: Tensor | None
    memory_mask: Tensor | None
    captions: PackedCaptions
    whole: GlobalBatchStats
    idle: bool = False
    padded: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Words to be predicted that count."""
        return 0 if self.idle else len(self.captions.targets)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """Returns the same batch with its tensors on `device`."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            features=move(self.features),
            pixels=move(self.pixels),
            memory_mask=move(self.memory_mask),
            captions=self.captions.to(device, non_blocking),
            padded=move(self.padded),
        )


@dataclass(frozen=True)
class Example:
    """An image ready for training.

    Attributes:
        id: the image's id.
        image: where the image is.
        tokens: its captions as word ids, start and end included.
        mirrored: may it be shown mirrored: its captions would be true of that too, and its features are at hand.
    """

    id: str
    image: str
    tokens: tuple[tuple[int, ...], ...]
    mirrored: bool = True

    @property
    def length(self) -> int:
        """Tokens of its longest caption."""
        return max(len(caption) for caption in self.tokens)


def make_examples(annotations: Sequence[Annotation], encode: Callable[[str], list[int]]) -> list[Example]:
    """Returns the images with their captions as ids; captions without a word, and images without one, go."""
    examples = []
    for item in annotations:
        tokens = tuple(tuple(ids) for caption in item.captions if len(ids := encode(caption)) > 2)
        if tokens:
            examples.append(Example(item.id, item.image, tokens, may_be_mirrored(item.captions)))
    return examples


class CaptionBatches:
    """The batches of an epoch, in an order that only the seed and the epoch decide.

    Every epoch has the same number of batches. The place within it is part of the state, so that training
    killed inside an epoch goes on with the very next batch.

    Args:
        examples: the images.
        features: where features are read, or None to read pixels instead.
        preprocessing: how pixels are made, where they are.
        batch_captions: captions a batch aims at; a batch holds whole images.
        seed: decides the order together with the epoch.
        shuffle: False keeps the given order, for validation.
        augmentation: how images are changed at random, which the seed, the epoch and the image decide.
        mirrored: where the features of mirrored images are read; needed if `features` are given and to be flipped.

    Raises:
        DataError: there is nothing to batch, or neither features nor preprocessing are given.
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
        if not examples:
            raise DataError("no image with a caption is left to make batches of")
        if features is None and preprocessing is None:
            raise DataError("batches need a feature store, or a preprocessing to read images by")
        self.examples = list(examples)
        self.features = features
        self.preprocessing = preprocessing
        self.seed = seed
        self.shuffle = shuffle
        self.augmentation = augmentation or Augmentation()
        self.mirrored = mirrored
        self.epoch = 0
        self.rank, self.ranks = 0, 1
        self._position = 0
        self._captions = np.array([len(example.tokens) for example in self.examples])
        self._tokens = np.array([sum(len(caption) - 1 for caption in example.tokens) for example in self.examples])
        self._lengths = np.array([example.length for example in self.examples])
        self._count = max(1, round(int(self._captions.sum()) / batch_captions))
        self._count = min(self._count, len(self.examples))

    def __len__(self) -> int:
        return self._count

    @property
    def _mirrored(self) -> int:
        """Images that chance may mirror."""
        return sum(example.mirrored for example in self.examples) if self.augmentation.flip else 0

    @property
    def captions(self) -> int:
        """Captions of an epoch."""
        return int(self._captions.sum())

    def share(self, rank: int, ranks: int) -> None:
        """Takes every `ranks`-th image of each batch from the `rank`-th on; the batches stay those of one process.

        Args:
            rank: which of the processes this is, from 0.
            ranks: how many there are.
        """
        self.rank, self.ranks = rank, ranks

    def set_epoch(self, epoch: int) -> None:
        """Starts an epoch from its first batch."""
        self.epoch, self._position = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Returns the place of the next batch."""
        of = [len(self.examples), self.captions]
        return {"epoch": self.epoch, "position": self._position, "of": of, "mirrored": self._mirrored}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to the place that `state_dict` gave.

        Raises:
            DataError: that was a place in other data.
        """
        there, here = state["of"], [len(self.examples), self.captions]
        if there != here:
            raise DataError(
                f"the saved state is of a training on {there[0]} images with {there[1]} captions, but the data has "
                f"{here[0]} with {here[1]}: put the data back as it was, or start again with --overwrite"
            )
        if state["mirrored"] != self._mirrored:
            raise DataError(
                f"the saved state is of a training with {state['mirrored']} images that may be mirrored, but now "
                f"they are {self._mirrored}: put their features back as they were, or start again with --overwrite"
            )
        self.epoch, self._position = int(state["epoch"]), int(state["position"])

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches from the current place to the end of the epoch, or again all of a finished one."""
        if self._position >= self._count:
            self._position = 0
        plan = self.plan(self.epoch)[self._position :]
        for batch in prefetch(self.load, plan, workers=1 if self.features is not None else 2, ahead=_AHEAD):
            self._position += 1  # before the yield: what was handed out is the consumer's
            yield batch

    def plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """Returns which examples make up each batch of an epoch."""
        order = np.arange(len(self.examples))
        if not self.shuffle:
            return self._cut(order)
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(order)
        chunk = max(1, _BUCKET_BATCHES * len(order) // self._count)
        chunks = [order[begin : begin + chunk] for begin in range(0, len(order), chunk)]
        order = np.concatenate([part[np.argsort(self._lengths[part], kind="stable")] for part in chunks])
        batches = self._cut(order)
        return [batches[place] for place in random.permutation(len(batches))]

    def _cut(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Returns the order cut into `len(self)` runs of about equally many captions, none of them empty."""
        total = np.cumsum(self._captions[order])
        goals = total[-1] * np.arange(1, self._count) / self._count
        cuts = np.searchsorted(total, goals, side="left") + 1
        least = np.arange(1, self._count)
        cuts = np.maximum.accumulate(np.maximum(cuts, least) - least) + least  # strictly growing
        cuts = np.minimum(cuts, len(order) - self._count + least)
        return np.split(order, cuts)

    def load(self, places: NDArray[np.int64]) -> Batch:
        """Returns this process's share of the batch of the examples at `places`, on the CPU."""
        whole = GlobalBatchStats(len(places), int(self._captions[places].sum()), int(self._tokens[places].sum()))
        own = places[self.rank :: self.ranks]
        idle = not len(own)
        own = places[:1] if idle else own
        chosen = [self.examples[place] for place in own]
        features = pixels = mask = None
        ids = tuple(example.id for example in chosen)
        if self.features is not None:
            array, regions = self._read(self.features, own)
            features = torch.from_numpy(array)
            mask = None if regions is None else torch.from_numpy(regions)
        else:
            pixels = torch.from_numpy(np.stack([self._pixels(place) for place in own]))
        tokens = pad_captions([example.tokens for example in chosen])
        return Batch(ids, features, pixels, mask, pack_captions(tokens), whole, idle, tokens)

    def _read(
        self, features: FeatureReader, places: NDArray[np.int64]
    ) -> tuple[NDArray[np.float16], NDArray[np.bool_] | None]:
        ids = [self.examples[place].id for place in places]
        if self.mirrored is None or not self.augmentation.flip:
            return features.read(ids)
        turned = [self.augmentation.turns(self._random(place), self.examples[place].mirrored) for place in places]
        return read_some_mirrored(features, self.mirrored, ids, np.array(turned))

    def _pixels(self, place: int) -> NDArray[np.uint8]:
        assert self.preprocessing is not None
        example = self.examples[place]
        if not self.augmentation:
            return load_pixels(example.image, self.preprocessing)
        return self.augmentation.pixels(example.image, self.preprocessing, self._random(place), example.mirrored)

    def _random(self, place: int) -> np.random.Generator:
        """Returns what decides how an image is changed in this epoch, whichever process it comes to."""
        return np.random.default_rng([self.seed, self.epoch, int(place)])


def pad_captions(captions: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """Returns the captions of several images as one tensor (B, C, T) int64, padded with `PAD_ID`."""
    most = max(len(of_image) for of_image in captions)
    longest = max(len(caption) for of_image in captions for caption in of_image)
    tokens = np.full((len(captions), most, longest), PAD_ID, np.int64)
    for image, of_image in enumerate(captions):
        for place, caption in enumerate(of_image):
            tokens[image, place, : len(caption)] = caption
    return torch.from_numpy(tokens)
