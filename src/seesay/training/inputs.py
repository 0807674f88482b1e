"""What a training reads: its vocabulary, its features and its examples."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from seesay.config import Config
from seesay.data.annotations import load_dataset
from seesay.data.batches import Example, make_examples
from seesay.data.records import Annotations
from seesay.devices import choose_device
from seesay.errors import DataError
from seesay.features import FeatureStore, JoinedStores, extract_features, store_path
from seesay.features.extraction import Progress
from seesay.models.encoders import Encoder, build_encoder
from seesay.tokenizer import Tokenizer

log = logging.getLogger("seesay")


@dataclass(frozen=True)
class Material:
    """What trainings on the same data with the same encoder share, whatever their words and network are.

    Attributes:
        annotations: the captions.
        encoder: None where given stores stand for it.
        store: the features; None if the encoder is in the loop.
        data: the data set, as it was named.
    """

    annotations: Annotations
    encoder: Encoder | None
    store: JoinedStores | None
    data: str


@dataclass(frozen=True)
class Inputs:
    """What training reads: examples of both splits and where their features come from."""

    train: list[Example]
    val: list[Example]
    annotations: Annotations
    store: JoinedStores | None
    encoder: Encoder | None


def open_material(
    config: Config,
    data: str | Path,
    features: str | Path,
    stores: Sequence[str | Path],
    progress: Progress | None,
) -> Material:
    """Returns the captions, and the features or the encoder in the loop; pictures are encoded where it is due.

    Args:
        config: the whole configuration.
        data: anything `load_annotations` reads.
        features: folder of feature stores; the one for this data and encoder is made if it is absent.
        stores: given stores to use instead, joined along F.
        progress: told of pictures encoded, if any have to be.

    Raises:
        SeesayError: bad data, no captions to train on, an encoder that cannot be had, a store of another encoder.
    """
    annotations = load_dataset(data, config.data)
    for problem in annotations.problems:
        log.warning("%s", problem)
    _training_captions(annotations)  # refuses here what has none: before pictures are encoded for hours
    encoder, store = prepare_features(config, annotations, data, features, stores, progress)
    return Material(annotations, encoder, store, str(data))


def build_tokenizer(annotations: Annotations, config: Config) -> Tokenizer:
    """Returns the vocabulary of the training captions.

    Raises:
        DataError: there are none.
    """
    captions = _training_captions(annotations)
    tokenizer = Tokenizer.build(captions, config.text)
    log.info(
        "vocabulary of %d words; %.2f %% of the words of training captions are outside it",
        len(tokenizer),
        100 * tokenizer.oov_rate(captions),
    )
    return tokenizer


def _training_captions(annotations: Annotations) -> list[str]:
    captions = [caption for item in annotations.split("train") for caption in item.captions]
    if not captions:
        raise DataError(f"{annotations.source} has no training captions")
    return captions


def count_words(examples: Sequence[Example], vocabulary_size: int) -> torch.Tensor:
    """Returns how often each word, the end token too, is to be predicted in the examples, (V,) int64."""
    words = [word for example in examples for caption in example.tokens for word in caption[1:]]
    return torch.bincount(torch.tensor(words, dtype=torch.int64), minlength=vocabulary_size)


def prepare_features(
    config: Config,
    annotations: Annotations,
    data: str | Path,
    folder: str | Path,
    given: Sequence[str | Path],
    progress: Progress | None,
) -> tuple[Encoder | None, JoinedStores | None]:
    """Returns the encoder (None where given stores stand for it) and the stores (None if it is in the loop)."""
    torch.manual_seed(config.training.seed)  # for the weights of encoders that start from nothing
    if given:
        return _given_stores(config, [Path(path) for path in given])
    encoder = build_encoder(config.encoder)
    if config.encoder.encoder_training != "cached":
        encoder.requires_grad_(config.encoder.encoder_training == "full")
        return encoder, None
    used = [item for split in ("train", "val", "test") for item in annotations.split(split)]
    path = store_path(folder, data, encoder)
    report = extract_features(
        {item.id: item.image for item in used},
        encoder,
        path,
        device=choose_device(config.training.device),
        progress=progress,
    )
    if report.extracted:
        log.info(
            "%d pictures encoded into %s: %.0f pictures/s (%.0f of the encoder alone)",
            report.extracted,
            path,
            report.rate,
            report.encoder_rate,
        )
    for line in report.unreadable:
        log.warning("left out: %s", line)
    return encoder, JoinedStores([FeatureStore(path)])


def _given_stores(config: Config, paths: Sequence[Path]) -> tuple[Encoder | None, JoinedStores]:
    """Opens stores named by the user; a single one made by an encoder must be the configuration's."""
    stores = JoinedStores([FeatureStore(path) for path in paths])
    if len(paths) > 1 or "encoder" not in stores.identity:
        return None, stores
    encoder = build_encoder(config.encoder)
    stores.stores[0].require(encoder.identity)
    return encoder, stores


def make_inputs(material: Material, tokenizer: Tokenizer) -> Inputs:
    """Returns the examples of both splits; pictures without features are left out, with a warning.

    Raises:
        DataError: a split has no usable picture.
    """
    annotations, store = material.annotations, material.store
    examples = {}
    for split in ("train", "val"):
        annotated = annotations.split(split)
        items = [item for item in annotated if store is None or item.id in store]
        if len(items) < len(annotated):
            log.warning("%d %s pictures have no features and are left out", len(annotated) - len(items), split)
        examples[split] = make_examples(items, tokenizer.encode)
        if not examples[split]:
            raise DataError(
                f"{annotations.source} has no usable {split} picture; it has the splits "
                f"{', '.join(annotations.splits) or 'none'}"
            )
    return Inputs(examples["train"], examples["val"], annotations, store, material.encoder)
