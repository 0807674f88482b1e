"""Inspection of images: readability, size, blank or damaged parts."""

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seesay.data.readers.images import is_url
from seesay.errors import ImageError
from seesay.images.loading import MAX_PIXELS, image_size, read_image
from seesay.images.prefetch import prefetch

_BLANK_SHARE = 0.15  # fraction of the height, from the bottom up, in one colour
_BLANK_SPREAD = 0.5  # maximum standard deviation of a row's grey levels (0..255) that counts as one colour
# A run of 8x8 blocks decoded with a wrong base level: calibrated on the 8,091 images of Flickr8k, where
# these limits report the one damaged image and five with a strong horizontal edge.
_BREAK_STEP = 70.0  # grey levels between the rows
_BREAK_COLUMNS = 0.85  # fraction of the columns with a step of the same sign
_BREAK_CORRELATION = 0.6  # between the rows above and below: the content continues
_BREAK_TEXTURE = 15.0  # standard deviation of both rows: the correlation of flat rows is meaningless
_BREAK_SHIFT = 0.9  # fraction of the step by which the darkest or brightest pixels below must shift
_ANALYSED_SIDE = 512


@dataclass(frozen=True)
class Inspection:
    """Result of inspecting one image.

    Attributes:
        image: Path or archive reference.
        size: Width and height in pixels after EXIF rotation, or None if unreadable.
        error: Why the image cannot be read, or None.
        missing: The file does not exist.
        too_large: The image exceeds the pixel limit.
        suspect: Possible damage of an image that can be decoded, or None.
        digest: Equal for equal bytes; the file size stands in if no other file has the same size.
    """

    image: str
    size: tuple[int, int] | None = None
    error: str | None = None
    missing: bool = False
    too_large: bool = False
    suspect: str | None = None
    digest: str | None = None


def inspect_images(
    images: Sequence[str], workers: int = 0, progress: Callable[[int, int], None] | None = None
) -> list[Inspection]:
    """Return an inspection of each image, in order, without images at URLs.

    Args:
        images: Image references of annotations.
        workers: Number of threads; 0: one per CPU, at most 8.
        progress: Called with the number of images done and the total.
    """
    local = [image for image in images if not is_url(image)]
    sizes = {image: _file_size(image) for image in local}
    shared = Counter(sizes.values())

    def inspect(image: str) -> Inspection:
        size = sizes[image]
        return _inspect(image, size, hash_bytes=size is not None and shared[size] > 1)

    threads = workers or min(8, os.cpu_count() or 1)
    done = []
    for inspection in prefetch(inspect, local, threads, ahead=4 * threads):
        done.append(inspection)
        if progress is not None:
            progress(len(done), len(local))
    return done


def is_readable(image: str) -> bool:
    """Return whether an image can be read; a URL is not fetched and assumed readable."""
    if is_url(image):
        return True
    try:
        read_image(image)
    except ImageError:
        return False
    return True


def _file_size(image: str) -> int | None:
    """Return a file's size in bytes; None for a member of an archive or a missing file."""
    try:
        return Path(image).stat().st_size
    except OSError:
        return None


def _inspect(image: str, file_size: int | None, hash_bytes: bool) -> Inspection:
    try:
        opened = read_image(image)
    except ImageError as error:
        missing = file_size is None and "::" not in image
        return Inspection(image, error=str(error), missing=missing, too_large=_is_too_large(image))
    if hash_bytes:
        digest = _digest(image)
    elif file_size is not None:
        digest = f"{file_size} bytes"
    else:  # a member of an archive: hash its pixels instead of its bytes
        digest = hashlib.blake2b(opened.tobytes(), digest_size=16).hexdigest()
    size = opened.size
    grey = opened.convert("L")
    grey.thumbnail((_ANALYSED_SIDE, _ANALYSED_SIDE), reducing_gap=2.0)
    return Inspection(image, size, digest=digest, suspect=find_damage(np.asarray(grey)))


def _digest(image: str) -> str | None:
    """Return the digest of a file's bytes."""
    try:
        with Path(image).open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:
        return None


def _is_too_large(image: str) -> bool:
    """Return whether a rejected image exceeds the pixel limit."""
    try:
        width, height = image_size(image, max_pixels=sys.maxsize)
    except ImageError:
        return False
    return width * height > MAX_PIXELS


def find_damage(grey: NDArray[Any]) -> str | None:
    """Return a description of possible damage, or None.

    A truncated JPEG that was saved again has a band of one colour at the bottom; one with lost bytes has a wrong base
    level below some row (too bright or too dark). Some intact images look alike (a border, a strong horizon), so the
    result is only a suspicion.

    Args:
        grey: Grey levels 0..255, (height, width).
    """
    blank = _blank_band(grey)
    if blank is not None:
        return blank
    row = _base_level_break(grey.astype(np.float32))
    if row is None:
        return None
    return f"brightness jumps at {100 * row // len(grey)} % of the height (lost bytes?)"


def _blank_band(grey: NDArray[Any]) -> str | None:
    """Return a description of a large band of one colour at the bottom, or None."""
    rows = grey[::-1].astype(np.float32)
    plain = (rows.std(axis=1) < _BLANK_SPREAD) & (np.abs(rows.mean(axis=1) - rows[0].mean()) < 1.0)
    if plain.all():
        return "one colour only"
    run = int(np.argmin(plain))
    return f"the bottom {100 * run // len(rows)} % have one colour" if run >= _BLANK_SHARE * len(rows) else None


def _base_level_break(grey: NDArray[np.float32]) -> int | None:
    """Return the row where the base level jumps while the content continues, or None."""
    if min(grey.shape) < 32:
        return None
    # Compare rows two apart, because resizing spreads the jump over two rows.
    above, below = grey[:-2], grey[2:]
    steps = np.median(below - above, axis=1)
    edge = len(grey) // 20
    for row in np.flatnonzero(np.abs(steps) >= _BREAK_STEP):
        if not edge <= row < len(steps) - edge:
            continue
        first, second, sign = above[row], below[row], np.sign(steps[row])
        if np.mean(np.sign(second - first) == sign) < _BREAK_COLUMNS:
            continue
        if min(first.std(), second.std()) < _BREAK_TEXTURE:
            continue
        if np.corrcoef(first, second)[0, 1] < _BREAK_CORRELATION:
            continue
        # The darkest (or brightest) pixels shift with the base level.
        quantile = 2 if sign > 0 else 98
        shift = np.percentile(grey[row + 2 :], quantile) - np.percentile(grey[: row + 1], quantile)
        if shift * sign >= _BREAK_SHIFT * abs(steps[row]):
            return int(row) + 1
    return None
