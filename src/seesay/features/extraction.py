"""Pictures through an encoder into a store: decoding in threads, the network on the device, resumable."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seesay.errors import EncoderError, ImageError
from seesay.features.creation import existing_store, fill_store
from seesay.features.layout import FeatureDtype
from seesay.features.mirrored import mirrored_identity
from seesay.features.store import FeatureStore
from seesay.images import load_pixels
from seesay.models.encoders import Encoder
from seesay.models.products import fix_weights
from seesay.prefetch import prefetch

Progress = Callable[[int, int], None]
"""Called with pictures done and pictures in all."""
_Loaded = tuple[int, NDArray[np.uint8] | None, str]
"""A picture's row, its pixels, and what was wrong with it."""


@dataclass(frozen=True)
class ExtractionReport:
    """What an extraction did.

    Attributes:
        path: the store.
        images: pictures in the store with features.
        extracted: pictures this call encoded.
        unreadable: one line a picture that could not be read.
        seconds: wall time of this call.
        encoder_seconds: part of it spent inside the network.
    """

    path: Path
    images: int
    extracted: int
    unreadable: tuple[str, ...] = ()
    seconds: float = 0.0
    encoder_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Pictures a second from files to the store."""
        return self.extracted / self.seconds if self.seconds else 0.0

    @property
    def encoder_rate(self) -> float:
        """Pictures a second of the network alone."""
        return self.extracted / self.encoder_seconds if self.encoder_seconds else 0.0


def store_path(folder: str | Path, data: str | Path, encoder: Encoder, *, mirrored: bool = False) -> Path:
    """Returns where the features of a data set by an encoder are kept: a name no other encoder gets.

    Args:
        folder: of feature stores.
        data: the data set.
        encoder: what makes the features; its `config.feature_dtype` is part of the name.
        mirrored: of the pictures mirrored, whose store has another name too.
    """
    recipe = json.dumps(_identity(encoder, mirrored), sort_keys=True)
    key = hashlib.sha256(f"{Path(data).resolve()}\n{recipe}".encode()).hexdigest()[:10]
    name = encoder.config.encoder.replace("/", "_")
    kind = "-mirrored" if mirrored else ""
    stem = f"{Path(data).resolve().stem}-{name}-{encoder.preprocessing.size}{kind}-{key}"
    return Path(folder) / store_name(stem, encoder.config.feature_dtype)


def store_name(stem: str, dtype: FeatureDtype) -> str:
    """Returns the file name of a store; one in 8 bits is told by it."""
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
    """Fills the store at `path` with the features of every picture it does not hold yet.

    A new store is made if there is none; one that lacks some of the pictures grows. A picture that cannot be
    read is noted and the work goes on; the next call tries it again.

    Args:
        sources: picture ids and where their pictures are.
        encoder: the network, in evaluation mode; its configuration says how the features are kept.
        path: the store's file.
        batch_size: pictures the network sees at once.
        device: where the network runs.
        workers: threads that open pictures.
        progress: told of the pictures done.
        mirrored: show the network the pictures mirrored, left to right; the store is marked as one of these.

    Raises:
        FeatureStoreError: the store was made by another encoder or of pictures turned otherwise, keeps features in
            another form, is damaged, or the disk is full.
    """
    started = time.perf_counter()
    identity, dtype = _identity(encoder, mirrored), encoder.config.feature_dtype
    there = existing_store(path, identity, dtype)
    if there is not None and all(image_id in there for image_id in sources):  # nobody waits, and nothing is written
        return ExtractionReport(path, len(sources), 0, seconds=time.perf_counter() - started)
    ids, grid = list(sources), encoder.grid
    with fill_store(path, ids, grid[0] * grid[1], encoder.feature_size, grid, identity, dtype) as store:
        todo = [row for row in store.pending() if store.ids[row] in sources]
        encoder.to(device).eval()
        if todo:
            fix_weights(encoder)
        jobs = [(row, sources[store.ids[row]]) for row in todo]
        loaded = prefetch(partial(_load, encoder=encoder, mirrored=mirrored), jobs, workers, ahead=4 * batch_size)
        encoder_seconds, extracted, unreadable = 0.0, 0, list[str]()
        # A batch is what lacks of a block of rows whose place is fixed: a picture's last bits depend on the batch
        # it is encoded in, and a broken extraction must come out as an unbroken one.
        for _, block in groupby(todo, lambda row: row // batch_size):
            batch = list(islice(loaded, len(list(block))))
            encoder_seconds += _fill(store, batch, encoder, device)
            unreadable += [error for _, _, error in batch if error]
            extracted += sum(not error for _, _, error in batch)
            if progress:
                progress(len(sources) - len(todo) + extracted + len(unreadable), len(sources))
        images = sum(image_id in store for image_id in sources)
    return ExtractionReport(path, images, extracted, tuple(unreadable), time.perf_counter() - started, encoder_seconds)


def _fill(store: FeatureStore, batch: Sequence[_Loaded], encoder: Encoder, device: str) -> float:
    """Writes the features of pictures that could be read, marks the others, and returns the encoder's seconds."""
    for row, pixels, _ in batch:
        if pixels is None:
            store.mark_unreadable(row)
    readable = [(row, pixels) for row, pixels, _ in batch if pixels is not None]
    if not readable:
        return 0.0
    begun = time.perf_counter()
    features = _encode([pixels for _, pixels in readable], encoder, device)
    taken = time.perf_counter() - begun
    store.write([row for row, _ in readable], features)
    return taken


def _identity(encoder: Encoder, mirrored: bool) -> dict[str, Any]:
    return mirrored_identity(encoder.identity) if mirrored else encoder.identity


def _load(job: tuple[int, str], encoder: Encoder, mirrored: bool) -> _Loaded:
    row, source = job
    try:
        pixels = load_pixels(source, encoder.preprocessing)
        return row, pixels[:, ::-1] if mirrored else pixels, ""
    except ImageError as error:
        return row, None, str(error)


@torch.inference_mode()
def _encode(pixels: Sequence[NDArray[np.uint8]], encoder: Encoder, device: str) -> NDArray[np.float16]:
    batch = torch.from_numpy(np.stack(pixels)).to(device)
    return round_features(encoder(batch)).cpu().numpy()


def round_features(features: torch.Tensor) -> torch.Tensor:
    """Returns features in the store's float16, so that use and training see the same numbers.

    Raises:
        EncoderError: a value is too large for float16, or not a number.
    """
    rounded = features.half()
    if not bool(torch.isfinite(rounded).all()):
        raise EncoderError("the encoder's features do not fit float16; choose another layer")
    return rounded
