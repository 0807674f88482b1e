"""Captions as JSON."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from seesay.caption import Caption
from seesay.images import Preprocessing
from seesay.serving.errors import ApiError, Problem
from seesay.serving.service import Seen


class TopToken(BaseModel):
    """A word that could stand at a place."""

    text: str | None = Field(description="the word; null is the end of the caption")
    probability: float | None = Field(description="given the words before, 0..1")


class Word(BaseModel):
    """A word of a caption, or (with `text` null) the end after its words."""

    text: str | None = Field(description="the word; null is the end of the caption")
    probability: float | None = Field(description="given the words before, 0..1")
    attention: list[float] | None = Field(
        default=None, description="weights over the image's regions, row by row of `grid`; they sum to 1"
    )
    top_tokens: list[TopToken] | None = Field(
        default=None, description="the likeliest words at this place, likeliest first"
    )


class CaptionAnswer(BaseModel):
    """One caption of an image."""

    text: str
    probability: float | None = Field(description="of all its words together, 0..1")
    score: float | None = Field(description="what the search maximised")
    finished: bool = Field(description="false if it was cut at the most words allowed")
    words: list[Word]
    end: Word


class Frame(BaseModel):
    """The part of the upright image that the model saw, as shares of its sides."""

    left: float
    top: float
    width: float
    height: float


class ImageAnswer(BaseModel):
    """What came of one image: captions, best first, or an error."""

    name: str
    width: int | None = Field(default=None, description="of the upright image, in pixels")
    height: int | None = None
    frame: Frame | None = None
    grid: tuple[int, int] | None = Field(default=None, description="rows and columns of the regions")
    captions: list[CaptionAnswer] = []
    error: Problem | None = None


class CaptionsAnswer(BaseModel):
    """The answer to `POST /v1/caption`: an entry an image, in the order they were sent."""

    model: str
    options: dict[str, Any] = Field(description="every decoding option as it was used")
    results: list[ImageAnswer]


class ModelAnswer(BaseModel):
    """A model that is served."""

    id: str
    decoder: str
    encoder: str
    vocabulary: int = Field(description="words it knows")
    grid: tuple[int, int] | None = Field(description="rows and columns of the regions")
    attention: bool = Field(description="whether it tells where it looks")
    options: dict[str, Any] = Field(description="its decoding options where a request says nothing else")
    limits: dict[str, Any] = Field(description="bounds of a request")


class ModelsAnswer(BaseModel):
    """The answer to `GET /v1/models`."""

    models: list[ModelAnswer]


class HealthAnswer(BaseModel):
    """The answer to `GET /healthz` and `/readyz`."""

    status: str


def answer_image(name: str, found: Seen | ApiError, preprocessing: Preprocessing) -> ImageAnswer:
    """Returns the entry of an image."""
    if isinstance(found, ApiError):
        return ImageAnswer(name=name, error=found.problem())
    left, top, width, height = _frame((found.width, found.height), preprocessing)
    return ImageAnswer(
        name=name,
        width=found.width,
        height=found.height,
        frame=Frame(left=left, top=top, width=width, height=height),
        grid=found.caption.grid,
        captions=[_caption(each) for each in (found.caption, *found.caption.alternatives)],
    )


def _caption(caption: Caption) -> CaptionAnswer:
    maps = None if caption.attention is None else _share(caption.attention)
    *words, end = [
        Word(
            text=text,
            probability=_probability(log_prob),
            attention=maps[place] if maps is not None and place < len(maps) else None,
            top_tokens=[
                TopToken(text=word, probability=_probability(value)) for word, value in caption.top_tokens[place]
            ]
            if caption.top_tokens
            else None,
        )
        for place, (text, log_prob) in enumerate(
            zip((*caption.words, None), (*caption.log_probs, caption.end_log_prob), strict=True)
        )
    ]
    return CaptionAnswer(
        text=caption.text,
        probability=_number(caption.probability),
        score=_number(caption.score),
        finished=caption.finished,
        words=words,
        end=end,
    )


def _probability(log_prob: float) -> float | None:
    return _number(math.exp(log_prob)) if log_prob < 1 else None


def _number(value: float) -> float | None:
    """Returns a number as JSON can hold it, of seven digits."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _frame(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """Returns the part of an image that the encoder is shown: left, top, width, height as shares of its sides."""
    width, height = size
    if preprocessing.resize != "crop":
        return 0.0, 0.0, 1.0, 1.0
    across, down = min(width, height) / width, min(width, height) / height
    return (1 - across) / 2, (1 - down) / 2, across, down


def _share(values: NDArray[np.float32]) -> list[list[float]]:
    """Returns attention (T, N) in plain numbers of six digits."""
    return [[round(float(value), 6) for value in row] for row in values]
