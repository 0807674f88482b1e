"""Scores of captions on whole splits, what they leave on disk, and how systems compare."""

from seesay.evaluation.captioning import caption_split
from seesay.evaluation.evaluate import evaluate, evaluate_captions, evaluate_human
from seesay.evaluation.predictions import read_predictions
from seesay.evaluation.result import Evaluation, save_evaluation
from seesay.evaluation.scoring import ALL_SCORES, DEFAULT_SCORES, score_captions

__all__ = [
    "ALL_SCORES",
    "DEFAULT_SCORES",
    "Evaluation",
    "caption_split",
    "evaluate",
    "evaluate_captions",
    "evaluate_human",
    "read_predictions",
    "save_evaluation",
    "score_captions",
]
