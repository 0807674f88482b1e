"""Comparison of systems on the same images: significant differences, and the images with the largest ones."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from seesay.data.readers.columns import USUAL_NAMES, ColumnNames
from seesay.data.records import Annotation
from seesay.errors import DataError
from seesay.evaluation.eval_split import base_name
from seesay.evaluation.evaluators import evaluate
from seesay.evaluation.predictions import has_predictions
from seesay.evaluation.report import open_or_blank, ranking_score
from seesay.evaluation.result import PER_IMAGE_FILE, is_per_image, read_per_image
from seesay.evaluation.scoring import DEFAULT_SCORES, check_scores, score_captions
from seesay.explanation import Card, Gallery, Section, Table, Text, write_report
from seesay.files import text_bytes, write_atomically
from seesay.metrics import Difference, Scores, paired_bootstrap
from seesay.metrics.bootstrap import DRAWS, SEED, bootstrap_recipe
from seesay.notebook import ResultTable
from seesay.outputs import FolderKind, check_folder

if TYPE_CHECKING:
    from rich.console import Group

COMPARISON = FolderKind(
    "comparison", ("comparison.html", "comparison.json"), signature=("comparison.json", b'"against_the_first": ')
)
MAX_SHOWN = 5
"""Number of images shown with the largest gains and losses."""


@dataclass(frozen=True)
class System:
    """One set of captions to compare.

    Attributes:
        name: path as passed by the user.
        items: images with their references.
        predictions: caption by image id.
        scores: recomputed scores.
        split: name of the split.
        signature: signature of the evaluation.
        missing: reasons why requested scores are missing, by score.
    """

    name: str
    items: tuple[Annotation, ...]
    predictions: dict[str, str]
    scores: Scores
    split: str
    signature: str
    missing: dict[str, str]


HEADER = ("x 100", "first", "second", "difference", "95 % interval", "p", "differs")
"""Columns of `difference_rows`; short, so that a terminal of 80 columns shows them whole."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """Differences of systems to the first of them.

    Attributes:
        systems: the systems, with the same images in the same order.
        differences: differences to the first system by score, for each further system.
        ranked_by: the score by which single images are compared.
        extremes: ids of the images with the largest gains and the largest losses, for each further system.
        draws: number of bootstrap draws of intervals and p-values.
    """

    systems: tuple[System, ...]
    differences: tuple[dict[str, Difference], ...]
    ranked_by: str
    extremes: tuple[tuple[list[str], list[str]], ...]
    draws: int = DRAWS

    def __repr__(self) -> str:
        return f"Comparison({' | '.join(system.name for system in self.systems)}, {len(self.systems[0].items)} images)"

    def tables(self) -> list[ResultTable]:
        """Return the differences to the first system, as notebooks and `rich.print` show them."""
        first, *others = self.systems
        return [
            ResultTable(f"first {first.name}, second {other.name}", HEADER, difference_rows(each), other.signature)
            for other, each in zip(others, self.differences, strict=True)
        ]

    def __rich__(self) -> "Group":
        from rich.console import Group

        return Group(*(table.rich() for table in self.tables()))

    def _repr_html_(self) -> str:
        return "".join(table.html() for table in self.tables())

    @property
    def recipe(self) -> str:
        """Signature part of intervals and p-values."""
        return bootstrap_recipe(self.draws)

    @property
    def warnings(self) -> list[str]:
        """One line per reason why scores may be misleading."""
        lines = [line for system in self.systems for line in system.scores.warnings]
        decodings = dict.fromkeys(_decoding(system.signature) for system in self.systems)
        if len(decodings) > 1:
            lines.append(f"the captions were generated differently: {', '.join(decodings)}")
        return list(dict.fromkeys(lines))

    @property
    def missing(self) -> dict[str, str]:
        """Reasons why requested scores are missing, by score."""
        return {name: reason for system in self.systems for name, reason in system.missing.items()}

    def to_dict(self) -> dict[str, object]:
        """Returns the content of `comparison.json`."""
        first, *others = self.systems
        return {
            "images": len(first.items),
            "bootstrap": {"draws": self.draws, "seed": SEED},
            "systems": [
                {"name": system.name, "signature": system.signature, "scores": system.scores.corpus}
                for system in self.systems
            ],
            "against_the_first": [
                {
                    "name": system.name,
                    "differences": {
                        name: {**asdict(found), "significant": found.significant} for name, found in each.items()
                    },
                    "gains_most_on": gains,
                    "loses_most_on": losses,
                }
                for system, each, (gains, losses) in zip(others, self.differences, self.extremes, strict=True)
            ],
            "missing_scores": self.missing,
            "warnings": self.warnings,
        }


def compare(
    names: Sequence[str | Path],
    *,
    data: str | Path | None = None,
    split: str | None = None,
    tokenization: str | None = None,
    metrics: Sequence[str] = DEFAULT_SCORES,
    draws: int = DRAWS,
    columns: ColumnNames = USUAL_NAMES,
) -> Comparison:
    """Compares systems with the first one by a paired bootstrap over images.

    Args:
        names: two or more evaluated run folders, evaluation folders, `per_image.parquet` files or prediction files
            (which need `data`).
        data: annotations for prediction files.
        split: name of the split; None: the evaluated one, or for prediction files as in `read_eval_split`.
        tokenization: tokenization of prediction files; None: that of the first evaluation, else ptb.
        metrics: see `score_captions`.
        draws: number of bootstrap draws.
        columns: table columns in `data` to use instead of the common names.

    Raises:
        DataError: a system is not evaluated yet, or images or references differ.
    """
    if len(names) < 2:
        raise DataError("pass at least two systems to compare")
    check_scores(metrics, draws)
    paths = list(map(Path, names))
    evaluated = [_evaluated(path, split, metrics) for path in paths]
    tokenization_of_evaluations = next((system.scores.tokenization for system in evaluated if system is not None), None)
    options: _Options = {
        "split": split,
        "tokenization": tokenization or tokenization_of_evaluations,
        "metrics": metrics,
        "columns": columns,
    }
    first, *others = [system or _predicted(path, data, options) for path, system in zip(paths, evaluated, strict=True)]
    systems = (first, *(_aligned(system, first, metrics) for system in others))
    differences = tuple(paired_bootstrap(first.scores, system.scores, draws=draws) for system in systems[1:])
    ranked_by = ranking_score(first.scores)
    extremes = tuple(_extremes(first, system, ranked_by) for system in systems[1:])
    return Comparison(systems, differences, ranked_by, extremes, draws)


def save_comparison(comparison: Comparison, folder: Path) -> None:
    """Writes `comparison.json` and `comparison.html` into a folder, each atomically.

    Raises:
        DataError: the folder contains files of these names not written by seesay.
        SeesayError: a file cannot be written.
    """
    check_folder(folder, COMPARISON)
    content = json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / "comparison.json", text_bytes(content))
    first, *others = comparison.systems
    signatures = [f"{system.name}: {system.signature}" for system in comparison.systems]
    sections: list[Section] = [
        Text("\n\n".join([*signatures, comparison.recipe, *comparison.warnings, *comparison.missing.values()]))
    ]
    for system, each, (gains, losses) in zip(others, comparison.differences, comparison.extremes, strict=True):
        title = f"{system.name} against {first.name}"
        sections.append(Table(HEADER, difference_rows(each), heading=title))
        for kind, ids in (("gains", gains), ("loses", losses)):
            heading = f"Where {system.name} {kind} most in {comparison.ranked_by}"
            sections.append(Gallery(_cards(first, system, ids, comparison.ranked_by), heading=heading))
    write_report(folder / "comparison.html", f"{len(comparison.systems)} systems compared", sections)


def difference_rows(differences: dict[str, Difference]) -> list[tuple[str, ...]]:
    """Returns one row per score: both values, difference, interval, p-value, and whether the interval excludes 0."""
    return [
        (
            name,
            f"{100 * found.first:.2f}",
            f"{100 * found.second:.2f}",
            f"{100 * found.value:+.2f}",
            f"{100 * found.interval.low:+.2f} to {100 * found.interval.high:+.2f}",
            f"{found.p_value:.3f}",
            "yes" if found.significant else "no",
        )
        for name, found in differences.items()
    ]


def _decoding(signature: str) -> str:
    """Return the part of a signature that states how captions were generated."""
    return next((part for part in signature.split("|") if part.startswith("captions:")), "")


class _Options(TypedDict):
    """Arguments of `evaluate` for prediction files."""

    split: str | None
    tokenization: str | None
    metrics: Sequence[str]
    columns: ColumnNames


def _evaluated(path: Path, split: str | None, metrics: Sequence[str]) -> System | None:
    """Returns an evaluated system; None for a prediction file."""
    if not path.exists():
        raise DataError(f"{path} does not exist; pass a run, an evaluation folder or a prediction file")
    candidates = (path, path / PER_IMAGE_FILE, path / "predictions" / (split or "test") / PER_IMAGE_FILE)
    table = next((candidate for candidate in candidates if is_per_image(candidate)), None)
    if table is None and not has_predictions(path):
        raise DataError(
            f"{path} has no scores on {split or 'test'} yet; first run: seesay evaluate {path} DATA"
            + (f" --split {split}" if split else "")
        )
    if table is None:
        return None
    items, predictions, metadata = read_per_image(table)
    if split is not None and base_name(metadata["split"]) != split:
        raise DataError(f"{path} has split {metadata['split']}, not {split}; evaluate it on {split}, or remove it")
    scores, missing = score_captions(
        items, list(predictions.values()), tokenization=metadata["tokenization"], metrics=metrics
    )
    return System(str(path), tuple(items), predictions, scores, metadata["split"], metadata["signature"], missing)


def _predicted(path: Path, data: str | Path | None, options: _Options) -> System:
    """Returns a system from its prediction file."""
    if data is None:
        raise DataError(f"{path} is a prediction file; pass its references with --data DATA")
    found = evaluate(path, data, **options)
    return System(
        str(path),
        found.items,
        found.predictions,
        found.scores,
        found.split,
        found.signature,
        found.missing_scores,
    )


def _aligned(system: System, first: System, metrics: Sequence[str]) -> System:
    """Returns a system with its images in the order of the first system.

    Raises:
        DataError: images, references, split or tokenization differ.
    """
    ids = {item.id for item in first.items}
    other = {item.id: item for item in system.items}
    if different := sorted(ids ^ other.keys()):
        raise DataError(
            f"{system.name} and {first.name} have different images: {len(different)} are in only one of them, "
            f"such as {different[0]}"
        )
    if system.split != first.split:
        raise DataError(f"{system.name} has split {system.split}, {first.name} has {first.split}; use one split")
    if system.scores.tokenization != first.scores.tokenization:
        raise DataError(
            f"{system.name} was scored on {system.scores.tokenization} tokens, {first.name} on "
            f"{first.scores.tokenization}; evaluate both with one tokenization"
        )
    for item in first.items:
        if sorted(item.captions) != sorted(other[item.id].captions):
            raise DataError(f"{system.name} and {first.name} have different references of image {item.id}")
    if system.scores.ids == first.scores.ids:
        return system
    texts = [system.predictions[item.id] for item in first.items]
    scores, missing = score_captions(first.items, texts, tokenization=first.scores.tokenization, metrics=metrics)
    predictions = dict(zip(first.scores.ids, texts, strict=True))
    return replace(system, items=first.items, predictions=predictions, scores=scores, missing=missing)


def _extremes(first: System, system: System, name: str) -> tuple[list[str], list[str]]:
    """Returns the images with the largest gains and the largest losses of a system over the first one."""
    change = system.scores.per_image[name] - first.scores.per_image[name]
    order = np.argsort(-change, kind="stable")
    ids = first.scores.ids
    gains = [ids[index] for index in order[:MAX_SHOWN] if change[index] > 0]
    losses = [ids[index] for index in order[::-1][:MAX_SHOWN] if change[index] < 0]
    return gains, losses


def _cards(first: System, second: System, ids: Sequence[str], name: str) -> list[Card]:
    items = {item.id: item for item in first.items}
    index_of = {image_id: index for index, image_id in enumerate(first.scores.ids)}
    return [
        Card(
            image=open_or_blank(items[image_id]),
            caption=second.predictions[image_id],
            references=items[image_id].captions,
            other=(first.name, first.predictions[image_id]),
            scores={
                f"{name} of {system.name}": 100 * float(system.scores.per_image[name][index_of[image_id]])
                for system in (first, second)
            },
            name=image_id,
        )
        for image_id in ids
    ]
