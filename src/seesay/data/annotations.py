"""Annotations: load any known format, assign splits, apply limits, write.

annotations = load_annotations("data/flickr8k")
annotations.split("train")[0].captions
"""

import filecmp
import json
import os
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from seesay.config import DataConfig
from seesay.data.readers.assemble import NO_SPLIT, assemble
from seesay.data.readers.columns import USUAL_NAMES, ColumnNames
from seesay.data.readers.detect import recognise
from seesay.data.readers.images import Identities, is_url, root_of
from seesay.data.records import Annotation, Annotations, Box, count
from seesay.errors import ConfigError, DataError
from seesay.files import replacing, text_bytes
from seesay.outputs import FileKind, check_file

__all__ = [
    "Annotation",
    "Annotations",
    "Box",
    "assign_splits",
    "limit_annotations",
    "load_annotations",
    "load_dataset",
    "split_annotations",
    "write_annotations",
]


def load_annotations(
    path: str | Path, format: str = "auto", *, columns: ColumnNames = USUAL_NAMES, require_images: bool = True
) -> Annotations:
    """Return the annotations in a folder or file of any known format.

    Images are located in folder listings and not opened. Invalid lines, empty captions and missing images are
    skipped and reported in `problems`; missing images also in `missing`.

    Args:
        path: A captions file, a folder that contains one (directly or one level deeper), or `hf:NAME`, a data set of
            the Hugging Face hub.
        format: Name of a reader, or `auto` to detect the format.
        columns: Table columns to use instead of the common names.
        require_images: Skip images that cannot be found. False for scoring existing captions.

    Raises:
        DataError: The path does not exist, contains no captions of a known format, lacks the required columns, is
            ambiguous between several captions files, or no captioned image is found.
    """
    source = Path(path)
    recognised = recognise(source, format, columns)
    reading = recognised.read()
    reading.problems[:0] = recognised.remarks
    return assemble(reading, source, recognised.root or root_of(source), recognised.format, require_images)


def load_dataset(path: str | Path, config: DataConfig) -> Annotations:
    """Return the annotations for training: loaded, split (`assign_splits`) and limited (`limit_annotations`).

    Raises:
        DataError: They cannot be read, or there are too few.
        ConfigError: The split fractions or a limit are invalid.
    """
    annotations = load_annotations(path, config.format, columns=USUAL_NAMES.over(config))
    return limit_annotations(assign_splits(annotations, config), config)


def assign_splits(annotations: Annotations, config: DataConfig) -> Annotations:
    """Return the annotations with splits, assigned by `split_annotations` if they have none or if `config.resplit`.

    `config.resplit` merges an image's annotations from several splits into one, with all of their captions.

    Raises:
        DataError: There are fewer images than splits.
        ConfigError: The fractions are invalid.
    """
    if annotations.splits and not config.resplit:
        if config.split_fractions == DataConfig.default_of("split_fractions"):
            return annotations
        unused = (
            f"--split-fractions {config.split_fractions} is ignored because the data has splits "
            f"({', '.join(annotations.splits)}); pass --resplit to reassign all images"
        )
        return replace(annotations, problems=(*annotations.problems, unused))
    if config.resplit:
        problems = tuple(problem for problem in annotations.problems if NO_SPLIT not in problem)
        annotations = replace(annotations, items=_merge_items(annotations.items), problems=problems)
    return split_annotations(annotations, config.split_fractions, config.split_seed)


def _merge_items(items: Iterable[Annotation]) -> tuple[Annotation, ...]:
    """Return one annotation per id, without duplicate captions."""
    merged: dict[str, Annotation] = {}
    for item in items:
        known = merged.setdefault(item.id, item)
        if known is not item:
            captions = tuple(dict.fromkeys((*known.captions, *item.captions)))
            merged[item.id] = replace(known, captions=captions, boxes=known.boxes or item.boxes)
    return tuple(merged.values())


def split_annotations(annotations: Annotations, fractions: str, seed: int) -> Annotations:
    """Return the annotations with every image assigned to train, val or test; existing splits are replaced.

    Annotations with the same id or the same image get the same split. The result depends only on the ids and the
    seed, not on the order of the file.

    Args:
        annotations: The images to split.
        fractions: Fractions of train/val or train/val/test, in percent or adding up to 1: `80/20`, `0.8/0.1/0.1`.
        seed: Seed of the shuffle.

    Raises:
        ConfigError: The fractions are not two or three positive numbers that add up to 100 or 1.
        DataError: There are fewer images than splits.
    """
    shares = _shares(fractions)
    groups = _same_image(annotations.items)
    if len(groups) < len(shares):
        raise DataError(
            f"{annotations.source} has {count(len(groups), 'image')}, too few for {len(shares)} splits by "
            f"--split-fractions {fractions}; add images" + (", or pass two fractions" if len(groups) == 2 else "")
        )
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    sizes = _sizes(shares, len(order))
    split_of: dict[int, str] = {}
    names = iter(order)
    for split, size in zip(("train", "val", "test"), sizes, strict=False):
        for _ in range(size):
            split_of.update(dict.fromkeys(groups[next(names)], split))
    items = tuple(replace(item, split=split_of[index]) for index, item in enumerate(annotations.items))
    return replace(annotations, items=items)


