"""What a system is scored on: the images and references of a split, and what is wrong with them."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from seesay.config import DataConfig
from seesay.data.annotations import deal_splits, load_annotations
from seesay.data.readers.columns import USUAL_NAMES, ColumnNames
from seesay.data.records import Annotation, Annotations
from seesay.errors import DataError

ALL = "all"
"""The name of the split that takes every image."""


@dataclass(frozen=True)
class EvalSplit:
    """The images that a system is scored on.

    Attributes:
        items: the images with their references; an image need not be there.
        split: the split's name, with how it was dealt where the data has none of its own.
        training: the captions of the training split; None where there is none, or where it is what is scored.
        problems: what is wrong with the data, a line each.
        silent: images that have no references and cannot be scored.
    """

    items: tuple[Annotation, ...]
    split: str
    training: list[str] | None
    problems: tuple[str, ...]
    silent: tuple[str, ...]


def read_eval_split(
    data: str | Path, split: str | None, config: DataConfig | None = None, columns: ColumnNames = USUAL_NAMES
) -> EvalSplit:
    """Returns the images and references of a split.

    The limits that a run was trained under (so many images, so many captions) do not hold here.

    Args:
        data: anything `load_annotations` reads.
        split: its name, `all`, or None: the test split, or the only one there is (unless that is for training), or all
            of the data where it has none.
        config: how a run deals data that has no splits, so that its test images are those it did not see; None =
            by the defaults, and only if a split is asked for.
        columns: columns of tables, instead of those that the run was trained on.

    Raises:
        DataError: the data cannot be read, or the split is empty.
    """
    settings = config or DataConfig()
    read = partial(load_annotations, data, settings.format, columns=columns.over(settings))
    annotations = read(require_images=False)
    dealt = ""
    if settings.resplit or (not annotations.splits and (config is not None or split not in (None, ALL))):
        if config is not None:
            with suppress(DataError):  # no image is there: all captions are dealt
                annotations = read()  # training dealt the images that are there: others would change the deal
        annotations = deal_splits(annotations, settings)
        dealt = f"(dealt {settings.split_fractions} by seed {settings.split_seed})"
    only = annotations.splits[0] if len(annotations.splits) == 1 else "test"
    if only in ("train", "restval"):  # scores on what was trained on are asked for by name
        only = "test"
    name = split or (only if annotations.splits else ALL)
    items = annotations.items if name == ALL else annotations.split(name).items
    if not items:
        raise DataError(
            f"{annotations.source} has no image in split {name!r}; it has {', '.join(annotations.splits) or 'none'}"
        )
    return EvalSplit(
        items=_once(items) if name == ALL else items,
        split=name + (dealt if name != ALL else ""),
        training=_training_captions(annotations, name),
        problems=annotations.problems,
        silent=annotations.silent,
    )


def _once(items: Sequence[Annotation]) -> tuple[Annotation, ...]:
    """Returns one annotation an image: one that is in two splits counts once, with the references of both."""
    found: dict[str, Annotation] = {}
    for item in items:
        before = found.get(item.id)
        found[item.id] = item if before is None else replace(before, captions=before.captions + item.captions)
    return tuple(found.values())


def _training_captions(annotations: Annotations, split: str) -> list[str] | None:
    items = [item for item in annotations if item.split in ("train", "restval")]
    if not items or split in (ALL, "train", "training", "restval"):
        return None
    return [caption for item in items for caption in item.captions]
