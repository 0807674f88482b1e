"""Caption metrics of the literature, computed without Java."""

from seesay.metrics.bootstrap import Difference, Interval, bootstrap_intervals, paired_bootstrap
from seesay.metrics.cider import Cider
from seesay.metrics.diversity import Diversity, absent_objects, diagnose, measure_diversity
from seesay.metrics.scores import CaptionMetrics, Scores, compute_metrics
from seesay.metrics.tokenize import tokenize

__all__ = [
    "CaptionMetrics",
    "Cider",
    "Difference",
    "Diversity",
    "Interval",
    "Scores",
    "absent_objects",
    "bootstrap_intervals",
    "compute_metrics",
    "diagnose",
    "measure_diversity",
    "paired_bootstrap",
    "tokenize",
]
