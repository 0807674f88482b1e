"""Checks of a data set before training: contents, defects, and whether it can be trained on."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from seesay.config import DataConfig, TextConfig
from seesay.data.annotations import assign_splits, limit_annotations
from seesay.data.readers.images import Identities
from seesay.data.records import Annotation, Annotations, count, name_some
from seesay.data.validation.inspection import Inspection, inspect_images
from seesay.data.validation.statistics import (
    CaptionStatistics,
    caption_statistics,
    letterless_captions,
    level_advice,
    repeated_captions,
)
from seesay.data.validation.trainability import training_obstacles, wordless_captions
from seesay.errors import DataError


@dataclass(frozen=True)
class SplitCount:
    """Size of a split; `name` is empty for images without a split."""

    name: str
    images: int
    captions: int


@dataclass(frozen=True)
class DataReport:
    """Contents and defects of a data set.

    Attributes:
        source: Path of the data.
        format: Name of the reader.
        images: Number of annotated images, readable or not, without missing ones.
        captions: Number of their captions.
        splits: Size of each split.
        problems: Problems that the reader reported.
        missing: Captioned images that were not found.
        unreadable: Images that cannot be decoded, with the reason.
        too_large: Images above the pixel limit, with their size.
        suspect: Images that can be decoded but look damaged, with the reason.
        duplicates: Groups of image ids with identical bytes.
        leaks: Image ids (or groups of ids with identical bytes) in more than one split, with the splits.
        not_opened: Number of images not opened: images at URLs, or all with `open_images=False`.
        widths: Minimum, median and maximum width in pixels; empty if no image was read.
        heights: Minimum, median and maximum height in pixels; empty if no image was read.
        wordless: Captions that are empty after cleaning, with their images.
        letterless: Captions without letters, with their images.
        repeated: Captions that one image has more than once, with their images.
        text: Caption statistics, or None if the training captions have no words.
        obstacles: Reasons why training would fail; empty if it can start.
        advice: Recommended settings, one line each.
    """

    source: str
    format: str
    images: int
    captions: int
    splits: tuple[SplitCount, ...]
    problems: tuple[str, ...]
    missing: tuple[str, ...]
    unreadable: tuple[str, ...]
    too_large: tuple[str, ...]
    suspect: tuple[str, ...]
    duplicates: tuple[tuple[str, ...], ...]
    leaks: tuple[str, ...]
    not_opened: int
    widths: tuple[int, ...]
    heights: tuple[int, ...]
    wordless: tuple[str, ...]
    letterless: tuple[str, ...]
    repeated: tuple[str, ...]
    text: CaptionStatistics | None
    obstacles: tuple[str, ...]
    advice: tuple[str, ...] = ()

    @property
    def trainable(self) -> bool:
        """Whether training can start, with or without defects."""
        return not self.obstacles

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a JSON-serialisable dictionary, including `trainable`."""
        return {**asdict(self), "trainable": self.trainable}

    def rows(self) -> list[tuple[str, str]]:
        """Return the report as (label, text) pairs."""
        trainable = "yes" if self.trainable else f"no: {'; '.join(self.obstacles)}"
        advice = [("advice", line) for line in self.advice]
        return [*self._contents(), *self._words(), *self._defects(), *advice, ("trainable", trainable)]

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        rows = self.rows()
        width = max(len(label) for label, _ in rows)
        return [f"{label:<{width}}  {text}" for label, text in rows]

    def _contents(self) -> list[tuple[str, str]]:
        rows = [
            ("data", f"{self.source} ({self.format})"),
            ("all", f"{count(self.images, 'image')}, {count(self.captions, 'caption')}"),
        ]
        for split in self.splits:
            amount = f"{count(split.images, 'image')}, {count(split.captions, 'caption')}"
            rows.append((split.name or "no split", amount))
        for label, sizes in (("widths", self.widths), ("heights", self.heights)):
            if sizes:
                rows.append((label, f"{sizes[0]:,} to {sizes[2]:,} pixels, median {sizes[1]:,}"))
        return rows

    def _words(self) -> list[tuple[str, str]]:
        text = self.text
        if text is None:
            return []
        lengths = f"{text.shortest} to {count(text.longest, text.unit)}, median {text.median:g}"
        shares = ", ".join(f"{size:,} cover {100 * share:.1f} %" for size, share in text.coverage)
        return [
            ("lengths", f"{lengths}, mean {text.mean:.1f}, 95 % at most {text.percentile_95}"),
            ("vocabulary", f"{count(text.vocabulary, text.unit)} in training; the most frequent {shares}"),
            *((f"unknown in {name}", f"{100 * share:.1f} % of the {text.unit}s") for name, share in text.unknown),
        ]

    def _defects(self) -> list[tuple[str, str]]:
        rows = [("problem", problem) for problem in self.problems]
        for label, names in (
            ("missing", self.missing),
            ("unreadable", self.unreadable),
            ("too large", self.too_large),
            ("suspect", self.suspect),
            ("duplicates", tuple(" = ".join(group) for group in self.duplicates)),
            ("leaks", self.leaks),
            ("no letters", self.letterless),
            ("repeated", self.repeated),
        ):
            if names:
                rows.append((label, f"{len(names):,}: {name_some(names, 10)}"))
        if self.wordless:
            found = count(len(self.wordless), "caption")
            rows.append(("wordless", f"{found} empty after cleaning: {name_some(self.wordless, 10)}"))
        if self.not_opened:
            rows.append(("not opened", count(self.not_opened, "image")))
        return rows


