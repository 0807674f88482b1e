"""The HTML report of an evaluation: scores with intervals, diversity, and example images."""

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
    middle = max(0, (len(order) - MAX_SHOWN) // 2)
    messages = [part for part in (evaluation.diagnosis, evaluation.rejections, *evaluation.problems) if part]
    sections: list[Section] = [
        *([Text("\n\n".join(messages))] if messages else []),
        Table(("score, times 100", "value", "95 % interval"), score_rows(evaluation), evaluation.signature, "Scores"),
        Table(("statistic", "value"), diversity_rows(evaluation), heading="Diversity and completeness"),
        Figure(
            draw_score_against_length(
                evaluation.scores.lengths, evaluation.scores.per_image[name].tolist(), name, evaluation.unit
            ),
            f"mean {name} at each caption length",
            heading="Score against length",
        ),
        *_curves(metrics_csv),
        Gallery(_cards(evaluation, order[:MAX_SHOWN]), heading=f"Best by {name}"),
        Gallery(_cards(evaluation, order[middle : middle + MAX_SHOWN]), heading="Around the median"),
        Gallery(_cards(evaluation, order[::-1][:MAX_SHOWN]), heading="Worst"),
    ]
    write_report(path, f"{evaluation.system} on {evaluation.split}", sections)


def ranking_score(scores: Scores) -> str:
    """Returns the score that images are ordered by: the computed one best suited to single images."""
    return next(name for name in (*_RANKED_BY, *scores.per_image) if name in scores.per_image)


def score_rows(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """Returns name, value and 95 % interval of each score, times 100 as in papers."""
    rows = []
    for name, value in evaluation.scores.corpus.items():
        interval = evaluation.intervals.get(name)
        span = "" if interval is None else f"{100 * interval.low:.2f} to {100 * interval.high:.2f}"
        rows.append((name, f"{100 * value:.2f}", span))
    return rows


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


def _cards(evaluation: Evaluation, indices: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.intp]]) -> list[Card]:
    cards = []
    for index in indices:
        item = evaluation.items[int(index)]
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
