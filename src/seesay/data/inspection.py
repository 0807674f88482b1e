"""Looking at one image after the other: can it be read, how large is it, is part of it blank or broken."""

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
from seesay.images import MAX_PIXELS, image_size, read_image
from seesay.prefetch import prefetch

_BLANK_SHARE = 0.15  # of the height, from the bottom up, in one colour
_BLANK_SPREAD = 0.5  # deviation of a row's grey levels, of 255, that counts as one colour
# A run of 8x8 blocks decoded with a wrong base level: calibrated on the 8,091 images of Flickr8k, where
# these limits name the one broken image and five with a strong horizontal edge.
_BREAK_STEP = 70.0  # grey levels by which the rows jump
_BREAK_COLUMNS = 0.85  # share of the columns that jump the same way
_BREAK_CORRELATION = 0.6  # of the rows above and below: the contents go on
_BREAK_TEXTURE = 15.0  # deviation of both rows: a correlation of flat rows says nothing
_BREAK_SHIFT = 0.9  # of the step, by which the darkest or brightest pixels of the rest move too
_ANALYSED_SIDE = 512


@dataclass(frozen=True)
class Inspection:
    """What was found out about one image.

    Attributes:
        image: Its reference.
        size: Width and height of the upright image in pixels, or None where it cannot be read.
        error: Why it cannot be read, or None.
        missing: There is no such file.
        too_large: It has more pixels than are read.
        suspect: What looks wrong with it though it can be read, or None.
        digest: Equal for equal bytes; of a file whose size no other has, only that size.
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
    """Returns an inspection of each image, in order; images that are URLs are not fetched and left out.

    Args:
        images: References as annotations have them.
        workers: Threads; 0 = one a processor, at most 8.
        progress: Called with the images done and their number.
    """
    local = [image for image in images if not is_url(image)]
    sizes = {image: _file_size(image) for image in local}
    shared = Counter(sizes.values())

    def work(image: str) -> Inspection:
        size = sizes[image]
        return _inspect(image, size, hash_bytes=size is not None and shared[size] > 1)

    threads = workers or min(8, os.cpu_count() or 1)
    done = []
    for inspection in prefetch(work, local, threads, ahead=4 * threads):
        done.append(inspection)
        if progress is not None:
            progress(len(done), len(local))
    return done


def is_readable(image: str) -> bool:
    """Returns whether an image can be read; one at a URL is not fetched and taken to be readable."""
    if is_url(image):
        return True
    try:
        read_image(image)
    except ImageError:
        return False
    return True


def _file_size(image: str) -> int | None:
    """Returns a file's size in bytes; None for a member of an archive, or where there is no file."""
    try:
        return Path(image).stat().st_size
    except OSError:
        return None


def _inspect(image: str, file_size: int | None, hash_bytes: bool) -> Inspection:
    """Returns the inspection of one image."""
    try:
        opened = read_image(image)
    except ImageError as error:
        missing = file_size is None and "::" not in image
        return Inspection(image, error=str(error), missing=missing, too_large=_is_too_large(image))
    if hash_bytes:
        digest = _digest(image)
    elif file_size is not None:
        digest = f"{file_size} bytes"
    else:  # a member of an archive: its pixels stand for its bytes
        digest = hashlib.blake2b(opened.tobytes(), digest_size=16).hexdigest()
    size = opened.size
    grey = opened.convert("L")
    grey.thumbnail((_ANALYSED_SIDE, _ANALYSED_SIDE), reducing_gap=2.0)
    return Inspection(image, size, digest=digest, suspect=find_damage(np.asarray(grey)))


def _digest(image: str) -> str | None:
    """Returns the digest of a file's bytes."""
    try:
        with Path(image).open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:
        return None


def _is_too_large(image: str) -> bool:
    """Tells whether an image that was refused has more pixels than are read."""
    try:
        width, height = image_size(image, max_pixels=sys.maxsize)
    except ImageError:
        return False
    return width * height > MAX_PIXELS


def find_damage(grey: NDArray[Any]) -> str | None:
    """Returns what looks damaged in an image that decodes, or None.

    A JPEG that was cut short and saved again has a band of one colour; one with lost bytes goes on below
    some row with a wrong base level, washed out or too dark. Both look like some honest images (a border,
    a strong horizon), so what is found is a suspicion.

    Args:
        grey: Grey levels 0..255, (height, width).
    """
    blank = _blank_band(grey)
    if blank is not None:
        return blank
    row = _base_level_break(grey.astype(np.float32))
    if row is None:
        return None
    return f"brightness breaks off at {100 * row // len(grey)} % of the height (bytes lost?)"


def _blank_band(grey: NDArray[Any]) -> str | None:
    """Returns how much of the image, from the bottom up, is of one colour, if it is much."""
    rows = grey[::-1].astype(np.float32)
    plain = (rows.std(axis=1) < _BLANK_SPREAD) & (np.abs(rows.mean(axis=1) - rows[0].mean()) < 1.0)
    if plain.all():
        return "all of one colour"
    run = int(np.argmin(plain))
    return f"the lowest {100 * run // len(rows)} % are of one colour" if run >= _BLANK_SHARE * len(rows) else None


def _base_level_break(grey: NDArray[np.float32]) -> int | None:
    """Returns the row where the base level jumps while the contents go on, or None."""
    if min(grey.shape) < 32:
        return None
    # Two rows apart, as a resize spreads the jump over two.
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
        # The darkest (or brightest) pixels move with the base level: nothing below is as dark as above.
        quantile = 2 if sign > 0 else 98
        shift = np.percentile(grey[row + 2 :], quantile) - np.percentile(grey[: row + 1], quantile)
        if shift * sign >= _BREAK_SHIFT * abs(steps[row]):
            return int(row) + 1
    return None
