"""An image with one attention overlay per word of its caption, selectable in HTML without scripts.

The words are radio buttons, so that arrow keys and screen readers work; hovering over a word shows its overlay.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike
from PIL import Image

from seesay.errors import DataError
from seesay.explanation.attention import FULL_HEAT, overlay, resize_to_side, upsample_attention
from seesay.explanation.report import render

SIDE = 560
"""Longer side of the image in pixels."""


@dataclass(frozen=True)
class WordByWord:
    """A section with the attention overlay of each word.

    Attributes:
        image: the image.
        words: T words.
        weights: attention (T, N).
        grid: rows and columns of the regions.
        facts: one line per word shown with its overlay, such as its probability; empty: none.
        heading: heading of the section; empty: none.
        side: longer side of the image in pixels.

    Raises:
        DataError: words, weights, grid and facts do not match.
    """

    image: Image.Image
    words: Sequence[str]
    weights: ArrayLike
    grid: tuple[int, int]
    facts: Sequence[str] = ()
    heading: str = ""
    side: int = SIDE

    def html(self) -> str:
        """Returns the image and one button per word."""
        image = resize_to_side(self.image, self.side)
        maps = upsample_attention(self.weights, self.grid, image.size)
        facts = self.facts or [""] * len(self.words)
        if not len(self.words) == len(maps) == len(facts):
            raise DataError(
                f"{len(self.words)} words, attention for {len(maps)} and {len(facts)} facts; pass one of each per word"
            )
        floor = FULL_HEAT / (self.grid[0] * self.grid[1])
        buttons = [
            (word, overlay(image, heat, peak=max(floor, float(heat.max()))), fact)
            for word, heat, fact in zip(self.words, maps, facts, strict=True)
        ]
        group = "words-" + hashlib.sha256(image.tobytes() + "\0".join(self.words).encode()).hexdigest()[:12]
        return render("words", image, buttons, group, " ".join(self.words))
