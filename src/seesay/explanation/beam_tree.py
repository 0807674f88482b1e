"""Plot of a beam search: candidates of every step with their scores."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from seesay.decoding import SearchTrace
from seesay.decoding.trace import Candidate
from seesay.errors import DataError
from seesay.explanation.curves import DOTS_PER_INCH, FAINT, INK
from seesay.explanation.fonts import find_families, ignore_missing_glyphs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEST, KEPT, DROPPED = "#d55e00", "#0072b2", "#8a8f98"  # distinguishable for colour-blind readers
MAX_DROPPED = 4
"""Number of dropped candidates shown per step."""
NOT_IN_TRACE = "not in this search; found by a wider one"
"""Note in the title for a caption that is not in the trace."""


def draw_beam_tree(
    trace: SearchTrace,
    word_of: Callable[[int], str],
    caption: Sequence[int],
    length_penalty: float,
    title: str = "",
    image: int = 0,
) -> bytes:
    """Returns a PNG of a search: one column of candidates per step, best sum on top, with lines to their parents.

    Each word has its log-probability and the cumulative sum, each end its score. Kept candidates are coloured, the path
    of the caption in another colour; finished candidates have a thick frame. If the caption is not in the trace (a
    wider search found it), the title has a note and no path is marked.

    Args:
        trace: trace filled by the search.
        word_of: returns the word of a token.
        caption: tokens of the caption, without the end token.
        length_penalty: length penalty of the search; 0 for greedy decoding and sampling.
        title: a line above, such as the caption.
        image: index in the batch.

    Raises:
        DataError: the trace is empty.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    candidates = trace.images.get(image, [])
    if not candidates:
        raise DataError("the trace of the search is empty; pass a trace that a search has filled")
    path = path_to(candidates, caption)
    if not path:
        title = f"{title} ({NOT_IN_TRACE})".lstrip()
    columns = _columns(candidates)
    max_rows = max(map(len, columns))
    figure = Figure(figsize=(1.15 * len(columns) + 1.2, 0.5 * max_rows + 1.1), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    positions = {number: (step, row) for step, column in enumerate(columns) for row, number in enumerate(column)}
    for number in positions:
        _draw(axes, number, candidates, positions, path, word_of, length_penalty)
    axes.set_xlim(-1.4, len(columns) - 0.4)
    axes.set_ylim(max_rows - 0.4, -0.7)
    axes.set_axis_off()
    axes.text(-1, 0, "start", ha="center", va="center", color=INK, fontsize=8)
    axes.set_title(title, loc="left", color=INK, fontsize=11, parse_math=False)
    texts = axes.findobj(Text)
    families = find_families(text.get_text() for text in texts)
    for text in texts:
        text.set_fontfamily(families)
    png = io.BytesIO()
    with ignore_missing_glyphs():
        figure.savefig(png, format="png", dpi=DOTS_PER_INCH, metadata={"Software": "seesay"})
    return png.getvalue()


def _columns(candidates: Sequence[Candidate]) -> list[list[int]]:
    """Returns the indices of the candidates shown per step, best first: all kept ones and the best dropped ones."""
    columns: list[list[int]] = [[] for _ in range(1 + max(candidate.step for candidate in candidates))]
    for number in sorted(range(len(candidates)), key=lambda number: -candidates[number].total):
        column = columns[candidates[number].step]
        if candidates[number].kept or sum(not candidates[other].kept for other in column) < MAX_DROPPED:
            column.append(number)
    return columns


def path_to(candidates: Sequence[Candidate], tokens: Sequence[int]) -> set[int]:
    """Returns the indices of the candidates of a caption, including its end; empty if it is not in the trace."""
    for end, found in enumerate(candidates):
        if not (found.kept and found.ended and found.step == len(tokens)):
            continue
        path = [end]
        while candidates[path[-1]].parent >= 0:
            path.append(candidates[path[-1]].parent)
        if [candidates[number].token for number in path[:0:-1]] == list(tokens):
            return set(path)
    return set()


def _score(candidate: Candidate, length_penalty: float) -> float:
    return candidate.total / float((candidate.step + 1) ** length_penalty)


def _draw(
    axes: "Axes",
    number: int,
    candidates: Sequence[Candidate],
    positions: dict[int, tuple[int, int]],
    path: set[int],
    word_of: Callable[[int], str],
    length_penalty: float,
) -> None:
    """Draws a candidate as a box with its word and numbers, and the line to its parent."""
    found, (x, y) = candidates[number], positions[number]
    colour = BEST if number in path else KEPT if found.kept else DROPPED
    from_x, from_y = positions.get(found.parent, (-1, 0))
    width = 1.6 if found.kept else 0.6
    axes.plot([from_x + 0.38, x - 0.4], [from_y, y], color=colour if found.kept else FAINT, linewidth=width, zorder=1)
    word = ("end" + (" (limit)" if found.forced else "")) if found.ended else word_of(found.token)
    numbers = f"{found.log_prob:.2f}  "
    numbers += f"score {_score(found, length_penalty):.2f}" if found.ended else f"sum {found.total:.2f}"
    frame = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": colour if found.kept else FAINT}
    frame["linewidth"] = 2.4 if found.kept and found.ended else 0.9  # type: ignore[assignment]
    weight = "bold" if number in path else "normal"
    axes.text(
        x,
        y,
        f"{word}\n{numbers}",
        ha="center",
        va="center",
        fontsize=6.5,
        color=colour,
        weight=weight,
        bbox=frame,
        zorder=2,
        parse_math=False,
    )
