"""Evaluation of captions without a model: the consensus caption of the most similar training images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seesay.config import EncoderConfig, TextConfig
from seesay.data.annotations import load_annotations
from seesay.data.readers.columns import USUAL_NAMES, ColumnNames
from seesay.data.records import Annotation
from seesay.devices import choose_device
from seesay.errors import DataError
from seesay.evaluation.eval_split import read_eval_split
from seesay.evaluation.evaluators import evaluate_captions
from seesay.evaluation.result import Evaluation
from seesay.features import FeatureStore, JoinedStores, extract_features, split_stores, store_path
from seesay.features.extraction import Progress
from seesay.metrics.tokenize import DEFAULT_TOKENIZATION
from seesay.models.encoders import build_encoder
from seesay.retrieval.building import index_images, stored_reader
from seesay.retrieval.index import DEFAULT_RERANK, IndexInfo
from seesay.retrieval.knn import consensus_captions
from seesay.tokenizer import Tokenizer

_BATCH = 64


def evaluate_knn(
    data: str | Path,
    encoder: EncoderConfig,
    *,
    neighbours: int = DEFAULT_RERANK.neighbours,
    split: str | None = None,
    columns: ColumnNames = USUAL_NAMES,
    features: str | Path = "features",
    stores: Sequence[str | Path] = (),
    device: str = "auto",
    progress: Progress | None = None,
    tokenization: str | None = None,
    **scoring: Any,
) -> Evaluation:
    """Return the evaluation of the consensus captions of the most similar training images.

    Args:
        data: anything `load_annotations` reads, with a training split.
        encoder: the encoder whose pooled features are compared.
        neighbours: number of training images per image.
        split: see `read_eval_split`.
        columns: table columns to use instead of the common names.
        features: folder of feature stores; missing images are added to the store of the encoder and data.
        stores: feature stores to use instead of the encoder.
        device: device of the encoder.
        progress: called with the number of encoded images, if any are encoded.
        tokenization: ptb, whitespace or characters; None: ptb.
        scoring: `metrics`, `clip_model` and `draws` of `evaluate_captions`.

    Raises:
        DataError: there are no training images.
        EncoderError: the encoder's weights are not available.
    """
    eval_split = read_eval_split(data, split, columns=columns)
    training = load_annotations(data, columns=columns).split("train").items
    if not training:
        raise DataError(f"{data} has no training images to retrieve; knn needs a training split")
    items = list(eval_split.items)
    source = _open(data, encoder, [*training, *items], features, stores, device, progress)
    tokenizer = Tokenizer.build((caption for item in training for caption in item.captions), TextConfig())
    read = stored_reader(source)
    known, pooled = read(training)
    index = index_images(known, lambda _: (known, pooled), tokenizer, IndexInfo(source.identity))
    texts = [caption for item in known for caption in item.captions]
    found, pooled = read(items)
    predictions: dict[str, str] = {}
    for at in range(0, len(found), _BATCH):
        names = [item.id for item in found[at : at + _BATCH]]
        places = consensus_captions(index, index.query(pooled[at : at + _BATCH], names), neighbours)
        predictions |= {name: texts[place] if place >= 0 else "" for name, place in zip(names, places, strict=True)}
    return evaluate_captions(
        found,
        predictions,
        system=f"knn, {neighbours} neighbours",
        origin=f"knn({neighbours})",
        tokenization=tokenization or DEFAULT_TOKENIZATION,
        split=eval_split.split,
        training=eval_split.training,
        unscored=[*eval_split.uncaptioned, *(item.id for item in items if item.id not in predictions)],
        problems=eval_split.problems,
        **scoring,
    )


def _open(
    data: str | Path,
    config: EncoderConfig,
    items: Sequence[Annotation],
    folder: str | Path,
    stores: Sequence[str | Path],
    device: str,
    progress: Progress | None,
) -> JoinedStores:
    """Return the features of images, after extracting missing ones."""
    if stores:
        plain, _ = split_stores([FeatureStore(path) for path in stores])
        return JoinedStores(plain)
    encoder = build_encoder(config.replace(pool="pooled", encoder_training="cached"))
    path = store_path(folder, data, encoder)
    images = {item.id: item.image for item in items}
    extract_features(images, encoder, path, device=choose_device(device), progress=progress)
    return JoinedStores([FeatureStore(path)])
