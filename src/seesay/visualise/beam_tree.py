"""The search for a caption as an image: the candidates of every step, which were kept, and how they scored."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from seesay.decoding import SearchTrace
from seesay.decoding.trace import Candidate
from seesay.errors import DataError
from seesay.visualise.curves import DOTS_PER_INCH, FAINT, INK
from seesay.visualise.fonts import find_families, quiet_about_glyphs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEST, KEPT, DROPPED = "#d55e00", "#0072b2", "#8a8f98"  # told apart also by colour-blind readers
SHOWN = 4
"""Candidates that were not kept, shown in each step: the best of them."""
NOT_HERE = "this search did not end in it; it was done again, wider"
"""What is said of a caption that the trace does not hold."""


def draw_beam_tree(
    trace: SearchTrace,
    word_of: Callable[[int], str],
    shown: Sequence[int],
    length_penalty: float,
    title: str = "",
    image: int = 0,
) -> bytes:
    """Returns a PNG of a search: a column of candidates a step, best sum on top, with lines to what each continues.

    Under a word stand its log-probability and the sum with it; under an end the score. What the search kept is in
    colour, the way to the caption shown in another; a thick frame marks an end. Where the search did not end in that
    caption (a wider one, done after it, found it), the line above says so and no way is marked.

    Args:
        trace: of `decode`.
        word_of: a token's word.
        shown: tokens of the caption shown, without the end.
        length_penalty: by which the search ranked what ended; 0 for greedy decoding and sampling.
        title: a line above, such as the caption.
        image: which of the batch.

    Raises:
        DataError: nothing was traced.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    candidates = trace.images.get(image, [])
    if not candidates:
        raise DataError("the trace of the search is empty; give the one that a search was told to fill")
    way = way_to(candidates, shown)
    if not way:
        title = f"{title} ({NOT_HERE})".lstrip()
    columns = _columns(candidates)
    tallest = max(map(len, columns))
    figure = Figure(figsize=(1.15 * len(columns) + 1.2, 0.5 * tallest + 1.1), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = {number: (step, row) for step, column in enumerate(columns) for row, number in enumerate(column)}
    for number in places:
        _draw(axes, number, candidates, places, way, word_of, length_penalty)
    axes.set_xlim(-1.4, len(columns) - 0.4)
    axes.set_ylim(tallest - 0.4, -0.7)
    axes.set_axis_off()
    axes.text(-1, 0, "start", ha="center", va="center", color=INK, fontsize=8)
    axes.set_title(title, loc="left", color=INK, fontsize=11, parse_math=False)
    texts = axes.findobj(Text)
    families = find_families(text.get_text() for text in texts)
    for text in texts:
        text.set_fontfamily(families)
    png = io.BytesIO()
    with quiet_about_glyphs():
        figure.savefig(png, format="png", dpi=DOTS_PER_INCH, metadata={"Software": "seesay"})
    return png.getvalue()


def _columns(candidates: Sequence[Candidate]) -> list[list[int]]:
    """Returns the numbers of what is shown of each step, best first: all that was kept, the best of the rest."""
    columns: list[list[int]] = [[] for _ in range(1 + max(each.step for each in candidates))]
    for number in sorted(range(len(candidates)), key=lambda number: -candidates[number].total):
        column = columns[candidates[number].step]
        if candidates[number].kept or sum(not candidates[each].kept for each in column) < SHOWN:
            column.append(number)
    return columns


def way_to(candidates: Sequence[Candidate], tokens: Sequence[int]) -> set[int]:
    """Returns the numbers of the candidates that a caption consists of, its end included; none if it is not there."""
    for end, found in enumerate(candidates):
        if not (found.kept and found.ended and found.step == len(tokens)):
            continue
        way = [end]
        while candidates[way[-1]].parent >= 0:
            way.append(candidates[way[-1]].parent)
        if [candidates[number].token for number in way[:0:-1]] == list(tokens):
            return set(way)
    return set()


def _score(candidate: Candidate, length_penalty: float) -> float:
    return candidate.total / float((candidate.step + 1) ** length_penalty)


def _draw(
    axes: "Axes",
    number: int,
    candidates: Sequence[Candidate],
    places: dict[int, tuple[int, int]],
    way: set[int],
    word_of: Callable[[int], str],
    length_penalty: float,
) -> None:
    """Draws a candidate as a box with its word and numbers, and the line to what it continues."""
    found, (x, y) = candidates[number], places[number]
    colour = BEST if number in way else KEPT if found.kept else DROPPED
    from_x, from_y = places.get(found.parent, (-1, 0))
    width = 1.6 if found.kept else 0.6
    axes.plot([from_x + 0.38, x - 0.4], [from_y, y], color=colour if found.kept else FAINT, linewidth=width, zorder=1)
    word = ("end" + (" (limit)" if found.forced else "")) if found.ended else word_of(found.token)
    numbers = f"{found.log_prob:.2f}  "
    numbers += f"score {_score(found, length_penalty):.2f}" if found.ended else f"sum {found.total:.2f}"
    frame = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": colour if found.kept else FAINT}
    frame["linewidth"] = 2.4 if found.kept and found.ended else 0.9  # type: ignore[assignment]
    weight = "bold" if number in way else "normal"
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
