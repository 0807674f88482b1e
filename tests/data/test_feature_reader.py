from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from seesay.data.augmentation import Augmentation
from seesay.data.batches import Batch, CaptionBatches, Example
from seesay.data.feature_reader import read_partly_mirrored
from seesay.errors import DataError
from tests import tiny

IMAGES = 60
PLAIN, MIRRORED = tiny.features(0, IMAGES, 2, 3), tiny.features(1, IMAGES, 2, 3)
EXAMPLES = [
    Example(str(number), "", ((1, *[4] * (1 + number % 5), 2),), flippable=number % 3 != 0) for number in range(IMAGES)
]


class MemoryStore:
    """Features in memory; `reads` has the number of images of every read, `ragged` the images of one region only."""

    def __init__(self, features: NDArray[np.float16], ragged: Sequence[int] | None = None) -> None:
        self.features, self.ragged = features, ragged
        self.reads: list[int] = []

    def read(self, ids: Sequence[str]) -> tuple[NDArray[np.float16], NDArray[np.bool_] | None]:
        self.reads.append(len(ids))
        rows = [int(name) for name in ids]
        mask = None if self.ragged is None else np.array([[True, row not in self.ragged] for row in rows])
        return self.features[rows], mask


def batches_of(flip: float = 0.5, seed: int = 0, **options: object) -> CaptionBatches:
    arguments = {"seed": seed, "augmentation": Augmentation(flip), "mirrored": MemoryStore(MIRRORED), **options}
    return CaptionBatches(EXAMPLES, MemoryStore(PLAIN), None, 8, **arguments)  # type: ignore[arg-type]


def mirrored_in(batch: Batch) -> dict[str, bool]:
    """Returns whether each image of a batch has its mirrored features; fails on any other features."""
    assert batch.features is not None
    found = {}
    for name, features in zip(batch.ids, batch.features.numpy(), strict=True):
        found[name] = bool((features == MIRRORED[int(name)]).all())
        np.testing.assert_array_equal(features, (MIRRORED if found[name] else PLAIN)[int(name)])
    return found


def epoch_of(batches: CaptionBatches, epoch: int) -> dict[str, bool]:
    batches.set_epoch(epoch)
    return {name: flipped for batch in batches for name, flipped in mirrored_in(batch).items()}


def test_plain_and_mirrored_features_take_one_read_per_store() -> None:
    plain, mirrored, random = MemoryStore(PLAIN), MemoryStore(MIRRORED), np.random.default_rng(3)
    for probability in (0, 0.1, 0.5, 0.9, 1):
        rows, flipped = random.permutation(IMAGES)[:7], random.random(7) < probability
        plain.reads, mirrored.reads = [], []
        features, mask = read_partly_mirrored(plain, mirrored, [str(row) for row in rows], flipped)
        np.testing.assert_array_equal(features, np.where(flipped[:, None, None], MIRRORED[rows], PLAIN[rows]))
        assert features.dtype == np.float16
        assert mask is None
        assert plain.reads == [count for count in [int((~flipped).sum())] if count]
        assert mirrored.reads == [count for count in [int(flipped.sum())] if count]


@pytest.mark.parametrize("ragged", ["plain", "mirrored", "both"])
def test_fewer_regions_in_either_store_give_a_mask(ragged: str) -> None:
    plain = MemoryStore(PLAIN, None if ragged == "mirrored" else [0, 1])
    mirrored = MemoryStore(MIRRORED, None if ragged == "plain" else [2])
    _, mask = read_partly_mirrored(plain, mirrored, list("0123"), np.array([False, True, True, False]))
    assert mask is not None
    assert mask[:, 0].all()
    assert mask[:, 1].tolist() == [ragged == "mirrored", True, ragged == "plain", True]


def test_flippable_images_are_flipped_with_the_set_probability_and_others_never() -> None:
    shown = [epoch_of(batches_of(), epoch) for epoch in range(40)]
    for example in EXAMPLES:
        share = np.mean([found[example.id] for found in shown])
        assert (0.2 < share < 0.8) if example.flippable else share == 0
    flippable = [example.id for example in EXAMPLES if example.flippable]
    assert 0.47 < np.mean([found[name] for found in shown for name in flippable]) < 0.53
    rare = [epoch_of(batches_of(0.1), epoch) for epoch in range(40)]
    assert 0.07 < np.mean([found[name] for found in rare for name in flippable]) < 0.13


def test_flips_depend_only_on_seed_epoch_and_image() -> None:
    first = epoch_of(batches_of(), 0)
    assert epoch_of(batches_of(), 0) == first
    assert epoch_of(batches_of(), 1) != first
    assert epoch_of(batches_of(seed=1), 0) != first
    unshuffled = epoch_of(batches_of(shuffle=False), 0)  # other batches in another order
    assert list(unshuffled) != list(first)
    assert unshuffled == first


def test_several_processes_equal_one() -> None:
    single = epoch_of(batches_of(), 2)
    shares: dict[str, bool] = {}
    for rank in range(3):
        batches = batches_of()
        batches.share(rank, 3)
        shares |= epoch_of(batches, 2)
    assert shares == single


def test_resuming_within_an_epoch_keeps_the_flips() -> None:
    uninterrupted, interrupted, resumed = batches_of(), batches_of(), batches_of()
    uninterrupted.set_epoch(3)
    interrupted.set_epoch(3)
    wanted = [mirrored_in(batch) for batch in uninterrupted]
    iterator = iter(interrupted)
    found = [mirrored_in(next(iterator)) for _ in range(3)]
    resumed.load_state_dict(interrupted.state_dict())
    assert found + [mirrored_in(batch) for batch in resumed] == wanted


def test_a_batch_takes_one_read_per_store() -> None:
    batches = batches_of()
    count = len(list(batches))
    plain, mirrored = batches.features, batches.mirrored
    assert isinstance(plain, MemoryStore)
    assert isinstance(mirrored, MemoryStore)
    assert len(plain.reads) <= count
    assert 0 < len(mirrored.reads) <= count
    assert sum(plain.reads) + sum(mirrored.reads) == IMAGES


def test_no_image_is_flipped_without_augmentation() -> None:
    """As in validation, with or without mirrored features."""
    for batches in (
        batches_of(0.0),
        batches_of(augmentation=None),
        CaptionBatches(EXAMPLES, MemoryStore(PLAIN), None, 8),
    ):
        assert not any(epoch_of(batches, 0).values())


def test_state_with_other_mirrored_features_is_refused() -> None:
    state = batches_of().state_dict()
    batches_of().load_state_dict(state)
    fewer = CaptionBatches(
        [*EXAMPLES[:-1], Example("59", "", EXAMPLES[-1].tokens, flippable=False)], MemoryStore(PLAIN), None, 8
    )
    fewer.load_state_dict(batches_of(0.0).state_dict())  # neither flips any image
    fewer.augmentation = Augmentation(0.5)
    with pytest.raises(DataError, match=r"trained with 40 flippable images, but there are now 39: restore"):
        fewer.load_state_dict(state)
