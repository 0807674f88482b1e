"""What a benchmark trains on: real captions and stored features, or made-up ones of the same shape and lengths."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seesay.config import TextConfig, resolve_config
from seesay.data import load_dataset
from seesay.data.batches import Example, make_examples
from seesay.features import FeatureStore
from seesay.tokenizer import END_ID, SPECIALS, START_ID, Tokenizer

VOCABULARY = 5001
"""Word ids, the special ones included: the tutorial's 5,000 words and its padding."""
GRID = (64, 2048)
"""Regions and width of InceptionV3's last map."""
_CAPTIONS = 5
"""Captions of an image."""

# How many of Flickr8k's 30,000 training captions have 2 words, 3 words, ... 37 words, punctuation aside
# (10.8 on average, half of them at most 10).
_LENGTHS = (
    *(15, 125, 340, 854, 1948, 2501, 2916, 3319, 3309, 3133, 2773, 2330, 1865, 1339, 979, 684, 518, 370),
    *(213, 138, 105, 80, 51, 36, 19, 10, 9, 8, 5, 3, 2, 2, 0, 0, 0, 1),
)
_SHORTEST = 2


class KeptFeatures:
    """Features of images held in memory.

    Attributes:
        ids: the images.
        features: (I, N, F) float16, in that order; of fewer, which then serve in turn.
    """

    def __init__(self, ids: Sequence[str], features: NDArray[np.float16]) -> None:
        self.ids = tuple(ids)
        self.features = features
        self._rows = {name: row % len(features) for row, name in enumerate(ids)}

    def read(self, ids: Sequence[str]) -> tuple[NDArray[np.float16], None]:
        """Returns features (B, N, F), and that all regions are real."""
        return self.features[[self._rows[name] for name in ids]], None

    def pooled(self) -> "KeptFeatures":
        """Returns the mean region of each image, (I, 1, F)."""
        return KeptFeatures(self.ids, self.features.mean(1, keepdims=True, dtype=np.float32).astype(np.float16))


@dataclass(frozen=True)
class TrainingData:
    """Images with captions and features.

    Attributes:
        examples: the captions as word ids.
        features: of their images.
        tokenizer: of at most `VOCABULARY` ids.
    """

    examples: list[Example]
    features: KeptFeatures
    tokenizer: Tokenizer

    @property
    def captions(self) -> int:
        """How many there are."""
        return sum(len(example.tokens) for example in self.examples)

    @property
    def longest(self) -> int:
        """Tokens of the longest caption, start and end included."""
        return max(example.length for example in self.examples)


def load_material(data: Path | None, store: Path | None, images: int) -> TrainingData:
    """Returns the first images of a training split, or made-up ones.

    Args:
        data: a data set; None = captions of Flickr8k's lengths.
        store: its features; None = random ones of InceptionV3's shape.
        images: how many.

    Raises:
        SystemExit: a store without the data that it belongs to.
    """
    if data is None and store is not None:
        raise SystemExit("--store goes with --data, the data set whose images it holds")
    if data is None:
        examples, tokenizer = made_up_examples(images), made_up_tokenizer()
    else:
        examples, tokenizer = read_examples(data, VOCABULARY)
    source = None if store is None else FeatureStore(store)
    examples = [example for example in examples if source is None or example.id in source][:images]
    ids = [example.id for example in examples]
    features = random_features(len(ids), *GRID) if source is None else read_features(source, ids)
    return TrainingData(examples, KeptFeatures(ids, features), tokenizer)


def read_examples(data: Path, vocabulary: int) -> tuple[list[Example], Tokenizer]:
    """Returns the training images of a data set with their captions in at most so many ids."""
    train = load_dataset(data, resolve_config().data).split("train")
    config = TextConfig(vocabulary_size=vocabulary - len(SPECIALS))
    tokenizer = Tokenizer.build((text for item in train for text in item.captions), config)
    return make_examples(train.items, tokenizer.encode), tokenizer


def read_features(store: FeatureStore, ids: Sequence[str]) -> NDArray[np.float16]:
    """Returns features (I, N, F) of a store whose images all have the same number of regions."""
    features, mask = store.read(ids)
    if mask is not None:
        raise SystemExit(f"{store.path} has images of different numbers of regions; name another store")
    return features


def made_up_examples(images: int, seed: int = 0) -> list[Example]:
    """Returns images with five captions each, of lengths distributed as Flickr8k's and words as in Zipf's law."""
    random = np.random.default_rng(seed)
    shares = np.array(_LENGTHS) / sum(_LENGTHS)
    lengths = _SHORTEST + random.choice(len(shares), (images, _CAPTIONS), p=shares)
    dropout_masks = 1 / np.arange(1, VOCABULARY - len(SPECIALS) + 1)
    words = len(SPECIALS) + random.choice(len(dropout_masks), int(lengths.sum()), p=dropout_masks / dropout_masks.sum())
    drawn = iter(words.tolist())
    return [
        Example(str(number), "", tuple((START_ID, *(next(drawn) for _ in range(length)), END_ID) for length in row))
        for number, row in enumerate(lengths.tolist())
    ]


def made_up_tokenizer() -> Tokenizer:
    """Returns a vocabulary of `VOCABULARY` ids."""
    return Tokenizer.build((f"w{number}" for number in range(VOCABULARY - len(SPECIALS))), TextConfig())


def random_features(images: int, regions: int, width: int) -> NDArray[np.float16]:
    """Returns features (I, N, F) in 0..1."""
    random = np.random.default_rng(0)
    made = np.empty((images, regions, width), np.float16)
    for row in made:  # one at a time: in float32 they would take twice the room
        row[:] = random.random((regions, width), np.float32)
    return made
