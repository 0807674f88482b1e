"""The inputs of training: vocabulary, features and examples."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from seesay.config import Config
from seesay.data.annotations import load_dataset
from seesay.data.batches import Example, make_examples
from seesay.data.records import Annotations
from seesay.data.validation.inspection import is_readable
from seesay.data.validation.statistics import level_advice
from seesay.data.validation.trainability import require_trainable
from seesay.errors import DataError
from seesay.features import JoinedStores
from seesay.features.extraction import Progress
from seesay.models.encoders import Encoder
from seesay.tokenizer import Tokenizer
from seesay.training.stores import open_sources

log = logging.getLogger("seesay")


@dataclass(frozen=True)
class TrainingData:
    """The data that runs with the same data set and encoder share, whatever their vocabulary and network.

    Attributes:
        annotations: the captions.
        encoder: None if the user passed feature stores.
        store: the features; None if the encoder is in the loop.
        data: path or name of the data set.
        mirrored: features of mirrored training images, if any.
    """

    annotations: Annotations
    encoder: Encoder | None
    store: JoinedStores | None
    data: str
    mirrored: JoinedStores | None = None


@dataclass(frozen=True)
class Inputs:
    """Examples of both splits and the source of their features."""

    train: list[Example]
    val: list[Example]
    annotations: Annotations
    store: JoinedStores | None
    encoder: Encoder | None
    mirrored: JoinedStores | None = None


@dataclass(frozen=True)
class LazyInputs:
    """Loads the inputs of training in two steps: a finished run needs the captions only.

    Attributes:
        annotations: returns the captions.
        training_data: returns the result of `open_training_data` for them.
    """

    annotations: Callable[[], Annotations]
    training_data: Callable[[Annotations], TrainingData]


def read_captions(config: Config, data: str | Path) -> Annotations:
    """Return the captions to train on, and log their problems.

    Args:
        config: the configuration.
        data: any data set that `load_annotations` reads.

    Raises:
        SeesayError: invalid data.
    """
    annotations = load_dataset(data, config.data)
    for problem in annotations.problems:
        log.warning("%s", problem)
    captions = [caption for item in annotations.split("train") for caption in item.captions]
    if advice := level_advice(captions, config.text):
        log.warning("%s", advice)
    return annotations


def describe_captions(annotations: Annotations) -> dict[str, str]:
    """Return the size and a digest of the ids and captions of both splits; a run detects changed data by them."""
    described = {}
    for split in ("train", "val"):
        items = annotations.split(split)
        rows = json.dumps([(item.id, item.captions) for item in items], ensure_ascii=False)
        digest = hashlib.sha256(rows.encode(errors="surrogatepass")).hexdigest()[:8]
        captions = sum(len(item.captions) for item in items)
        described[split] = f"{len(items)} images, {captions} captions, digest {digest}"
    return described


def open_training_data(
    config: Config,
    annotations: Annotations,
    data: str | Path,
    features: str | Path,
    stores: Sequence[str | Path],
    progress: Progress | None,
) -> TrainingData:
    """Return the captions with their features or with the encoder in the loop; extract missing features.

    Args:
        config: the configuration.
        annotations: the captions.
        data: path or name of the data set.
        features: folder of feature stores; missing stores of this data and encoder are extracted.
        stores: feature stores to use instead, concatenated along F; may include stores of mirrored images.
        progress: called with the number of images encoded.

    Raises:
        SeesayError: unsuitable data, an encoder that is not available, or a store of another encoder.
    """
    require_trainable(annotations, config.text, (lambda image: True) if stores else is_readable)
    sources = open_sources(config, annotations, data, features, stores, progress)
    return TrainingData(annotations, sources.encoder, sources.plain, str(data), sources.mirrored)


def build_tokenizer(annotations: Annotations, config: Config) -> Tokenizer:
    """Return the tokenizer of the training captions.

    Raises:
        DataError: there are none.
    """
    captions = [caption for item in annotations.split("train") for caption in item.captions]
    tokenizer = Tokenizer.build(captions, config.text)
    log.info(
        "vocabulary of %d words; %.2f %% of the words of training captions are outside it",
        len(tokenizer),
        100 * tokenizer.oov_rate(captions),
    )
    return tokenizer


def count_words(examples: Sequence[Example], vocabulary_size: int) -> torch.Tensor:
    """Return how often each token, end included, is a target in the examples, (V,) int64."""
    words = [word for example in examples for caption in example.tokens for word in caption[1:]]
    return torch.bincount(torch.tensor(words, dtype=torch.int64), minlength=vocabulary_size)


def make_inputs(training_data: TrainingData, tokenizer: Tokenizer) -> Inputs:
    """Return the examples of both splits; skip images without features with a warning.

    Raises:
        DataError: a split has no usable image.
    """
    annotations, store = training_data.annotations, training_data.store
    examples = {}
    for split in ("train", "val"):
        annotated = annotations.split(split)
        items = [item for item in annotated if store is None or item.id in store]
        if len(items) < len(annotated):
            log.warning("skipped %d %s images without features", len(annotated) - len(items), split)
        examples[split] = make_examples(items, tokenizer.encode)
        if not examples[split]:
            raise DataError(f"{annotations.source} has no {split} image with features and a caption of words")
    train, mirrored = examples["train"], training_data.mirrored
    if mirrored is not None:
        train = [replace(example, flippable=example.flippable and example.id in mirrored) for example in train]
    return Inputs(train, examples["val"], annotations, store, training_data.encoder, mirrored)
