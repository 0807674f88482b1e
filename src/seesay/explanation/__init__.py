"""Attention maps, training curves and the HTML report."""

from seesay.explanation.attention import (
    attention_entropy,
    attention_strip,
    overlay,
    upsample_attention,
)
from seesay.explanation.curves import draw_training_curves, training_curves
from seesay.explanation.grounding_plot import frame_of_crop, grounding_baseline, grounding_ratio, is_grounded
from seesay.explanation.lengths import draw_score_against_length
from seesay.explanation.report import Card, Figure, Gallery, Section, Table, Text, write_report
from seesay.explanation.word_by_word import WordByWord

__all__ = [
    "Card",
    "Figure",
    "Gallery",
    "Section",
    "Table",
    "Text",
    "WordByWord",
    "attention_entropy",
    "attention_strip",
    "draw_score_against_length",
    "draw_training_curves",
    "frame_of_crop",
    "grounding_baseline",
    "grounding_ratio",
    "is_grounded",
    "overlay",
    "training_curves",
    "upsample_attention",
    "write_report",
]
