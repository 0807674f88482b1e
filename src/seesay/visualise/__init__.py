"""Pictures of what a captioner does: attention over a picture, training curves and the HTML report."""

from seesay.visualise.attention import (
    attention_entropy,
    attention_strip,
    overlay,
    pointing_ratio,
    upsample_attention,
)
from seesay.visualise.curves import draw_training_curves, training_curves
from seesay.visualise.lengths import draw_score_against_length
from seesay.visualise.report import Card, Gallery, Picture, Section, Table, Text, write_report

__all__ = [
    "Card",
    "Gallery",
    "Picture",
    "Section",
    "Table",
    "Text",
    "attention_entropy",
    "attention_strip",
    "draw_score_against_length",
    "draw_training_curves",
    "overlay",
    "pointing_ratio",
    "training_curves",
    "upsample_attention",
    "write_report",
]
