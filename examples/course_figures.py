"""Draw the figures of docs/course/: `python examples/course_figures.py docs/images`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

CAPTIONS = (
    "<start> a large red circle is above a star <end>",
    "<start> a blue square <end>",
    "<start> a small cross on the left <end>",
)
REAL, PADDING, EDGE, INK = "#cfe3f5", "#eeeeee", "#5b6b7a", "#202124"
BOXES = (
    ("image", "pixel values\n(B, 3, height, width)"),
    ("encoder\n(frozen)", "features\n(B, N, F)"),
    ("dense,\nReLU", "memory\n(B, N, D)"),
    ("attention", "context\n(B, D)"),
    ("GRU", "state\n(B, H)"),
    ("two dense\nlayers", "logits\n(B, V)"),
)


def pipeline(path: Path) -> None:
    """Draw the parts of an attention captioner with the shapes of their outputs."""
    figure, axes = plt.subplots(figsize=(10, 2.7))
    for place, (name, output) in enumerate(BOXES):
        left = 1.75 * place
        axes.add_patch(Rectangle((left, 0), 1.15, 1, facecolor=REAL, edgecolor=EDGE))
        axes.text(left + 0.575, 0.5, name, ha="center", va="center", color=INK, fontsize=10)
        axes.text(left + 0.575, -0.16, output, ha="center", va="top", color=INK, fontsize=8.5)
        if place + 1 < len(BOXES):
            arrow(axes, (left + 1.15, 0.5), (left + 1.75, 0.5))
    arrow(axes, (7.575, 1), (5.825, 1), curve=0.35)
    axes.text(6.7, 1.52, "previous state queries the attention", ha="center", color=INK, fontsize=8.5)
    axes.text(7.575, -0.85, "+ embedded previous word", ha="center", color=INK, fontsize=8.5)
    axes.set(xlim=(-0.1, 10), ylim=(-1, 1.75))
    save(figure, axes, path)


def arrow(axes: Any, begin: tuple[float, float], end: tuple[float, float], curve: float = 0.0) -> None:
    """Draw an arrow."""
    style = {"arrowstyle": "->", "color": EDGE, "connectionstyle": f"arc3,rad={curve}"}
    axes.annotate("", xy=end, xytext=begin, arrowprops=style)


def packing(path: Path) -> None:
    """Draw the same captions padded and packed by time step."""
    captions = sorted((caption.split() for caption in CAPTIONS), key=len, reverse=True)
    longest = len(captions[0])
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 2.4))
    for row, caption in enumerate(captions):
        for place in range(longest):
            word = caption[place] if place < len(caption) else ""
            cell(left, place, -row, word or "<pad>", REAL if word else PADDING)
            if word:
                cell(right, place, -row, word, REAL)
    for place in range(longest):
        running = sum(place < len(caption) for caption in captions)
        right.text(place + 0.5, 1.15, str(running), ha="center", color=INK, fontsize=9)
    left.set_title("padded: every step computes every caption", fontsize=10, color=INK)
    right.set_title("packed: running captions per step", fontsize=10, color=INK)
    for axes in (left, right):
        axes.set(xlim=(-0.1, longest + 0.1), ylim=(-len(captions) + 0.9, 1.6))
        axes.axis("off")
    save(figure, left, path)


def cell(axes: Any, place: int, row: int, text: str, colour: str) -> None:
    """Draw a token."""
    axes.add_patch(Rectangle((place, row), 1, 0.9, facecolor=colour, edgecolor=EDGE, linewidth=0.6))
    axes.text(place + 0.5, row + 0.45, text, ha="center", va="center", color=INK, fontsize=6.5)


def save(figure: Any, axes: Any, path: Path) -> None:
    """Write a figure as PNG on white, so that it is legible on a dark page."""
    axes.axis("off")
    figure.savefig(path, dpi=130, bbox_inches="tight", facecolor="white", metadata={"Software": None})
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    pipeline(folder / "course-pipeline.png")
    packing(folder / "course-packing.png")


if __name__ == "__main__":
    main()
