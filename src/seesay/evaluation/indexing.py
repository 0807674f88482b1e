"""The index of a run's training images, built from stored features or image files."""

import logging
from collections.abc import Sequence
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
from seesay.retrieval.building import ReadPooled, calibrate, index_images, stored_reader
from seesay.retrieval.index import IndexInfo, RetrievalIndex
from seesay.retrieval.space import Floats
from seesay.training.inputs import describe_captions

log = logging.getLogger("seesay")

_BATCH = 64


def build_index(
    captioner: TrainedCaptioner,
    data: str | Path,
    *,
    features: str | Path = "features",
    stores: Sequence[str | Path] = (),
    progress: Progress | None = None,
) -> RetrievalIndex:
    """Return the index of the training images of a run, which is not written.

    A run with `model.retrieve` keeps the index that it was trained with.

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
    if run.config.model.retrieve and captioner.retrieval is not None:
        return captioner.retrieval
    training, validation = annotations.split("train").items, annotations.split("val").items
    source = feature_source(captioner, [*training, *validation], data, features, stores, progress)
    info = IndexInfo(run.info.features, trained_weights(run))
    read = pooled_reader(captioner, source)
    return calibrate(index_images(training, read, run.tokenizer, info), *read(validation))


def pooled_reader(captioner: TrainedCaptioner, source: JoinedStores | None) -> ReadPooled:
    """Return a function that reads pooled features, from stores or by the captioner's encoder."""
    return stored_reader(source) if source is not None else lambda items: _encode(captioner, items)


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
