"""Preconditions of training, shared by `data check` and `train`."""

from collections.abc import Callable, Iterable

from seesay.config import TextConfig
from seesay.data.records import Annotation, Annotations
from seesay.errors import DataError
from seesay.tokenizer import Tokenizer

CanRead = Callable[[str], bool]
"""Returns whether an image can be read."""


def training_obstacles(annotations: Annotations, text: TextConfig, can_read: CanRead) -> tuple[str, ...]:
    """Return the reasons why training would fail; empty if it can start.

    Args:
        annotations: split and limited, as returned by `load_dataset`.
        text: cleaning and tokenization settings.
        can_read: called for one image after another until one of each split can be read.
    """
    found = [_split_obstacle(annotations, split, text, can_read) for split in ("train", "val")]
    captions = [caption for item in annotations.split("train") for caption in item.captions]
    if found[0] is None and not Tokenizer.can_build(captions, text):
        found.append(f"no {text.level} of the training captions occurs {text.min_count} times; lower --min-count")
    return tuple(obstacle for obstacle in found if obstacle is not None)


def require_trainable(annotations: Annotations, text: TextConfig, can_read: CanRead) -> None:
    """Raise DataError if training would fail (see `training_obstacles`), before any image is encoded.

    Raises:
        DataError: with all reasons.
    """
    if obstacles := training_obstacles(annotations, text, can_read):
        raise DataError(f"{annotations.source} cannot be trained on: {'; '.join(obstacles)}")


def wordless_captions(items: Iterable[Annotation], text: TextConfig) -> list[str]:
    """Return the captions that are empty after cleaning, each with its image."""
    rules = Tokenizer.without_words(text)
    return [f"{item.id} ({caption!r})" for item in items for caption in item.captions if not _has_word(caption, rules)]


def _split_obstacle(annotations: Annotations, split: str, text: TextConfig, can_read: CanRead) -> str | None:
    """Return the reason why a split cannot be used, or None."""
    kind = {"train": "training", "val": "validation"}[split]
    items = annotations.split(split).items
    if not items:
        splits = ", ".join(annotations.splits) or "none"
        return f"no {kind} captions (splits: {splits}); pass --resplit to assign splits by --split-fractions"
    rules = Tokenizer.without_words(text)
    captioned = [item for item in items if any(_has_word(caption, rules) for caption in item.captions)]
    if not captioned:
        return f"the {kind} captions are empty after cleaning"
    if any(can_read(item.image) for item in captioned):
        return None
    if any(can_read(item.image) for item in items):
        return f"no readable {kind} image has a caption with words"
    return f"no {kind} image can be read"


def _has_word(caption: str, rules: Tokenizer) -> bool:
    return len(rules.encode(caption)) > 2  # start and end
