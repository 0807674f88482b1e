"""Evaluation of captions on a split, its result files, and comparisons of systems."""

from seesay.evaluation.captioning import caption_split
from seesay.evaluation.comparison import Comparison, compare, save_comparison
from seesay.evaluation.evaluators import evaluate, evaluate_captions, evaluate_human
from seesay.evaluation.predictions import read_predictions
from seesay.evaluation.result import Evaluation, save_evaluation
from seesay.evaluation.scoring import ALL_SCORES, DEFAULT_SCORES, score_captions

__all__ = [
    "ALL_SCORES",
    "DEFAULT_SCORES",
    "Comparison",
    "Evaluation",
    "caption_split",
    "compare",
    "evaluate",
    "evaluate_captions",
    "evaluate_human",
    "read_predictions",
    "save_comparison",
    "save_evaluation",
    "score_captions",
]