def _shares(fractions: str) -> list[float]:
    """Return the fractions of the splits, normalised to a sum of 1."""
    try:
        numbers = [float(part) for part in fractions.split("/")]
    except ValueError:
        numbers = []
    total = sum(numbers)
    if len(numbers) not in (2, 3) or not all(number > 0 for number in numbers):
        raise ConfigError(f"split_fractions is {fractions!r}; it must be like 80/20 or 80/10/10, all above 0")
    if not any(abs(total - expected) < 1e-6 * expected for expected in (1, 100)):
        raise ConfigError(f"split_fractions is {fractions!r}, which adds up to {total:g}; it must add up to 100 (or 1)")
    return [number / total for number in numbers]


def _sizes(shares: list[float], images: int) -> list[int]:
    """Return the number of images per split: rounded, none empty, with `images` as their sum."""
    later = [max(1, round(share * images)) for share in shares[1:]]
    while sum(later) >= images:
        later[later.index(max(later))] -= 1
    return [images - sum(later), *later]


def _same_image(items: Iterable[Annotation]) -> dict[str, list[int]]:
    """Return the indices of items that share an id or an image (union-find), by the smallest id of each group."""
    parent: list[int] = []
    identities = Identities()
    first: dict[tuple[str, str], int] = {}

    def find_root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    ids = []
    for index, item in enumerate(items):
        parent.append(index)
        ids.append(item.id)
        for key in (("id", item.id), ("image", identities.of(item.image))):
            parent[find_root(index)] = find_root(first.setdefault(key, index))
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(parent)):
        groups[find_root(index)].append(index)
    return {min(ids[index] for index in group): group for group in groups.values()}


def limit_annotations(annotations: Annotations, config: DataConfig) -> Annotations:
    """Return the annotations reduced to the limits of the configuration; 0 means no limit.

    `limit_images` is the maximum number of images per split, `captions_per_image` the maximum number of captions
    per training image and `limit_captions` the maximum number of training captions. The first ones are kept.
    Validation and test images keep all references, so that scores stay comparable.

    Raises:
        ConfigError: A limit is negative.
    """
    for name in ("limit_images", "limit_captions", "captions_per_image"):
        if getattr(config, name) < 0:
            raise ConfigError(f"data.{name} is {getattr(config, name)}; it must be 0 (no limit) or more")
    kept = []
    images: dict[str | None, int] = defaultdict(int)
    remaining = config.limit_captions or None
    for item in annotations.items:
        split = "train" if item.split == "restval" else item.split
        images[split] += 1
        if config.limit_images and images[split] > config.limit_images:
            continue
        if split == "train":
            captions = item.captions[: config.captions_per_image or None][:remaining]
            if not captions:
                continue
            if remaining is not None:
                remaining -= len(captions)
            item = replace(item, captions=captions)
        kept.append(item)
    return replace(annotations, items=tuple(kept))


def write_annotations(annotations: Iterable[Annotation], path: str | Path, *, overwrite: bool = True) -> None:
    """Write annotations as JSON lines that `load_annotations` reads back unchanged.

    A line has id, image and captions, plus split and boxes if present. The path of an image below the file's folder
    is relative, so that the folder can be moved; other paths are absolute.

    Args:
        annotations: The images and their captions.
        path: The output file.
        overwrite: Replace existing annotations; if False, a file with different annotations is an error.

    Raises:
        DataError: The file exists and is not an annotations file, or differs and `overwrite` is False.
        SeesayError: The file cannot be written.
    """
    target = Path(path)
    check_file(target, ANNOTATIONS)
    with replacing(target) as part:
        with part.open("wb") as file:
            for item in annotations:
                file.write(text_bytes(json.dumps(_as_json(item, target.parent), ensure_ascii=False) + "\n"))
        exists = target.exists() and target.stat().st_size > 0
        if exists and not overwrite and not filecmp.cmp(target, part, shallow=False):
            raise DataError(f"{target} contains other annotations; choose another file or pass --overwrite")


def _is_annotations(head: bytes) -> bool:
    line = head.partition(b"\n")[0]
    return line.startswith(b'{"id": ') and b'"image": ' in line and b'"captions": ' in line


ANNOTATIONS = FileKind("an annotations file of seesay", _is_annotations)


def _as_json(item: Annotation, folder: Path) -> dict[str, object]:
    """Return one annotation as a JSON object for a file in `folder`."""
    entry: dict[str, object] = {
        "id": item.id,
        "image": _portable(item.image, folder),
        "captions": item.captions,
    }
    if item.split is not None:
        entry["split"] = item.split
    if item.boxes:
        entry["boxes"] = [
            {"label": box.label, "x": box.x, "y": box.y, "width": box.width, "height": box.height} for box in item.boxes
        ]
    return entry


def _portable(image: str, folder: Path) -> str:
    """Return an image reference, relative if it is below the folder, else absolute."""
    if is_url(image):
        return image
    path, mark, member = image.partition("::")
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 (links are not resolved)
    base = Path(os.path.abspath(folder))  # noqa: PTH100
    inside = absolute.is_relative_to(base)
    return (absolute.relative_to(base).as_posix() if inside else str(absolute)) + mark + member
