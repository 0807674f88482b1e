"""`Caption`, the result of captioners, and `CaptionSettings`, what they should generate. Does not need torch."""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from seesay.captioners.alt_text import Style
from seesay.config import DecodingOptions


@dataclass(frozen=True)
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
