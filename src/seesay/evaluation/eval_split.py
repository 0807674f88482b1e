"""The images and references of a split that systems are scored on."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from seesay.config import DataConfig
from seesay.data.annotations import assign_splits, load_annotations
from seesay.data.readers.columns import USUAL_NAMES, ColumnNames
from seesay.data.records import Annotation, Annotations
from seesay.errors import DataError

ALL = "all"
"""Name of the split of all images."""


@dataclass(frozen=True)
class EvalSplit:
    """The images that a system is scored on.

    Attributes:
        items: images with their references; image files may be missing.
        split: name of the split, with the fractions and seed if the data has no splits.
        training: training captions; None if there are none, or if the training split is scored.
        problems: one line per problem of the data.
        uncaptioned: images without references, which cannot be scored.
    """

    items: tuple[Annotation, ...]
    split: str
    training: list[str] | None
    problems: tuple[str, ...]
    uncaptioned: tuple[str, ...]


def read_eval_split(
    data: str | Path,
    split: str | None,
    config: DataConfig | None = None,
    columns: ColumnNames = USUAL_NAMES,
    used: Mapping[str, str] | None = None,
) -> EvalSplit:
    """Returns the images and references of a split, without the limits of training (images, captions).

    A random split depends on all images of the data. If they have changed since a run was trained, the test images are
    those that the run has not used.

    Args:
        data: anything `load_annotations` reads.
        split: name of the split or `all`; None: test, or the only split unless it is for training, or all of data
            without splits.
        config: split settings of the run, so that data without splits gets the test images of training; None: defaults,
            used only if a split is requested.
        columns: table columns to use instead of those of the run.
        used: split, train or val, of the images that the run used, by id.

    Raises:
        DataError: the data cannot be read, or the split is empty.
    """
    settings = config or DataConfig()
    read = partial(load_annotations, data, settings.format, columns=columns.over(settings))
    annotations = read(require_images=False)
    suffix = ""
    if settings.resplit or (not annotations.splits and (config is not None or split not in (None, ALL))):
        if config is not None:
            with suppress(DataError):  # there are no images: split all captions
                annotations = read()  # as in training, split only images that exist
        annotations = assign_splits(annotations, settings)
        suffix = f" (split {settings.split_fractions}, seed {settings.split_seed})"
        now = {item.id: item.split for item in annotations}
        if used and any(now.get(image) != before for image, before in used.items()):
            annotations = replace(
                annotations, items=tuple(replace(item, split=used.get(item.id, "test")) for item in annotations)
            )
            suffix = " (images that training did not use)"
    only = annotations.splits[0] if len(annotations.splits) == 1 else "test"
    if only in ("train", "restval"):  # scores on training images must be requested by name
        only = "test"
    name = split or (only if annotations.splits else ALL)
    items = annotations.items if name == ALL else annotations.split(name).items
    if not items:
        raise DataError(
            f"{annotations.source} has no image in split {name!r}; it has {', '.join(annotations.splits) or 'none'}"
        )
    problems = annotations.problems
    if name not in ("train", "val") and used and (known := sum(item.id in used for item in items)):
        problems += (f"{known} of the {len(items)} images were used in training; the scores are too high",)
    return EvalSplit(
        items=_merge_splits(items) if name == ALL else items,
        split=name + (suffix if name != ALL else ""),
        training=_training_captions(annotations, name),
        problems=problems,
        uncaptioned=annotations.uncaptioned,
    )


def base_name(split: str) -> str:
    """Return the name of a split without the description of a random one: `test` of `test (split 80/10/10, seed 0)`."""
    return split.partition("(")[0].strip()


def _merge_splits(items: Sequence[Annotation]) -> tuple[Annotation, ...]:
    """Returns one annotation per image, with the references of all of its splits."""
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
