"""Extraction of features into a store: images are loaded in threads and encoded on the device; resumable."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from seesay.errors import EncoderError, ImageError
from seesay.features.creation import existing_store, fill_store
from seesay.features.layout import FeatureDtype
from seesay.features.mirrored import mirrored_identity
from seesay.features.pooled import fill_pooled
from seesay.features.stamps import Stamp, changed_images, stamped
from seesay.features.store import FeatureStore
from seesay.files import text_bytes
from seesay.images.loading import load_pixels
from seesay.images.prefetch import prefetch
from seesay.models.encoders import Encoder
from seesay.models.products import prepack_weights

log = logging.getLogger("seesay")

Progress = Callable[[int, int], None]
"""Called with the number of images done and the total."""


class _Loaded(NamedTuple):
    """A loaded image, or the reason why it cannot be read."""

    row: int
    pixels: NDArray[np.uint8] | None
    stamp: Stamp | None
    error: str = ""


@dataclass(frozen=True)
class ExtractionReport:
    """Result of an extraction.

    Attributes:
        path: the store.
        images: number of requested images with features in the store.
        extracted: number of images that this call encoded.
        unreadable: one line per image that cannot be read.
        seconds: wall time of this call.
        encoder_seconds: time of the encoder within it.
        pooled: number of images whose features were averaged from a store of their grids.
        changed: number of images whose content had changed, and whose features were replaced.
    """

    path: Path
    images: int
    extracted: int
    unreadable: tuple[str, ...] = ()
    seconds: float = 0.0
    encoder_seconds: float = 0.0
    pooled: int = 0
    changed: int = 0

    @property
    def rate(self) -> float:
        """Images per second from files to the store."""
        return self.extracted / self.seconds if self.seconds else 0.0

    @property
    def encoder_rate(self) -> float:
        """Images per second of the encoder alone."""
        return self.extracted / self.encoder_seconds if self.encoder_seconds else 0.0


def store_path(folder: str | Path, data: str | Path, encoder: Encoder, *, mirrored: bool = False) -> Path:
    """Return the path of the store of a data set's features; it is unique to the encoder and its settings.

    Args:
        folder: folder of feature stores.
        data: the data set.
        encoder: the encoder; its `config.feature_dtype` is part of the name.
        mirrored: the store is of mirrored images.
    """
    recipe = json.dumps(_identity(encoder, mirrored), sort_keys=True)
    key = hashlib.sha256(text_bytes(f"{Path(data).resolve()}\n{recipe}")).hexdigest()[:10]
    name = encoder.config.encoder.replace("/", "_")
    kind = "-mirrored" if mirrored else ""
    stem = f"{Path(data).resolve().stem}-{name}-{encoder.preprocessing.size}{kind}-{key}"
    return Path(folder) / store_name(stem, encoder.config.feature_dtype)


def store_name(stem: str, dtype: FeatureDtype) -> str:
    """Return the file name of a store; it shows whether the dtype is int8."""
    return f"{stem}-int8.safetensors" if dtype == "int8" else f"{stem}.safetensors"


def extract_features(
    sources: Mapping[str, str],
    encoder: Encoder,
    path: Path,
    *,
    batch_size: int = 32,
    device: str = "cpu",
    workers: int = 2,
    progress: Progress | None = None,
    mirrored: bool = False,
) -> ExtractionReport:
    """Extract the features of all images that are not in the store at `path` or have changed.

    The store is created or extended. Images that cannot be read are reported, and retried by the next call. Pooled
    features and smaller grids are averaged from a store of the same encoder's grids, if the folder has one.

    Args:
        sources: image paths by id.
        encoder: the encoder; its configuration has the dtype of the features.
        path: file of the store.
        batch_size: images per batch of the encoder.
        device: device of the encoder.
        workers: number of threads that load images.
        progress: called with the number of images done and the total.
        mirrored: encode horizontally mirrored images; the store is marked accordingly.

    Raises:
        FeatureStoreError: the store is of another encoder or dtype, or of images with the other orientation; it is
            damaged, or the disk is full.
    """
    started = time.perf_counter()
    identity, dtype = _identity(encoder, mirrored), encoder.config.feature_dtype
    there = existing_store(path, identity, dtype)
    changed = set(changed_images(there, sources)) if there is not None else set[str]()
    if changed:
        log.info(
            "%d images have changed since %s was created, such as %s; encoding them again",
            len(changed),
            path,
            sources[min(changed)],
        )
    elif there is not None and all(image_id in there for image_id in sources):  # without waiting for other processes
        return ExtractionReport(path, len(sources), 0, seconds=time.perf_counter() - started)
    ids, grid = list(sources), encoder.grid
    with fill_store(path, ids, grid[0] * grid[1], encoder.feature_size, grid, identity, dtype) as store:
        todo = store.rows([image_id for image_id in sources if image_id in changed or image_id not in store])
        pooled = fill_pooled(store, {store.ids[row]: sources[store.ids[row]] for row in todo})
        todo = [row for row in todo if store.ids[row] not in pooled]
        encoder.to(device).eval()
        if todo:
            prepack_weights(encoder)
        jobs = [(row, sources[store.ids[row]]) for row in todo]
        loaded = prefetch(partial(_load, encoder=encoder, mirrored=mirrored), jobs, workers, ahead=4 * batch_size)
        encoder_seconds, extracted, unreadable = 0.0, 0, list[str]()
        # A batch contains the missing rows of a fixed block of rows: the rounding of an image's features depends on its
        # batch, and a resumed extraction must equal an uninterrupted one.
        for _, block in groupby(todo, lambda row: row // batch_size):
            batch = list(islice(loaded, len(list(block))))
            encoder_seconds += _fill(store, batch, encoder, device)
            unreadable += [each.error for each in batch if each.error]
            extracted += sum(not each.error for each in batch)
            if progress:
                progress(len(sources) - len(todo) + extracted + len(unreadable), len(sources))
        images = sum(image_id in store for image_id in sources)
    seconds = time.perf_counter() - started
    return ExtractionReport(
        path, images, extracted, tuple(unreadable), seconds, encoder_seconds, len(pooled), len(changed)
    )


def _fill(store: FeatureStore, batch: Sequence[_Loaded], encoder: Encoder, device: str) -> float:
    """Write the features of readable images, mark the others, and return the time of the encoder in seconds."""
    rows, pixels, stamps = [], [], []
    for loaded in batch:
        if loaded.pixels is None or loaded.stamp is None:
            store.mark_unreadable(loaded.row)
        else:
            rows.append(loaded.row)
            pixels.append(loaded.pixels)
            stamps.append(loaded.stamp)
    if not rows:
        return 0.0
    begun = time.perf_counter()
    features = _encode(pixels, encoder, device)
    taken = time.perf_counter() - begun
    store.write(rows, features, stamps=np.stack(stamps))
    return taken


def _identity(encoder: Encoder, mirrored: bool) -> dict[str, Any]:
    return mirrored_identity(encoder.identity) if mirrored else encoder.identity


def _load(job: tuple[int, str], encoder: Encoder, mirrored: bool) -> _Loaded:
    row, name = job
    try:
        stamp, source = stamped(name)
        pixels = load_pixels(source, encoder.preprocessing)
        return _Loaded(row, pixels[:, ::-1] if mirrored else pixels, stamp)
    except ImageError as error:
        return _Loaded(row, None, None, str(error))


@torch.inference_mode()
def _encode(pixels: Sequence[NDArray[np.uint8]], encoder: Encoder, device: str) -> NDArray[np.float16]:
    batch = torch.from_numpy(np.stack(pixels)).to(device)
    return round_features(encoder(batch)).cpu().numpy()


def round_features(features: torch.Tensor) -> torch.Tensor:
    """Return features in the store's float16, so that inference and training use the same values.

    Raises:
        EncoderError: a value exceeds the range of float16, or is not a number.
    """
    rounded = features.half()
    if not bool(torch.isfinite(rounded).all()):
        raise EncoderError("the encoder's features do not fit float16; choose another layer")
    return rounded
