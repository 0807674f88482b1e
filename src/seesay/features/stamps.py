"""Stamps: records of the image files in a feature store, to detect changed images.

A stamp has 32 bytes. The first half is a digest of the file's state (inode, size, modification and change time), which
is cheap; the second half is a digest of its content. A file with the same state is unchanged. If the state differs,
the content is compared, so that a copied or touched file is not encoded again. A stamp of zeros is no record.
"""

import hashlib
import io
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import IO

import numpy as np
from numpy.typing import NDArray

from seesay.errors import FeatureStoreError, ImageError
from seesay.features.layout import STAMP_BYTES
from seesay.features.store import FeatureStore
from seesay.files import text_bytes
from seesay.images.prefetch import prefetch, usable_cores
from seesay.images.sources import ImageBytes, Source, open_source, source_state

log = logging.getLogger("seesay")

Stamp = NDArray[np.uint8]

_HALF = STAMP_BYTES // 2
_blake = partial(hashlib.blake2b, digest_size=_HALF)


def stamped(source: str) -> tuple[Stamp, Source]:
    """Return the stamp of a source, and the source or, if it was downloaded, its bytes.

    Raises:
        ImageError: it cannot be opened.
    """
    state = b""
    with suppress(OSError):  # `open_source` reports errors
        state = text_bytes(source_state(source))  # before the content, so that a later change is detected next time
    with open_source(source) as stream:
        stamp = _stamp(_blake(state).digest(), stream)
        return stamp, ImageBytes(source, stream.getvalue()) if isinstance(stream, io.BytesIO) else source


def array_stamp(array: NDArray[np.generic]) -> Stamp:
    """Return the stamp of an imported array, with content only."""
    return _stamp(bytes(_HALF), io.BytesIO(f"{array.dtype} {array.shape}".encode() + array.tobytes()))


def same_content(stamps: Stamp, others: Stamp) -> NDArray[np.bool_]:
    """Return for each pair of stamps (B, 32) whether both have the same content, (B,)."""
    return np.asarray((stamps[:, _HALF:] == others[:, _HALF:]).all(axis=1))


def recorded(stamps: Stamp) -> NDArray[np.bool_]:
    """Return for each stamp (B, 32) whether it is a record, (B,)."""
    return np.asarray(stamps.any(axis=1))


def changed_images(store: FeatureStore, sources: Mapping[str, str]) -> list[str]:
    """Return the ids of images that changed since a store encoded them; log images that cannot be checked.

    Stamps of files with a new state but the same content are updated.

    Args:
        store: the store; images that are not in it are ignored.
        sources: image paths by id.
    """
    ids = [image_id for image_id in sources if image_id in store]
    unchecked: Counter[str] = Counter()
    candidates = []
    for image_id, stamp in zip(ids, store.stamps(ids), strict=True):
        reason = _difference(store, stamp, sources[image_id])
        if reason is None:
            candidates.append(image_id)
        elif reason:
            unchecked[reason] += 1
    if unchecked:
        reasons = ", ".join(f"{count} {reason}" for reason, count in unchecked.items())
        log.info(
            "%s: features of %d of %d images are used unchecked: %s", store.path, unchecked.total(), len(ids), reasons
        )
    found = list(prefetch(_stamp_or_none, [sources[image_id] for image_id in candidates], usable_cores(), ahead=64))
    stamps = np.array([np.zeros(STAMP_BYTES, np.uint8) if stamp is None else stamp for stamp in found], np.uint8)
    same = same_content(stamps.reshape(-1, STAMP_BYTES), store.stamps(candidates))
    _update([image_id for image_id, kept in zip(candidates, same, strict=True) if kept], stamps[same], store)
    return [image_id for image_id, kept in zip(candidates, same, strict=True) if not kept]


def require_unchanged(stores: Sequence[FeatureStore], sources: Mapping[str, str]) -> None:
    """Check that no image changed since the stores were created.

    Raises:
        FeatureStoreError: images changed.
    """
    for store in stores:
        if changed := changed_images(store, sources):
            raise FeatureStoreError(
                f"{len(changed)} images have changed since {store.path} was created, such as {sources[changed[0]]}; "
                f"encode them again with seesay extract DATA --out {store.path} and the flags of its encoder"
            )


def _difference(store: FeatureStore, stamp: Stamp, source: str) -> str | None:
    """Return "" if the source has the recorded state, None if it may have changed, else why it cannot be checked."""
    if "encoder" not in store.identity:
        return "imported, not extracted from an image"
    if not stamp.any():
        return "without a record of the image (older store)"
    try:
        state = source_state(source)
    except OSError:
        return "with a missing image"
    if _blake(text_bytes(state)).digest() != stamp[:_HALF].tobytes():
        return None
    return "from URLs" if state == source else ""


def _stamp(state: bytes, stream: IO[bytes]) -> Stamp:
    content = hashlib.file_digest(stream, _blake).digest()  # type: ignore[arg-type]  # a partial is also callable
    return np.frombuffer(state + content, np.uint8)


def _stamp_or_none(source: str) -> Stamp | None:
    try:
        return stamped(source)[0]
    except ImageError:
        return None


def _update(ids: Sequence[str], stamps: Stamp, store: FeatureStore) -> None:
    if not ids:
        return
    with suppress(OSError, FeatureStoreError), FeatureStore(store.path, writable=True) as file:  # only saves time later
        file.restamp(ids, stamps)
