"""JSON schemas of responses."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from seesay.captioners.caption import Caption
from seesay.images.loading import Preprocessing
from seesay.serving.errors import ApiError, ErrorDetail
from seesay.serving.service import CaptionedImage


class TopToken(BaseModel):
    """A probable word at a position."""

    text: str | None = Field(description="the word; null is the end of the caption")
    probability: float | None = Field(description="given the previous words, 0..1")


class Word(BaseModel):
    """A word of a caption, or (with `text` null) its end."""

    text: str | None = Field(description="the word; null is the end of the caption")
    probability: float | None = Field(description="given the previous words, 0..1")
    attention: list[float] | None = Field(
        default=None, description="weights over the regions of `grid` in row-major order; they sum to 1"
    )
    top_tokens: list[TopToken] | None = Field(
        default=None, description="the most probable words at this position, most probable first"
    )


class CaptionResult(BaseModel):
    """One caption of an image."""

    text: str
    probability: float | None = Field(description="product over all words, 0..1")
    score: float | None = Field(description="what the search maximised")
    finished: bool = Field(description="false if it was cut at the maximum length")
    rejected: str | None = Field(default=None, description="why the text is not usable as a caption; null if it is")
    words: list[Word]
    end: Word


class Frame(BaseModel):
    """The encoded part of the upright image, as fractions of its sides."""

    left: float
    top: float
    width: float
    height: float


class ImageResult(BaseModel):
    """Result of one image: captions, best first, or an error."""

    name: str
    width: int | None = Field(default=None, description="of the upright image, in pixels")
    height: int | None = None
    frame: Frame | None = None
    grid: tuple[int, int] | None = Field(default=None, description="rows and columns of the regions")
    captions: list[CaptionResult] = []
    error: ErrorDetail | None = None


class CaptionResponse(BaseModel):
    """Response to `POST /v1/caption`: one entry per image, in the order of the request."""

    model: str
    options: dict[str, Any] = Field(description="all decoding options used")
    results: list[ImageResult]


class ModelInfo(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="start of the service, seconds since 1970")
    owned_by: Literal["seesay"] = "seesay"
    decoder: str | None = None
    encoder: str | None = None
    vocabulary: int | None = Field(None, description="vocabulary size")
    grid: tuple[int, int] | None = Field(None, description="rows and columns of the regions")
    attention: bool = Field(description="whether attention weights are available")
    options: dict[str, Any] = Field(description="default decoding options")
    limits: dict[str, Any] = Field(description="limits of a request")


class ModelList(BaseModel):
    """Response to `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class HealthResponse(BaseModel):
    """Response to `GET /healthz` and `/readyz`."""

    status: str


def image_result(name: str, image: CaptionedImage | ApiError, preprocessing: Preprocessing | None) -> ImageResult:
    """Return the entry of an image."""
    if isinstance(image, ApiError):
        return ImageResult(name=name, error=image.detail())
    left, top, width, height = _frame((image.width, image.height), preprocessing)
    return ImageResult(
        name=name,
        width=image.width,
        height=image.height,
        frame=Frame(left=left, top=top, width=width, height=height),
        grid=image.caption.grid,
        captions=[_caption(each) for each in (image.caption, *image.caption.alternatives)],
    )


def _caption(caption: Caption) -> CaptionResult:
    maps = None if caption.attention is None else _rounded(caption.attention)
    *words, end = [
        Word(
            text=text,
            probability=_probability(log_prob),
            attention=maps[position] if maps is not None and position < len(maps) else None,
            top_tokens=[
                TopToken(text=word, probability=_probability(value)) for word, value in caption.top_tokens[position]
            ]
            if caption.top_tokens
            else None,
        )
        for position, (text, log_prob) in enumerate(
            zip((*caption.words, None), (*_log_probs(caption), caption.end_log_prob), strict=True)
        )
    ]
    return CaptionResult(
        text=caption.text,
        probability=_number(caption.probability),
        score=_number(caption.score),
        finished=caption.finished,
        rejected=caption.rejected or None,
        words=words,
        end=end,
    )


def _log_probs(caption: Caption) -> Sequence[float]:
    """Return the log-probability of each word; NaN if a model server returned none."""
    return caption.log_probs or [math.nan] * len(caption.words)


def _probability(log_prob: float) -> float | None:
    return _number(math.exp(log_prob)) if log_prob < 1 else None


def _number(value: float) -> float | None:
    """Return a number with seven digits, or None if JSON cannot represent it."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _frame(size: tuple[int, int], preprocessing: Preprocessing | None) -> tuple[float, float, float, float]:
    """Return the encoded part of an image: left, top, width, height as fractions of its sides."""
    width, height = size
    if preprocessing is None or preprocessing.resize != "crop":
        return 0.0, 0.0, 1.0, 1.0
    crop_width, crop_height = min(width, height) / width, min(width, height) / height
    return (1 - crop_width) / 2, (1 - crop_height) / 2, crop_width, crop_height


def _rounded(values: NDArray[np.float32]) -> list[list[float]]:
    """Return attention (T, N) as numbers with six decimals."""
    return [[round(float(value), 6) for value in row] for row in values]
