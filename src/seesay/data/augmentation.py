"""Random augmentation of training images."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seesay.data.records import Annotations
from seesay.errors import DataError
from seesay.images.loading import Preprocessing, read_image, resize_image

SIDES = re.compile(r"\b(left|right)\w*", re.IGNORECASE)
"""English words that make a caption wrong for the mirrored image."""


@dataclass(frozen=True)
class Augmentation:
    """Random horizontal flips and crops of training images; cached features support flips only.

    Attributes:
        flip: flip probability, 0..1; images whose captions mention left or right are never flipped.
        crop: a random crop keeps the aspect ratio and scales both sides by a factor in [1 - crop, 1].
    """

    flip: float = 0.0
    crop: float = 0.0

    def __bool__(self) -> bool:
        return self.flip > 0 or self.crop > 0

    def pixels(
        self, source: str, preprocessing: Preprocessing, random: np.random.Generator, flippable: bool
    ) -> NDArray[np.uint8]:
        """Return the augmented and resized image: uint8 (size, size, 3).

        Args:
            source: path of the image.
            preprocessing: the encoder's preprocessing.
            random: generator; the number of draws does not depend on the settings.
            flippable: whether the image may be flipped.

        Raises:
            ImageError: missing, not an image, damaged or too large.
        """
        flipped = self.flips(random, flippable)
        image = self.crop_image(read_image(source), random)
        square = resize_image(image, preprocessing)
        return np.ascontiguousarray(square[:, ::-1]) if flipped else square

    def crop_image(self, image: Image.Image, random: np.random.Generator) -> Image.Image:
        """Returns a random crop of an image.

        Args:
            image: the image.
            random: generator; three numbers are drawn, whatever the settings.
        """
        crop, across, down = random.random(3)
        if not self.crop:
            return image
        scale = 1 - self.crop * crop
        width, height = scale * image.width, scale * image.height
        left, top = across * (image.width - width), down * (image.height - height)
        return image.crop((round(left), round(top), max(1, round(left + width)), max(1, round(top + height))))

    def flips(self, random: np.random.Generator, flippable: bool) -> bool:
        """Return whether `pixels` flips the image with the same generator.

        Args:
            random: generator; its first number is drawn.
            flippable: whether the image may be flipped.
        """
        return bool(random.random() < self.flip) and flippable


def is_flippable(captions: Sequence[str]) -> bool:
    """Return whether captions also describe the mirrored image: none contains an English word for a side."""
    return not any(SIDES.search(caption) for caption in captions)


def flippable_images(annotations: Annotations) -> dict[str, str]:
    """Return the training images that may be flipped, paths by id.

    Raises:
        DataError: there are none.
    """
    found = {item.id: item.image for item in annotations.split("train") if is_flippable(item.captions)}
    if not found:
        raise DataError(
            f"{annotations.source} has no training image that can be flipped: all have captions with left or right; "
            "set training.hflip_prob to 0"
        )
    return found
