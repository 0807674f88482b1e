"""Systems against each other on the same images: which differences are real, and where they differ most."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np

from seesay.data.readers.columns import USUAL_NAMES, ColumnNames
from seesay.data.records import Annotation
from seesay.errors import DataError
from seesay.evaluation.predictions import has_predictions
from seesay.evaluation.report import open_or_blank, ranking_score
from seesay.evaluation.result import PER_IMAGE_FILE, is_per_image, read_per_image
from seesay.evaluation.scoring import DEFAULT_SCORES, check_scores, score_captions
from seesay.evaluation.systems import evaluate
from seesay.files import text_bytes, write_atomically
from seesay.metrics import Difference, Scores, paired_bootstrap
from seesay.metrics.bootstrap import DRAWS, SEED, bootstrap_recipe
from seesay.outputs import FolderKind, check_folder
from seesay.visualise import Card, Gallery, Section, Table, Text, write_report

COMPARISON = FolderKind(
    "comparison", ("comparison.html", "comparison.json"), signature=("comparison.json", b'"against_the_first": ')
)
SHOWN = 5
"""Images shown of those where a system gains or loses most."""


@dataclass(frozen=True)
class System:
    """One set of captions to compare.

    Attributes:
        name: as it was given.
        items: the images with their references.
        predictions: caption by image id.
        scores: computed anew.
        split: which images they are.
        signature: that of the evaluation it comes from.
        missing: why a score that was asked for is absent.
    """

    name: str
    items: tuple[Annotation, ...]
    predictions: dict[str, str]
    scores: Scores
    split: str
    signature: str
    missing: dict[str, str]


@dataclass(frozen=True)
class Comparison:
    """What sets systems apart from the first of them.

    Attributes:
        systems: in the order given, on the same images in the same order.
        differences: for each system but the first, by score.
        ranked_by: the score by which single images are compared.
        apart: for each system but the first, the images it gains most on and those it loses most on.
        draws: bootstrap draws of the intervals and p-values.
    """

    systems: tuple[System, ...]
    differences: tuple[dict[str, Difference], ...]
    ranked_by: str
    apart: tuple[tuple[list[str], list[str]], ...]
    draws: int = DRAWS

    @property
    def recipe(self) -> str:
        """Returns what intervals and p-values depend on besides the scores."""
        return bootstrap_recipe(self.draws)

    @property
    def warnings(self) -> list[str]:
        """Returns why scores may not mean what they seem to, a line each."""
        return list(dict.fromkeys(line for system in self.systems for line in system.scores.warnings))

    @property
    def missing(self) -> dict[str, str]:
        """Returns why each score that was asked for and is absent of one of them cannot be had."""
        return {name: reason for system in self.systems for name, reason in system.missing.items()}

    def to_dict(self) -> dict[str, object]:
        """Returns what `comparison.json` holds."""
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
                    "differences": {name: {**asdict(found), "real": found.real} for name, found in each.items()},
                    "gains_most_on": gains,
                    "loses_most_on": losses,
                }
                for system, each, (gains, losses) in zip(others, self.differences, self.apart, strict=True)
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
    """Returns how systems differ from the first one, by a paired bootstrap over the images.

    Args:
        names: two or more of: run folders that were evaluated, folders or `per_image.parquet` of evaluations,
            files of predictions (these need `data`).
        data: the annotations that files of predictions are scored against.
        split: which images; None = those that were evaluated, for files of predictions see `read_eval_split`.
        tokenization: of files of predictions; evaluations keep theirs. None = that of the evaluations beside them,
            else ptb.
        metrics: which scores; see `score_captions`.
        draws: bootstrap draws.
        columns: columns of tables in `data` with names that are not usual.

    Raises:
        DataError: one of them was not evaluated yet, or they are not of the same images and references.
    """
    if len(names) < 2:
        raise DataError("name at least two systems to compare")
    check_scores(metrics, draws)
    paths = list(map(Path, names))
    evaluated = [_evaluated(path, split, metrics) for path in paths]
    kept = next((system.scores.tokenization for system in evaluated if system is not None), None)
    options: _Options = {
        "split": split,
        "tokenization": tokenization or kept,
        "metrics": metrics,
        "columns": columns,
    }
    first, *others = [system or _predicted(path, data, options) for path, system in zip(paths, evaluated, strict=True)]
    systems = (first, *(_aligned(system, first, metrics) for system in others))
    differences = tuple(paired_bootstrap(first.scores, system.scores, draws=draws) for system in systems[1:])
    ranked_by = ranking_score(first.scores)
    apart = tuple(_apart(first, system, ranked_by) for system in systems[1:])
    return Comparison(systems, differences, ranked_by, apart, draws)


def save_comparison(comparison: Comparison, folder: Path) -> None:
    """Writes `comparison.json` and `comparison.html` into a folder, each whole or absent.

    Raises:
        DataError: the folder holds files of these names that seesay did not write.
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
    for system, each, (gains, losses) in zip(others, comparison.differences, comparison.apart, strict=True):
        header = ("score, times 100", "first", "second", "difference", "95 % interval", "p", "real")
        title = f"{system.name} against {first.name}"
        sections.append(Table(header, difference_rows(each), heading=title))
        for kind, ids in (("gains", gains), ("loses", losses)):
            heading = f"Where {system.name} {kind} most in {comparison.ranked_by}"
            sections.append(Gallery(_cards(first, system, ids, comparison.ranked_by), heading=heading))
    write_report(folder / "comparison.html", f"{len(comparison.systems)} systems compared", sections)


