"""What a training reads: its vocabulary, its features and its examples."""

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
from seesay.data.caption_statistics import level_advice
from seesay.data.inspection import is_readable
from seesay.data.records import Annotations
from seesay.data.trainability import require_trainable
from seesay.errors import DataError
from seesay.features import JoinedStores
from seesay.features.extraction import Progress
from seesay.models.encoders import Encoder
from seesay.tokenizer import Tokenizer
from seesay.training.stores import open_sources

log = logging.getLogger("seesay")


@dataclass(frozen=True)
class TrainingData:
    """What trainings on the same data with the same encoder share, whatever their words and network are.

    Attributes:
        annotations: the captions.
        encoder: None where given stores stand for it.
        store: the features; None if the encoder is in the loop.
        data: the data set, as it was named.
        mirrored: features of mirrored training images, where there are any.
    """

    annotations: Annotations
    encoder: Encoder | None
    store: JoinedStores | None
    data: str
    mirrored: JoinedStores | None = None


@dataclass(frozen=True)
class Inputs:
    """What training reads: examples of both splits and where their features come from."""

    train: list[Example]
    val: list[Example]
    annotations: Annotations
    store: JoinedStores | None
    encoder: Encoder | None
    mirrored: JoinedStores | None = None


@dataclass(frozen=True)
class LazyInputs:
    """What a training reads, in two steps: a run that is finished needs the captions only.

    Attributes:
        annotations: returns the captions.
        material: returns what `open_training_data` returns for them.
    """

    annotations: Callable[[], Annotations]
    material: Callable[[Annotations], TrainingData]


def read_captions(config: Config, data: str | Path) -> Annotations:
    """Returns the captions to train on; what is wrong with them is logged.

    Args:
        config: the whole configuration.
        data: anything `load_annotations` reads.

    Raises:
        SeesayError: bad data.
    """
    annotations = load_dataset(data, config.data)
    for problem in annotations.problems:
        log.warning("%s", problem)
    captions = [caption for item in annotations.split("train") for caption in item.captions]
    if advice := level_advice(captions, config.text):
        log.warning("%s", advice)
    return annotations


def describe_captions(annotations: Annotations) -> dict[str, str]:
    """Returns the size and a digest of the ids and captions of both splits, in order, by which runs notice a change."""
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
    """Returns the captions with their features, or with the encoder in the loop; encodes images without features.

    Args:
        config: the whole configuration.
        annotations: the captions.
        data: the data set, as it was named.
        features: folder of feature stores; those for this data and encoder are made if they are absent.
        stores: given stores to use instead, joined along F, those of mirrored images among them.
        progress: told of images encoded, if any have to be.

    Raises:
        SeesayError: data that cannot be trained on, an encoder that cannot be had, a store of another encoder.
    """
    require_trainable(annotations, config.text, (lambda image: True) if stores else is_readable)
    sources = open_sources(config, annotations, data, features, stores, progress)
    return TrainingData(annotations, sources.encoder, sources.plain, str(data), sources.mirrored)


def build_tokenizer(annotations: Annotations, config: Config) -> Tokenizer:
    """Returns the vocabulary of the training captions.

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
    """Returns how often each word, the end token too, is to be predicted in the examples, (V,) int64."""
    words = [word for example in examples for caption in example.tokens for word in caption[1:]]
    return torch.bincount(torch.tensor(words, dtype=torch.int64), minlength=vocabulary_size)


def make_inputs(material: TrainingData, tokenizer: Tokenizer) -> Inputs:
    """Returns the examples of both splits; images without features are left out, with a warning.

    Raises:
        DataError: a split has no usable image.
    """
    annotations, store = material.annotations, material.store
    examples = {}
    for split in ("train", "val"):
        annotated = annotations.split(split)
        items = [item for item in annotated if store is None or item.id in store]
        if len(items) < len(annotated):
            log.warning("%d %s images have no features and are left out", len(annotated) - len(items), split)
        examples[split] = make_examples(items, tokenizer.encode)
        if not examples[split]:
            raise DataError(f"{annotations.source} has no {split} image with features and a caption of words")
    train, mirrored = examples["train"], material.mirrored
    if mirrored is not None:
        train = [replace(example, flippable=example.flippable and example.id in mirrored) for example in train]
    return Inputs(train, examples["val"], annotations, store, material.encoder, mirrored)
