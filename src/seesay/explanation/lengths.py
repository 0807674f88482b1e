"""Score by caption length."""

import io
from collections.abc import Sequence

import numpy as np

from seesay.errors import DataError
from seesay.explanation.curves import DOTS_PER_INCH, FAINT, INK, SCORE

_MIN_CAPTIONS = 10
"""Minimum number of captions of a length that the line includes."""


def draw_score_against_length(words: Sequence[int], scores: Sequence[float], name: str, unit: str = "words") -> bytes:
    """Returns a PNG of the mean score and the number of captions at each caption length.

    Args:
        words: length of each caption.
        scores: score of each caption.
        name: name of the score, for the title.
        unit: unit of lengths, for the axis.

    Raises:
        DataError: there are no captions, or the numbers differ.
    """
    if not len(words) or len(words) != len(scores):
        raise DataError(f"{len(words)} lengths and {len(scores)} scores; pass one of each per caption")
    # Figure and canvas are used directly because pyplot selects a backend for the process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    lengths, index, counts = np.unique(np.asarray(words), return_inverse=True, return_counts=True)
    means = np.bincount(index, weights=np.asarray(scores, np.float64)) / counts
    figure = Figure(figsize=(6.4, 3.4), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    bars = axes.twinx()
    bars.bar(lengths, counts, color=FAINT, width=0.8)
    axes.set_zorder(bars.get_zorder() + 1)
    axes.patch.set_visible(False)
    # The mean of few captions is unreliable: draw it as a faint dot without a line.
    frequent = counts >= min(_MIN_CAPTIONS, counts.max())
    axes.plot(lengths[frequent], means[frequent], color=SCORE, marker="o", markersize=4, linewidth=1.8)
    axes.plot(lengths[~frequent], means[~frequent], color=SCORE, marker="o", markersize=4, linestyle="", alpha=0.3)
    axes.set_title(f"mean {name} (line) and captions (bars) at each length", loc="left", color=INK, fontsize=11)
    axes.set_xlabel(f"{unit} in the caption", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in (axes, bars):
        panel.tick_params(color=FAINT, labelcolor=INK)
        panel.spines[["top"]].set_visible(False)
        panel.spines[["left", "bottom", "right"]].set_color(FAINT)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DOTS_PER_INCH, metadata={"Software": "seesay"})
    return png.getvalue()