def check_data(
    annotations: Annotations,
    text: TextConfig,
    data: DataConfig | None = None,
    *,
    open_images: bool = True,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Return the contents and defects of a data set; open every image that is not a URL.

    If no image has a split, all count as training images.

    Args:
        annotations: Annotations from `load_annotations`.
        text: Cleaning and tokenization settings.
        data: Split and limit settings of training; None: defaults.
        open_images: Open the images; required to find damaged and duplicate images.
        workers: Number of threads that open images; 0: one per CPU, at most 8.
        progress: Called with the number of images done and the total.
    """
    settings, split_error = data or DataConfig(), ""
    try:
        with_splits = assign_splits(annotations, settings)
    except DataError as error:
        with_splits, split_error = annotations, str(error)
    annotations = with_splits if annotations.splits else annotations
    images = list(dict.fromkeys(item.image for item in annotations))
    inspections = inspect_images(images, workers, progress) if open_images else []
    broken = [one for one in inspections if one.error is not None]
    unreadable = {one.image for one in broken}
    duplicates = _duplicates(inspections, annotations)
    training = annotations.split("train") if annotations.splits else annotations
    statistics_of_text = caption_statistics(
        _captions(training),
        {name: _captions(annotations.split(name)) for name in _other_splits(annotations)},
        text,
    )
    return DataReport(
        source=annotations.source,
        format=annotations.format,
        images=len(images),
        captions=len(_captions(annotations)),
        splits=_splits(annotations),
        problems=annotations.problems,
        missing=annotations.missing + tuple(one.image for one in broken if one.missing),
        unreadable=tuple(str(one.error) for one in broken if not (one.missing or one.too_large)),
        too_large=tuple(str(one.error) for one in broken if one.too_large),
        suspect=tuple(f"{one.image}: {one.suspect}" for one in inspections if one.suspect is not None),
        duplicates=tuple(tuple(dict.fromkeys(item.id for item in group)) for group in duplicates),
        leaks=_leaks(annotations, duplicates),
        not_opened=len(images) - len(inspections),
        widths=_spread([one.size[0] for one in inspections if one.size is not None]),
        heights=_spread([one.size[1] for one in inspections if one.size is not None]),
        wordless=tuple(wordless_captions(annotations, text)),
        letterless=tuple(letterless_captions(annotations)),
        repeated=tuple(repeated_captions(annotations)),
        text=statistics_of_text,
        obstacles=(split_error,)
        if split_error
        else training_obstacles(limit_annotations(with_splits, settings), text, lambda image: image not in unreadable),
        advice=tuple(filter(None, [level_advice(_captions(training), text)])),
    )


def _captions(items: Iterable[Annotation]) -> list[str]:
    return [caption for item in items for caption in item.captions]


def _other_splits(annotations: Annotations) -> list[str]:
    return [name for name in annotations.splits if name not in ("train", "restval")]


def _splits(annotations: Annotations) -> tuple[SplitCount, ...]:
    """Return the size of each split, images without a split last."""
    counts = []
    for name in (*annotations.splits, None):
        items = [item for item in annotations if item.split == name]
        if items:
            counts.append(SplitCount(name or "", len(items), len(_captions(items))))
    return tuple(counts)


def _spread(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the minimum, median and maximum, or an empty tuple."""
    return (min(sizes), int(statistics.median(sizes)), max(sizes)) if sizes else ()


def _duplicates(inspections: Iterable[Inspection], annotations: Annotations) -> list[list[Annotation]]:
    """Return the groups of annotations whose images are different files with the same bytes."""
    images: dict[str, list[str]] = defaultdict(list)
    for one in inspections:
        if one.digest is not None:
            images[one.digest].append(one.image)
    items: dict[str, list[Annotation]] = defaultdict(list)
    for item in annotations:
        items[item.image].append(item)
    return [[item for image in same for item in items[image]] for same in images.values() if len(same) > 1]


def _leaks(annotations: Annotations, duplicates: Sequence[Sequence[Annotation]]) -> tuple[str, ...]:
    """Return the images (equal id, file or bytes) that are in more than one split; restval counts as train."""
    identities = Identities()
    groups: dict[tuple[str, str], list[Annotation]] = defaultdict(list)
    for item in annotations:
        groups["id", item.id].append(item)
        groups["image", identities.of(item.image)].append(item)
    leaks = []
    for group in (*groups.values(), *duplicates):
        splits = {"train" if item.split == "restval" else item.split for item in group} - {None}
        if len(splits) > 1:
            names = " = ".join(dict.fromkeys(item.id for item in group))
            leaks.append(f"{names} ({', '.join(sorted(map(str, splits)))})")
    return tuple(dict.fromkeys(leaks))
