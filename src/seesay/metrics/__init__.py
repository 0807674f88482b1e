"""Scores of captions: what the literature prints, computed without Java."""

from seesay.metrics.cider import Cider
from seesay.metrics.scores import CaptionMetrics, Scores, compute_metrics
from seesay.metrics.tokenize import tokenize

__all__ = ["CaptionMetrics", "Cider", "Scores", "compute_metrics", "tokenize"]
