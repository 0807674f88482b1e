"""Attention maps, training curves and the HTML report."""

from seesay.visualise.attention import (
    attention_entropy,
    attention_strip,
    overlay,
    upsample_attention,
)
from seesay.visualise.curves import draw_training_curves, training_curves
from seesay.visualise.grounding import frame_of_crop, grounding_baseline, grounding_ratio, is_grounded
from seesay.visualise.lengths import draw_score_against_length
from seesay.visualise.report import Card, Figure, Gallery, Section, Table, Text, write_report
from seesay.visualise.word_by_word import WordByWord

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
