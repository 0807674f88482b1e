"""`Caption`, the result of captioners, and `CaptionSettings`, what they should generate. Does not need torch."""

import math
from dataclasses import dataclass, field
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seesay.captioners.alt_text import Style
from seesay.captioners.settings import check_keywords
from seesay.config import DecodingOptions
from seesay.errors import ImageError
from seesay.images.loading import ImageInput, read_image
from seesay.notebook import caption_html


@dataclass(frozen=True)
class CaptionView:
    """A caption with its image, as notebooks show it; `Caption.show` returns it.

    Attributes:
        caption: the caption.
        image: the image.
    """

    caption: "Caption"
    image: Image.Image

    def _repr_html_(self) -> str:
        caption = self.caption
        return caption_html(caption.text, self.image, caption.words, caption.attention, caption.grid)


@dataclass(frozen=True, repr=False)
class Caption:
    """The caption of an image, with its scores.

    Attributes:
        text: the caption.
        words: the words of the caption.
        log_probs: natural log-probability of each word; empty if a model server returns none, and `score` is then NaN.
        end_log_prob: natural log-probability of the end token, which is part of the score; NaN if it is unknown.
        score: the sum of these log-probabilities (those of repeated words times `repetition_penalty`), in beam search
            divided by (words + 1) ** `length_penalty`; the search maximises it.
        finished: False if the caption was truncated at the maximum length.
        attention: attention weights per word, (T, N), rows sum to 1; None if not requested.
        grid: (rows, columns) of the N regions; None if they form no grid.
        alternatives: the other captions requested by `num_return_sequences`, best first; theirs are empty.
        top_tokens: the most probable words at each position and at the end, with their natural log-probabilities
            conditioned on the previous words, most probable first; None stands for the end token. Empty if not
            requested.
        rejected: why the text is not usable, one of the reasons in `seesay.captioners.guard`; empty: it is usable, or
            was not checked.
        source: path or URL of the image, for notebooks; empty for images in memory and in jobs over many images.
        cropped: whether the model sees only the centre square of the image, to which `attention` then refers.
    """

    text: str
    words: tuple[str, ...]
    log_probs: tuple[float, ...]
    end_log_prob: float
    score: float
    finished: bool
    attention: NDArray[np.float32] | None = None
    grid: tuple[int, int] | None = None
    alternatives: tuple["Caption", ...] = ()
    top_tokens: tuple[tuple[tuple[str | None, float], ...], ...] = ()
    rejected: str = ""
    source: str = field(default="", compare=False)
    cropped: bool = field(default=False, compare=False)

    def __repr__(self) -> str:
        score = "" if math.isnan(self.score) else f", score={self.score:.2f}"
        attention = "" if self.attention is None else f", attention={self.attention.shape}"
        others = f", {len(self.alternatives)} alternatives" if self.alternatives else ""
        rejected = f", rejected={self.rejected!r}" if self.rejected else ""
        return f"Caption({self.text!r}{score}{attention}{others}{rejected})"

    def show(self, image: ImageInput) -> CaptionView:
        """Return the caption with its image for a notebook, with a slider over the words if there is attention.

        Args:
            image: the captioned image.

        Raises:
            ImageError: the image cannot be read.
        """
        read = read_image(image)
        if self.cropped:
            side = min(read.size)
            left, top = (read.width - side) // 2, (read.height - side) // 2
            read = read.crop((left, top, left + side, top + side))
        return CaptionView(self, read)

    def _repr_html_(self) -> str:
        try:
            return self.show(self.source)._repr_html_() if self.source else caption_html(self.text)
        except ImageError:  # moved since
            return caption_html(self.text)

    @property
    def probability(self) -> float:
        """Probability (0..1) of the words, without the end token; NaN if it is unknown."""
        if len(self.log_probs) < len(self.words):
            return float("nan")
        return float(np.exp(sum(self.log_probs)))


@dataclass(frozen=True)
class CaptionSettings:
    """What to generate for the images of a batch.

    Attributes:
        options: decoding options; None: the captioner's defaults.
        attention: return attention weights.
        top_tokens: most probable words to return per position; 0: none.
        guard: check the captions, and generate unusable ones once more with other settings; see
            `seesay.captioners.guard`.
        style: the captions as generated (plain), or as alt text, which is empty for a blank image; see
            `seesay.captioners.alt_text`.
        prompt: of the captions, with variables as in `seesay.captioners.prompts`, for a model that takes one; empty:
            the captioner's.
    """

    options: DecodingOptions | None = None
    attention: bool = False
    top_tokens: int = 0
    guard: bool = True
    style: Style = "plain"
    prompt: str = ""


class SettingFields(TypedDict, total=False):
    """The fields of `CaptionSettings` beside the options, as keyword arguments of `Captioner`'s methods."""

    attention: bool
    top_tokens: int
    guard: bool
    style: Style
    prompt: str


DEFAULT_SETTINGS = CaptionSettings()


def caption_settings(options: DecodingOptions | None, **settings: Unpack[SettingFields]) -> CaptionSettings:
    """Return the settings of keyword arguments.

    Raises:
        ConfigError: an unknown keyword.
    """
    check_keywords(settings, ("options", *SettingFields.__annotations__))
    return CaptionSettings(options, **settings)
