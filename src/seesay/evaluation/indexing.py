"""The index of a run's training images, built from stored features or image files."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from seesay.captioners.trained import TrainedCaptioner
from seesay.checkpoint import trained_weights
from seesay.data.annotations import load_dataset
from seesay.data.records import Annotation
from seesay.errors import DataError, ImageError
from seesay.evaluation.captioning import feature_source
from seesay.features import JoinedStores
from seesay.features.extraction import Progress
from seesay.retrieval.index import NEAREST, IndexInfo, RetrievalIndex, nearness
from seesay.retrieval.space import Floats, pool
from seesay.tokenizer import Tokenizer
from seesay.training.inputs import describe_captions

log = logging.getLogger("seesay")

UNLIKE = 0.05
"""Share of the validation images that count as unlike the training images."""
_BATCH = 64

ReadPooled = Callable[[Sequence[Annotation]], tuple[list[Annotation], Floats]]


def build_index(
    captioner: TrainedCaptioner,
    data: str | Path,
    *,
    features: str | Path = "features",
    stores: Sequence[str | Path] = (),
    progress: Progress | None = None,
) -> RetrievalIndex:
    """Return the index of the training images of a run, which is not written.

    Args:
        captioner: the run.
        data: the data set that the run was trained on.
        features: folder of feature stores; missing images are added to the store of the encoder and data.
        stores: imported feature stores to use instead.
        progress: called with the number of encoded images, if any are encoded.

    Raises:
        DataError: these are not the captions that the run was trained on, or no image can be read.
    """
    run = captioner.run
    annotations = load_dataset(data, run.config.data)
    digests = describe_captions(annotations)
    if (before := run.info.captions.get("train", digests["train"])) != digests["train"]:
        raise DataError(
            f"{run.folder} was trained on other captions than those of {data} ({before} then, {digests['train']} "
            "here); pass the data set of its training"
        )
    training, validation = annotations.split("train").items, annotations.split("val").items
    source = feature_source(captioner, [*training, *validation], data, features, stores, progress)
    info = IndexInfo(run.info.features, trained_weights(run))
    read = pooled_reader(captioner, source)
    return calibrate(index_images(training, read, run.tokenizer, info), *read(validation))


def index_images(
    training: Sequence[Annotation], read: ReadPooled, tokenizer: Tokenizer, info: IndexInfo
) -> RetrievalIndex:
    """Return the index of images.

    Args:
        training: the images.
        read: returns the readable ones of some images with their pooled features.
        tokenizer: of the captions.
        info: what is known about the features.

    Raises:
        DataError: no image can be read.
    """
    items, pooled = read(training)
    if not items:
        raise DataError("no training image has features; an index needs at least one")
    captions = [[tokenizer.encode(caption)[1:-1] for caption in item.captions] for item in items]
    return RetrievalIndex.build([(item.id, item.image) for item in items], pooled, captions, info)


def pooled_reader(captioner: TrainedCaptioner, source: JoinedStores | None) -> ReadPooled:
    """Return a function that reads pooled features, from stores or by the captioner's encoder."""
    return stored_reader(source) if source is not None else lambda items: _encode(captioner, items)


def stored_reader(source: JoinedStores) -> ReadPooled:
    """Return a function that returns the images in the stores, and their pooled features (I, F)."""

    def read(items: Sequence[Annotation]) -> tuple[list[Annotation], Floats]:
        found = [item for item in items if item.id in source]
        parts = [
            pool(*source.read([item.id for item in found[at : at + _BATCH]])) for at in range(0, len(found), _BATCH)
        ]
        return found, np.concatenate(parts) if parts else np.zeros((0, source.feature_size), np.float32)

    return read


def calibrate(index: RetrievalIndex, items: Sequence[Annotation], pooled: Floats) -> RetrievalIndex:
    """Return an index with the similarity that all but `UNLIKE` of some held-out images reach.

    Args:
        index: the index.
        items: the images.
        pooled: their pooled features, (I, F).
    """
    if not len(items):
        log.warning("there are no validation images to calibrate the similarity; no image counts as unlike")
        return index
    query = index.query(pooled, [item.id for item in items])
    threshold = float(np.quantile(nearness(query, index.search(query, NEAREST)), UNLIKE))
    words = f"{100 * UNLIKE:g} % of {len(items)} validation images are below"
    return index.with_similarity(threshold, words)


def _encode(captioner: TrainedCaptioner, items: Sequence[Annotation]) -> tuple[list[Annotation], Floats]:
    """Return the readable images with their pooled features (I, F)."""
    found: list[Annotation] = []
    parts = []
    for at in range(0, len(items), _BATCH):
        inputs = []
        for item in items[at : at + _BATCH]:
            try:
                inputs.append(captioner.load_inputs(item.image))
            except ImageError as error:
                log.warning("%s", error)
            else:
                found.append(item)
        if inputs:
            parts.append(captioner.pooled_features(inputs))
    return found, np.concatenate(parts) if parts else np.zeros((0, captioner.run.info.feature_size), np.float32)
