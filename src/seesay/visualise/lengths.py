"""Scores against the length of the caption: whether a model is good only where it says little."""

import io
from collections.abc import Sequence

import numpy as np

from seesay.errors import DataError
from seesay.visualise.curves import DOTS_PER_INCH, FAINT, INK, SCORE

_FEW = 10
"""Captions of one length from which on their mean is worth a line."""


def draw_score_against_length(words: Sequence[int], scores: Sequence[float], name: str, unit: str = "words") -> bytes:
    """Returns a PNG of the mean score at each caption length, over how many captions have that length.

    Args:
        words: of each caption.
        scores: of each caption.
        name: of the score, for the axis.
        unit: what lengths count, for the axis.

    Raises:
        DataError: there are no captions, or not as many scores.
    """
    if not len(words) or len(words) != len(scores):
        raise DataError(f"{len(words)} lengths and {len(scores)} scores; give one of each a caption")
    # Figure and canvas are used directly: pyplot would choose a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    lengths, place, counts = np.unique(np.asarray(words), return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=np.asarray(scores, np.float64)) / counts
    figure = Figure(figsize=(6.4, 3.4), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    bars = axes.twinx()
    bars.bar(lengths, counts, color=FAINT, width=0.8)
    axes.set_zorder(bars.get_zorder() + 1)
    axes.patch.set_visible(False)
    # A length that one or two captions have says nothing: its dot stands apart from the line.
    usual = counts >= min(_FEW, counts.max())
    axes.plot(lengths[usual], means[usual], color=SCORE, marker="o", markersize=4, linewidth=1.8)
    axes.plot(lengths[~usual], means[~usual], color=SCORE, marker="o", markersize=4, linestyle="", alpha=0.3)
    axes.set_title(f"mean {name} (line) and captions (bars) at each length", loc="left", color=INK, fontsize=11)
    axes.set_xlabel(f"{unit} in the caption", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for each in (axes, bars):
        each.tick_params(color=FAINT, labelcolor=INK)
        each.spines[["top"]].set_visible(False)
        each.spines[["left", "bottom", "right"]].set_color(FAINT)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DOTS_PER_INCH, metadata={"Software": "seesay"})
    return png.getvalue()
