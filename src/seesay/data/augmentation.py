"""Images changed a little each time they are trained on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seesay.data.records import Annotations
from seesay.errors import DataError
from seesay.images import Preprocessing, read_image, resize_image

SIDES = re.compile(r"\b(left|right)\w*", re.IGNORECASE)
"""Words of a caption that would be wrong of a mirrored image."""


@dataclass(frozen=True)
class Augmentation:
    """Random mirroring and cropping of training images; of cached features, mirroring alone.

    Attributes:
        flip: how often an image is mirrored, 0..1; one whose captions speak of left or right never is.
        crop: a random window has sides of 1 - crop to 1 of the image's, whose shape it keeps.
    """

    flip: float = 0.0
    crop: float = 0.0

    def __bool__(self) -> bool:
        return self.flip > 0 or self.crop > 0

    def pixels(
        self, source: str, preprocessing: Preprocessing, random: np.random.Generator, mirrored: bool
    ) -> NDArray[np.uint8]:
        """Returns an image as the encoder's square, changed at random: uint8 (size, size, 3).

        Args:
            source: where the image is.
            preprocessing: the square it becomes.
            random: decides; it is asked for as many numbers whatever the settings.
            mirrored: may the image be mirrored.

        Raises:
            ImageError: missing, not an image, damaged or too large.
        """
        turned = self.turns(random, mirrored)
        share, across, down = random.random(3)
        image = read_image(source)
        if self.crop:
            scale = 1 - self.crop * share
            width, height = scale * image.width, scale * image.height
            left, top = across * (image.width - width), down * (image.height - height)
            box = (round(left), round(top), max(1, round(left + width)), max(1, round(top + height)))
            image = image.crop(box)
        square = resize_image(image, preprocessing)
        return np.ascontiguousarray(square[:, ::-1]) if turned else square

    def turns(self, random: np.random.Generator, mirrored: bool) -> bool:
        """Tells whether an image is mirrored this time, as `pixels` does by the same chance.

        Args:
            random: decides; it is asked for one number, its first.
            mirrored: may the image be mirrored.
        """
        return bool(random.random() < self.flip) and mirrored


def may_be_mirrored(captions: Sequence[str]) -> bool:
    """Tells whether captions would still be true of the mirrored image: none names a side, in English."""
    return not any(SIDES.search(caption) for caption in captions)


def mirrorable_images(annotations: Annotations) -> dict[str, str]:
    """Returns ids and places of the training images that `may_be_mirrored`.

    Raises:
        DataError: there are none.
    """
    found = {item.id: item.image for item in annotations.split("train") if may_be_mirrored(item.captions)}
    if not found:
        raise DataError(
            f"{annotations.source} has no training image to mirror: the captions of each say left or right; "
            "leave training.hflip_prob at 0"
        )
    return found
