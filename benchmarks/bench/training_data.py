"""Training data of the benchmarks: real captions and stored features, or synthetic ones of the same sizes."""

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
"""Vocabulary size with special tokens: the tutorial's 5,000 words and its padding."""
GRID = (64, 2048)
"""Regions and width of InceptionV3's last feature map."""
_CAPTIONS = 5
"""Captions per image."""

# Number of Flickr8k's 30,000 training captions with 2, 3, ... 37 words, without punctuation (mean 10.8, median 10).
_LENGTHS = (
    *(15, 125, 340, 854, 1948, 2501, 2916, 3319, 3309, 3133, 2773, 2330, 1865, 1339, 979, 684, 518, 370),
    *(213, 138, 105, 80, 51, 36, 19, 10, 9, 8, 5, 3, 2, 2, 0, 0, 0, 1),
)
_SHORTEST = 2


class InMemoryFeatures:
    """Features of images in memory.

    Attributes:
        ids: image ids.
        features: (I, N, F) float16, in the order of `ids`; if there are fewer, they are reused cyclically.
    """

    def __init__(self, ids: Sequence[str], features: NDArray[np.float16]) -> None:
        self.ids = tuple(ids)
        self.features = features
        self._rows = {name: row % len(features) for row, name in enumerate(ids)}

    def read(self, ids: Sequence[str]) -> tuple[NDArray[np.float16], None]:
        """Return features (B, N, F), and None: no mask."""
        return self.features[[self._rows[name] for name in ids]], None

    def pooled(self) -> "InMemoryFeatures":
        """Return the mean region of each image, (I, 1, F)."""
        return InMemoryFeatures(self.ids, self.features.mean(1, keepdims=True, dtype=np.float32).astype(np.float16))


@dataclass(frozen=True)
class TrainingData:
    """Images with captions and features.

    Attributes:
        examples: captions as token ids.
        features: of their images.
        tokenizer: with at most `VOCABULARY` ids.
    """

    examples: list[Example]
    features: InMemoryFeatures
    tokenizer: Tokenizer

    @property
    def captions(self) -> int:
        """Number of captions."""
        return sum(len(example.tokens) for example in self.examples)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest caption, with start and end."""
        return max(example.length for example in self.examples)


def load_training_data(data: Path | None, store: Path | None, images: int) -> TrainingData:
    """Return the first images of a training split, or synthetic ones.

    Args:
        data: a data set; None = captions of Flickr8k's lengths.
        store: its feature store; None = random features of InceptionV3's shape.
        images: number of images.

    Raises:
        SystemExit: a store without its data set.
    """
    if data is None and store is not None:
        raise SystemExit("--store needs --data, the data set of its images")
    if data is None:
        examples, tokenizer = synthetic_examples(images), synthetic_tokenizer()
    else:
        examples, tokenizer = read_examples(data, VOCABULARY)
    source = None if store is None else FeatureStore(store)
    examples = [example for example in examples if source is None or example.id in source][:images]
    ids = [example.id for example in examples]
    features = random_features(len(ids), *GRID) if source is None else read_features(source, ids)
    return TrainingData(examples, InMemoryFeatures(ids, features), tokenizer)


def read_examples(data: Path, vocabulary: int) -> tuple[list[Example], Tokenizer]:
    """Return the training images of a data set with captions in at most `vocabulary` ids."""
    train = load_dataset(data, resolve_config().data).split("train")
    config = TextConfig(vocabulary_size=vocabulary - len(SPECIALS))
    tokenizer = Tokenizer.build((text for item in train for text in item.captions), config)
    return make_examples(train.items, tokenizer.encode), tokenizer


def read_features(store: FeatureStore, ids: Sequence[str]) -> NDArray[np.float16]:
    """Return features (I, N, F) of a store whose images all have the same number of regions."""
    features, mask = store.read(ids)
    if mask is not None:
        raise SystemExit(f"{store.path} has images with different numbers of regions; choose another store")
    return features


def synthetic_examples(images: int, seed: int = 0) -> list[Example]:
    """Return images with five captions each, with Flickr8k's length distribution and Zipf-distributed words."""
    random = np.random.default_rng(seed)
    shares = np.array(_LENGTHS) / sum(_LENGTHS)
    lengths = _SHORTEST + random.choice(len(shares), (images, _CAPTIONS), p=shares)
    frequencies = 1 / np.arange(1, VOCABULARY - len(SPECIALS) + 1)
    words = len(SPECIALS) + random.choice(len(frequencies), int(lengths.sum()), p=frequencies / frequencies.sum())
    stream = iter(words.tolist())
    return [
        Example(str(number), "", tuple((START_ID, *(next(stream) for _ in range(length)), END_ID) for length in row))
        for number, row in enumerate(lengths.tolist())
    ]


def synthetic_tokenizer() -> Tokenizer:
    """Return a tokenizer with `VOCABULARY` ids."""
    return Tokenizer.build((f"w{number}" for number in range(VOCABULARY - len(SPECIALS))), TextConfig())


def random_features(images: int, regions: int, width: int) -> NDArray[np.float16]:
    """Return features (I, N, F) in 0..1."""
    random = np.random.default_rng(0)
    features = np.empty((images, regions, width), np.float16)
    for row in features:  # one at a time: all in float32 would take twice the memory
        row[:] = random.random((regions, width), np.float32)
    return features
