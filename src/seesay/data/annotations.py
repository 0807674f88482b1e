"""Annotations: reading them from any known form, dealing images to splits, limiting, writing.

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
    "deal_splits",
    "limit_annotations",
    "load_annotations",
    "load_dataset",
    "split_annotations",
    "write_annotations",
]


def load_annotations(
    path: str | Path, format: str = "auto", *, columns: ColumnNames = USUAL_NAMES, require_images: bool = True
) -> Annotations:
    """Returns the annotations in a folder or file of any known form.

    Images are looked for in folder listings and not opened. What does not fit is left out and told in
    `problems`: junk lines, empty captions, captioned images that are missing (also in `missing`).

    Args:
        path: A captions file, or a folder that has one (also one level deeper).
        format: A reader's name, or `auto` to recognise the form by looking.
        columns: Columns of tables whose names are not usual ones.
        require_images: Leave out images that cannot be found. Scoring finished captions needs none.

    Raises:
        DataError: No such path, no captions of a known form, a table without the needed columns, several
            captions files none of which is the obvious one, or not one image where captions are.
    """
    source = Path(path)
    recognised = recognise(source, format, columns)
    reading = recognised.read()
    reading.problems[:0] = recognised.remarks
    return assemble(reading, source, root_of(source), recognised.format, require_images)


def load_dataset(path: str | Path, config: DataConfig) -> Annotations:
    """Returns the annotations ready to train on: read, in splits (`deal_splits`), limited (`limit_annotations`).

    Raises:
        DataError: They cannot be read, or are too few.
        ConfigError: The split's fractions or a limit cannot work.
    """
    annotations = load_annotations(path, config.format, columns=USUAL_NAMES.over(config))
    return limit_annotations(deal_splits(annotations, config), config)


def deal_splits(annotations: Annotations, config: DataConfig) -> Annotations:
    """Returns the annotations in splits: dealt by `split_annotations` if they have none, or with `config.resplit`.

    Dealt anew, an image that was in several splits, or in none, is in one, with the captions of all.

    Raises:
        DataError: There are fewer images than splits.
        ConfigError: The fractions cannot work.
    """
    if annotations.splits and not config.resplit:
        if config.split_fractions == DataConfig.split_fractions:
            return annotations
        unused = (
            f"--split-fractions {config.split_fractions} is not used, as the data has splits "
            f"({', '.join(annotations.splits)}); add --resplit to deal all images anew"
        )
        return replace(annotations, problems=(*annotations.problems, unused))
    if config.resplit:
        problems = tuple(problem for problem in annotations.problems if NO_SPLIT not in problem)
        annotations = replace(annotations, items=_merge_items(annotations.items), problems=problems)
    return split_annotations(annotations, config.split_fractions, config.split_seed)


def _merge_items(items: Iterable[Annotation]) -> tuple[Annotation, ...]:
    """Returns one annotation per id, with each caption once."""
    merged: dict[str, Annotation] = {}
    for item in items:
        known = merged.setdefault(item.id, item)
        if known is not item:
            captions = tuple(dict.fromkeys((*known.captions, *item.captions)))
            merged[item.id] = replace(known, captions=captions, boxes=known.boxes or item.boxes)
    return tuple(merged.values())


def split_annotations(annotations: Annotations, fractions: str, seed: int) -> Annotations:
    """Returns the annotations with every image dealt to train, val or test, replacing any split they had.

    Annotations with the same id or the same image go to the same split. The deal depends on the ids and
    the seed alone, not on the order of the file.

    Args:
        annotations: The images to deal.
        fractions: Shares of train/val or train/val/test in percent or parts of one: `80/20`, `0.8/0.1/0.1`.
        seed: Another seed deals otherwise.

    Raises:
        ConfigError: The fractions are not two or three numbers above 0 that add up to 100 or 1.
        DataError: There are fewer images than splits.
    """
    shares = _shares(fractions)
    groups = _same_image(annotations.items)
    if len(groups) < len(shares):
        raise DataError(
            f"{annotations.source} has {count(len(groups), 'image')}, too few to deal to {len(shares)} splits by "
            f"--split-fractions {fractions}; add images" + (", or give two fractions" if len(groups) == 2 else "")
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
    """Returns the shares of the splits, adding up to 1."""
    try:
        numbers = [float(part) for part in fractions.split("/")]
    except ValueError:
        numbers = []
    total = sum(numbers)
    if len(numbers) not in (2, 3) or not all(number > 0 for number in numbers):
        raise ConfigError(f"split_fractions is {fractions!r}; it must be like 80/20 or 80/10/10, each above 0")
    if not any(abs(total - whole) < 1e-6 * whole for whole in (1, 100)):
        raise ConfigError(f"split_fractions is {fractions!r}, which adds up to {total:g}; it must be 100 (or 1)")
    return [number / total for number in numbers]


def _sizes(shares: list[float], images: int) -> list[int]:
    """Returns how many images each split gets: rounded, none empty, adding up."""
    later = [max(1, round(share * images)) for share in shares[1:]]
    while sum(later) >= images:
        later[later.index(max(later))] -= 1
    return [images - sum(later), *later]


def _same_image(items: Iterable[Annotation]) -> dict[str, list[int]]:
    """Returns the indices of items that must stay together, by the smallest id among them."""
    parent: list[int] = []
    identities = Identities()
    first: dict[tuple[str, str], int] = {}

    def leader(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    ids = []
    for index, item in enumerate(items):
        parent.append(index)
        ids.append(item.id)
        for key in (("id", item.id), ("image", identities.of(item.image))):
            parent[leader(index)] = leader(first.setdefault(key, index))
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(parent)):
        groups[leader(index)].append(index)
    return {min(ids[index] for index in group): group for group in groups.values()}


def limit_annotations(annotations: Annotations, config: DataConfig) -> Annotations:
    """Returns the annotations cut down to what the limits of the configuration allow.

    `limit_images` takes the first so many images of each split, `captions_per_image` the first so many
    captions of each training image, `limit_captions` training images until they have so many captions
    (the last one may lose some). Validation and test keep all references of their images, so that scores
    stay comparable. Zero limits nothing.

    Raises:
        ConfigError: A limit is negative.
    """
    for name in ("limit_images", "limit_captions", "captions_per_image"):
        if getattr(config, name) < 0:
            raise ConfigError(f"data.{name} is {getattr(config, name)}; it must be 0 (no limit) or more")
    kept = []
    images: dict[str | None, int] = defaultdict(int)
    room = config.limit_captions or None
    for item in annotations.items:
        split = "train" if item.split == "restval" else item.split
        images[split] += 1
        if config.limit_images and images[split] > config.limit_images:
            continue
        if split == "train":
            captions = item.captions[: config.captions_per_image or None][:room]
            if not captions:
                continue
            if room is not None:
                room -= len(captions)
            item = replace(item, captions=captions)
        kept.append(item)
    return replace(annotations, items=tuple(kept))


def write_annotations(annotations: Iterable[Annotation], path: str | Path, *, overwrite: bool = True) -> None:
    """Writes annotations as JSON lines, which `load_annotations` reads back equal.

    A line has id, image, captions, and split and boxes where there are any. An image below the file's folder
    is written relative to it, so that the folder can move; any other as an absolute path.

    Args:
        annotations: The images and their captions.
        path: The file.
        overwrite: Replace annotations in the same form; False refuses a file that holds others.

    Raises:
        DataError: Something else is there.
        SeesayError: The file cannot be written.
    """
    target = Path(path)
    check_file(target, ANNOTATIONS)
    with replacing(target) as part:
        with part.open("wb") as file:
            for item in annotations:
                file.write(text_bytes(json.dumps(_as_json(item, target.parent), ensure_ascii=False) + "\n"))
        there = target.exists() and target.stat().st_size > 0
        if there and not overwrite and not filecmp.cmp(target, part, shallow=False):
            raise DataError(f"{target} holds other annotations; name another file, or replace it with --overwrite")


def _is_annotations(head: bytes) -> bool:
    line = head.partition(b"\n")[0]
    return line.startswith(b'{"id": ') and b'"image": ' in line and b'"captions": ' in line


ANNOTATIONS = FileKind("a file of annotations in seesay's form", _is_annotations)


def _as_json(item: Annotation, folder: Path) -> dict[str, object]:
    """Returns the JSON form of one annotation, for a file in the given folder."""
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
    """Returns an image reference relative to a folder where it lies below it, else absolute."""
    if is_url(image):
        return image
    path, mark, member = image.partition("::")
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 (links stay as they are)
    home = Path(os.path.abspath(folder))  # noqa: PTH100
    inside = absolute.is_relative_to(home)
    return (absolute.relative_to(home).as_posix() if inside else str(absolute)) + mark + member
