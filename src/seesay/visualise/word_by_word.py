"""An image with one attention overlay per word of its caption, selectable in HTML without scripts.

The words are radio buttons, so that arrow keys and screen readers work; hovering over a word shows its overlay.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from numpy.typing import ArrayLike
from PIL import Image

from seesay.errors import DataError
from seesay.languages import is_right_to_left
from seesay.visualise.attention import FULL_HEAT, overlay, resize_to_side, upsample_attention
from seesay.visualise.report import img_element, lang_attribute

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
        group = "words-" + hashlib.sha256(image.tobytes() + "\0".join(self.words).encode()).hexdigest()[:12]
        caption = " ".join(self.words)
        lang, direction = lang_attribute(caption), "rtl" if is_right_to_left(caption) else "ltr"
        buttons = [_button(group, _word("the image"), img_element(image, ""), "", checked=True)]
        for word, heat, fact in zip(self.words, maps, facts, strict=True):
            image_overlay = overlay(image, heat, peak=max(floor, float(heat.max())))
            buttons.append(_button(group, _word(word, lang), img_element(image_overlay, ""), fact))
        shape = f"aspect-ratio: {image.width} / {image.height}"
        return (
            f'<div class="words" style="max-width: {image.width}px"><div class="stage" style="{shape}"></div>\n'
            f'<fieldset dir="{direction}"><legend dir="ltr">Words (select with the arrow keys)</legend>\n'
            + "\n".join(buttons)
            + "\n</fieldset></div>"
        )


def _word(word: str, lang: str = "") -> str:
    return f'<span class="word"{lang}>{escape(word)}</span>'


def _button(group: str, word: str, img: str, fact: str, checked: bool = False) -> str:
    """Returns the button of a word with its overlay, positioned over the stage."""
    fact_line = f'<span class="fact" dir="ltr">{escape(fact)}</span>' if fact else ""
    return (
        f'<label><input type="radio" name="{group}"{" checked" if checked else ""}>'
        f'{word}<span class="overlay">{img}{fact_line}</span></label>'
    )