def difference_rows(differences: dict[str, Difference]) -> list[tuple[str, ...]]:
    """Returns a row a score: both values, their difference, its interval, the p-value, whether it is real."""
    return [
        (
            name,
            f"{100 * found.first:.2f}",
            f"{100 * found.second:.2f}",
            f"{100 * found.value:+.2f}",
            f"{100 * found.interval.low:+.2f} to {100 * found.interval.high:+.2f}",
            f"{found.p_value:.3f}",
            "yes" if found.real else "no",
        )
        for name, found in differences.items()
    ]


class _Options(TypedDict):
    """How files of predictions are scored: arguments of `evaluate`."""

    split: str | None
    tokenization: str | None
    metrics: Sequence[str]
    columns: ColumnNames


def _evaluated(path: Path, split: str | None, metrics: Sequence[str]) -> System | None:
    """Returns a system that was evaluated; None for a file of predictions."""
    if not path.exists():
        raise DataError(f"{path} does not exist; name a run, the folder of an evaluation, or a file of predictions")
    places = (path, path / PER_IMAGE_FILE, path / "predictions" / (split or "test") / PER_IMAGE_FILE)
    table = next((place for place in places if is_per_image(place)), None)
    if table is None and not has_predictions(path):
        raise DataError(
            f"{path} has no scores on {split or 'test'} yet; run first: seesay evaluate {path} DATA"
            + (f" --split {split}" if split else "")
        )
    if table is None:
        return None
    items, predictions, about = read_per_image(table)
    if split is not None and about["split"] != split:
        raise DataError(f"{path} is of split {about['split']}, not of {split}; evaluate it on {split}, or leave it")
    scores, missing = score_captions(
        items, list(predictions.values()), tokenization=about["tokenization"], metrics=metrics
    )
    return System(str(path), tuple(items), predictions, scores, about["split"], about["signature"], missing)


def _predicted(path: Path, data: str | Path | None, options: _Options) -> System:
    """Returns a system from its file of predictions."""
    if data is None:
        raise DataError(f"{path} is a file of predictions; name what it is scored against with --data DATA")
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
    """Returns a system with its images in the order of the first one's.

    Raises:
        DataError: the images or their references are others, or captions were cut into words in another way.
    """
    ids = {item.id for item in first.items}
    other = {item.id: item for item in system.items}
    if different := sorted(ids ^ other.keys()):
        raise DataError(
            f"{system.name} and {first.name} are not of the same images: {len(different)} are in one only, "
            f"such as {different[0]}"
        )
    if system.split != first.split:
        raise DataError(f"{system.name} is of split {system.split}, {first.name} of {first.split}; compare on one")
    if system.scores.tokenization != first.scores.tokenization:
        raise DataError(
            f"{system.name} was scored on {system.scores.tokenization} tokens, {first.name} on "
            f"{first.scores.tokenization}; evaluate both in one way"
        )
    for item in first.items:
        if sorted(item.captions) != sorted(other[item.id].captions):
            raise DataError(f"{system.name} and {first.name} have other references of image {item.id}")
    if system.scores.ids == first.scores.ids:
        return system
    texts = [system.predictions[item.id] for item in first.items]
    scores, missing = score_captions(first.items, texts, tokenization=first.scores.tokenization, metrics=metrics)
    predictions = dict(zip(first.scores.ids, texts, strict=True))
    return replace(system, items=first.items, predictions=predictions, scores=scores, missing=missing)


def _apart(first: System, system: System, name: str) -> tuple[list[str], list[str]]:
    """Returns the images on which a system gains most over the first one, and those on which it loses most."""
    change = system.scores.per_image[name] - first.scores.per_image[name]
    order = np.argsort(-change, kind="stable")
    ids = first.scores.ids
    gains = [ids[place] for place in order[:SHOWN] if change[place] > 0]
    losses = [ids[place] for place in order[::-1][:SHOWN] if change[place] < 0]
    return gains, losses


def _cards(first: System, second: System, ids: Sequence[str], name: str) -> list[Card]:
    items = {item.id: item for item in first.items}
    places = {image_id: place for place, image_id in enumerate(first.scores.ids)}
    return [
        Card(
            image=open_or_blank(items[image_id]),
            caption=second.predictions[image_id],
            references=(f"{first.name}: {first.predictions[image_id]}", *items[image_id].captions),
            scores={
                f"{name} of {system.name}": 100 * float(system.scores.per_image[name][places[image_id]])
                for system in (first, second)
            },
            name=image_id,
        )
        for image_id in ids
    ]
