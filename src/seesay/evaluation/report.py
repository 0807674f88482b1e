"""The HTML report of an evaluation: scores with intervals, diversity, and example images."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from seesay.data.records import Annotation
from seesay.errors import DataError, ImageError
from seesay.evaluation.result import Evaluation
from seesay.explanation import (
    Card,
    Figure,
    Gallery,
    Section,
    Table,
    Text,
    draw_score_against_length,
    draw_training_curves,
    write_report,
)
from seesay.images.loading import read_image
from seesay.metrics import Scores

MAX_SHOWN = 6
"""Number of images per gallery."""

_RANKED_BY = ("CIDEr", "METEOR", "ROUGE-L", "BLEU-4")
_PLACEHOLDER_SIZE = (224, 224)


def write_evaluation_report(evaluation: Evaluation, path: Path, metrics_csv: Path | None = None) -> None:
    """Writes the report as one HTML file.

    Args:
        evaluation: the evaluation.
        path: output file.
        metrics_csv: metrics of a run's training, for its curves.

    Raises:
        SeesayError: the file cannot be written.
    """
    name = ranking_score(evaluation.scores)
    order = np.argsort(-evaluation.scores.per_image[name], kind="stable")
    messages = [part for part in (evaluation.diagnosis, evaluation.rejections, *evaluation.problems) if part]
    sections: list[Section] = [
        *([Text("\n\n".join(messages))] if messages else []),
        Table(("score, times 100", "value", "95 % interval"), evaluation.score_rows(), evaluation.signature, "Scores"),
        Table(("statistic", "value"), diversity_rows(evaluation), heading="Diversity and completeness"),
        Figure(
            draw_score_against_length(
                evaluation.scores.lengths, evaluation.scores.per_image[name].tolist(), name, evaluation.unit
            ),
            f"mean {name} at each caption length",
            heading="Score against length",
        ),
        *_curves(metrics_csv),
        *(
            Gallery(_cards(evaluation, shown), heading=heading)
            for heading, shown in _examples(order.tolist(), name)
            if shown
        ),
    ]
    write_report(path, f"{evaluation.system} on {evaluation.split}", sections)


def _examples(order: list[int], name: str) -> list[tuple[str, list[int]]]:
    """Return heading and images of each gallery, of which no two show the same image.

    Args:
        order: positions of the images, the best first.
        name: the score that orders them.
    """
    count = min(MAX_SHOWN, math.ceil(len(order) / 3))
    best, rest = order[:count], order[count:]
    worst = rest[::-1][:count]
    between = rest[: len(rest) - len(worst)]
    start = max(0, (len(between) - count) // 2)
    return [
        (f"Best by {name}", best),
        ("Around the median", between[start : start + count]),
        ("Worst", worst),
    ]


def ranking_score(scores: Scores) -> str:
    """Returns the score that images are ordered by: the computed one best suited to single images."""
    return next(name for name in (*_RANKED_BY, *scores.per_image) if name in scores.per_image)


def diversity_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Returns the statistics printed after the scores."""
    found = evaluation.diversity
    rows = [
        ("unique captions", f"{100 * found.unique:.1f} %"),
        ("distinct-1, distinct-2", f"{found.distinct_1:.4f}, {found.distinct_2:.4f}"),
        (f"{evaluation.unit} used", str(found.vocabulary)),
        (f"{evaluation.unit} per caption", f"{found.mean_length:.2f}"),
        ("verbatim in the training captions", _share(found.in_training)),
        ("ending in a function word", _share(found.truncated)),
        *([("reaching the maximum length", _share(found.at_limit))] if found.limit_known else []),
        ("with a repeat", _share(found.repeats)),
        ("with <unk>", f"{100 * found.unknown:.1f} %"),
        ("empty", f"{100 * found.empty:.1f} %"),
    ]
    if evaluation.absent_objects is not None:
        rows.append(("mentioning an absent object", f"{100 * evaluation.absent_objects:.1f} %"))
    return rows


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def open_or_blank(item: Annotation) -> Image.Image:
    """Returns an image, or a grey placeholder if it is missing: predictions can be scored without images."""
    try:
        return read_image(item.image)
    except ImageError:
        return Image.new("RGB", _PLACEHOLDER_SIZE, (190, 190, 190))


def _curves(metrics_csv: Path | None) -> list[Section]:
    if metrics_csv is None or not metrics_csv.is_file():
        return []
    try:
        curves = draw_training_curves(metrics_csv)
    except DataError:  # a run without a finished epoch has no curves
        return []
    return [Figure(curves, "loss and CIDEr over the epochs", heading="Training")]


def _cards(evaluation: Evaluation, indices: Sequence[int]) -> list[Card]:
    cards = []
    for index in indices:
        item = evaluation.items[index]
        values = {name: 100 * float(column[index]) for name, column in evaluation.scores.per_image.items()}
        cards.append(
            Card(
                image=open_or_blank(item),
                caption=evaluation.predictions[item.id],
                references=item.captions,
                scores={name: values[name] for name in _RANKED_BY if name in values},
                name=item.id,
            )
        )
    return cards
