"""Scores of captions: what the literature prints, computed without Java."""

from seesay.metrics.cider import Cider
from seesay.metrics.diversity import Diversity, absent_objects, measure_diversity, verdict
from seesay.metrics.scores import CaptionMetrics, Scores, compute_metrics
from seesay.metrics.tokenize import tokenize

__all__ = [
    "CaptionMetrics",
    "Cider",
    "Diversity",
    "Scores",
    "absent_objects",
    "compute_metrics",
    "measure_diversity",
    "tokenize",
    "verdict",
]
