"""Pictures of what a captioner does: attention over a picture, training curves and the HTML report."""

from seesay.visualise.attention import (
    attention_entropy,
    attention_strip,
    overlay,
    upsample_attention,
)
from seesay.visualise.curves import draw_training_curves, training_curves
from seesay.visualise.lengths import draw_score_against_length
from seesay.visualise.pointing import frame_of_crop, pointing_chance, pointing_ratio, points_at
from seesay.visualise.report import Card, Gallery, Picture, Section, Table, Text, write_report
from seesay.visualise.word_by_word import WordByWord

__all__ = [
    "Card",
    "Gallery",
    "Picture",
    "Section",
    "Table",
    "Text",
    "WordByWord",
    "attention_entropy",
    "attention_strip",
    "draw_score_against_length",
    "draw_training_curves",
    "frame_of_crop",
    "overlay",
    "pointing_chance",
    "pointing_ratio",
    "points_at",
    "training_curves",
    "upsample_attention",
    "write_report",
]
