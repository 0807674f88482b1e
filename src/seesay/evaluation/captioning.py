"""Captions of the images of a split, from stored features or image files.

Captions from image files can be kept in a file while an evaluation is unfinished, so that it can resume:

    captions.jsonl                as written by `seesay caption --out`
    captions.jsonl.recipe.json    model, decoding options and prompt
    captions.errors.jsonl         images without a caption, if any
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

import torch

from seesay.bulk import Destination, caption_collection
from seesay.bulk.recipe import recipe_path
from seesay.bulk.rows import plain
from seesay.bulk.writers import read_captions
from seesay.captioners.base import Captioner
from seesay.captioners.caption import Caption
from seesay.captioners.trained import TrainedCaptioner
from seesay.config import DecodingOptions
from seesay.data.records import Annotation
from seesay.errors import DataError, ImageError
from seesay.features import FeatureStore, JoinedStores, extract_features, split_stores, store_path
from seesay.features.extraction import Progress
from seesay.features.stamps import require_unchanged

CAPTIONS_FILE = "captions.jsonl"

_BATCH = 64


def caption_split(
    captioner: Captioner,
    items: Sequence[Annotation],
    source: JoinedStores | None,
    options: DecodingOptions,
    *,
    attention: bool = False,
    progress: Progress | None = None,
) -> tuple[dict[str, Caption], list[str]]:
    """Returns the captions by image id, from stored features or image files, and errors of unreadable images.

    Unusable captions are returned too, since they are scored. Only a trained captioner has stored features; `progress`
    is called for image files only.
    """
    captions: dict[str, Caption] = {}
    problems = []
    if source is None or not isinstance(captioner, TrainedCaptioner):
        names = [item.image for item in items]
        found = captioner.caption_each(names, options, attention=attention, guard=False)
        for number, (item, (_, caption)) in enumerate(zip(items, found, strict=True), 1):
            if isinstance(caption, ImageError):
                problems.append(str(caption))
            else:
                captions[item.id] = caption
            if progress:
                progress(number, len(items))
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


def caption_images(
    captioner: Captioner,
    items: Sequence[Annotation],
    path: Path,
    options: DecodingOptions,
    progress: Progress | None = None,
) -> tuple[dict[str, Caption], list[str]]:
    """Returns the captions by image id, from image files, and errors of images without a caption.

    Captions are appended to a file batch by batch; images with a caption in it are not captioned again. Unusable
    captions are returned too, since they are scored.

    Args:
        captioner: the model.
        items: the images.
        path: the file, whose name ends in .jsonl; `discard_captions` deletes it.
        options: decoding options.
        progress: called with the numbers of finished images and of all images.

    Raises:
        DataError: the file has captions of another model, with other options or another prompt; or another process is
            writing to it.
    """
    images = list(dict.fromkeys(item.image for item in items))
    problems: list[str] = []
    destination = Destination(path, strict=True)
    caption_collection(
        captioner, images, destination, options, guard=False, progress=progress, print_error=problems.append
    )
    found = dict(read_captions(path))
    captions = {item.id: found.get(plain(item.image)) for item in items}
    return {image_id: caption for image_id, caption in captions.items() if caption is not None}, problems


def discard_captions(path: Path) -> None:
    """Delete the file of `caption_images`, unless images without a caption are listed: these can be tried again."""
    failures = Destination(path).failures
    if failures is not None and failures.exists():
        return
    for each in (recipe_path(path), path):
        each.unlink(missing_ok=True)


def reads_stored_features(captioner: Captioner) -> TypeGuard[TrainedCaptioner]:
    """Returns whether a captioner captions from stored features: a run whose encoder was not trained."""
    return type(captioner) is TrainedCaptioner and captioner.run.config.encoder.encoder_training == "cached"


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
