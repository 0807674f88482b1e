"""Pictures changed a little each time they are trained on, where the encoder is in the loop."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seesay.images import Preprocessing, read_image, resize_image

SIDES = re.compile(r"\b(left|right)\w*", re.IGNORECASE)
"""Words of a caption that would be wrong of a mirrored picture."""


@dataclass(frozen=True)
class Augmentation:
    """Random mirroring and cropping of training pictures.

    Attributes:
        flip: how often a picture is mirrored, 0..1; one whose captions speak of left or right never is.
        crop: a random window has sides of 1 - crop to 1 of the picture's, whose shape it keeps.
    """

    flip: float = 0.0
    crop: float = 0.0

    def __bool__(self) -> bool:
        return self.flip > 0 or self.crop > 0

    def pixels(
        self, source: str, preprocessing: Preprocessing, random: np.random.Generator, mirrored: bool
    ) -> NDArray[np.uint8]:
        """Returns a picture as the encoder's square, changed at random: uint8 (size, size, 3).

        Args:
            source: where the picture is.
            preprocessing: the square it becomes.
            random: decides; it is asked for as many numbers whatever the settings.
            mirrored: may the picture be mirrored.

        Raises:
            ImageError: missing, not a picture, damaged or too large.
        """
        chance, share, across, down = random.random(4)
        image = read_image(source)
        if self.crop:
            scale = 1 - self.crop * share
            width, height = scale * image.width, scale * image.height
            left, top = across * (image.width - width), down * (image.height - height)
            box = (round(left), round(top), max(1, round(left + width)), max(1, round(top + height)))
            image = image.crop(box)
        square = resize_image(image, preprocessing)
        return np.ascontiguousarray(square[:, ::-1]) if mirrored and chance < self.flip else square


def may_be_mirrored(captions: Sequence[str]) -> bool:
    """Tells whether captions would still be true of the mirrored picture: none names a side, in English."""
    return not any(SIDES.search(caption) for caption in captions)
