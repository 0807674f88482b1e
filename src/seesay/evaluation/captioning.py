"""Captions of the images of a split by a run, from stored features or image files."""

from collections.abc import Sequence
from pathlib import Path

import torch

from seesay.captioners.base import Captioner
from seesay.captioners.caption import Caption
from seesay.captioners.trained import TrainedCaptioner
from seesay.config import DecodingOptions
from seesay.data.records import Annotation
from seesay.errors import DataError, ImageError
from seesay.features import FeatureStore, JoinedStores, extract_features, split_stores, store_path
from seesay.features.extraction import Progress
from seesay.features.stamps import require_unchanged

_BATCH = 64


def caption_split(
    captioner: Captioner,
    items: Sequence[Annotation],
    source: JoinedStores | None,
    options: DecodingOptions,
    *,
    attention: bool = False,
) -> tuple[dict[str, Caption], list[str]]:
    """Returns the captions by image id, from stored features or image files, and errors of unreadable images.

    Unusable captions are returned too, since they are scored.
    Only a trained captioner has stored features.
    """
    captions: dict[str, Caption] = {}
    problems = []
    if source is None or not isinstance(captioner, TrainedCaptioner):
        names = [item.image for item in items]
        found = captioner.caption_each(names, options, attention=attention, guard=False)
        for item, (_, caption) in zip(items, found, strict=True):
            if isinstance(caption, ImageError):
                problems.append(str(caption))
            else:
                captions[item.id] = caption
        return captions, problems
    for begin in range(0, len(items), _BATCH):
        ids = [item.id for item in items[begin : begin + _BATCH]]
        array, mask = source.read(ids)
        batch = captioner.caption_features(
            torch.from_numpy(array),
            None if mask is None else torch.from_numpy(mask),
            options,
            keys=ids,
            attention=attention,
        )
        captions.update(zip(ids, batch, strict=True))
    return captions, problems


def feature_source(
    captioner: TrainedCaptioner,
    items: Sequence[Annotation],
    data: str | Path,
    folder: str | Path,
    stores: Sequence[str | Path],
    progress: Progress | None,
) -> JoinedStores | None:
    """Returns the feature stores, or None if the run's own encoder encodes the images."""
    run, encoder = captioner.run, captioner.model.encoder
    if stores:
        # Stores of mirrored images, as passed to training, are ignored.
        plain, _ = split_stores([FeatureStore(path) for path in stores])
        joined = JoinedStores(plain)
        joined.require(run.info.features)
        require_unchanged(plain, {item.id: item.image for item in items})
        return joined
    if encoder is None:
        raise DataError(f"{run.folder} was trained on imported feature stores; pass them with --store")
    if run.config.encoder.encoder_training != "cached":
        return None
    path = store_path(folder, data, encoder)
    images = {item.id: item.image for item in items}
    extract_features(images, encoder, path, device=str(captioner.device), progress=progress)
    return JoinedStores([FeatureStore(path)])
