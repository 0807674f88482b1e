from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from seesay.data.augmentation import Augmentation
from seesay.data.batches import Batch, CaptionBatches, Example
from seesay.data.reading import read_some_mirrored
from seesay.errors import DataError
from tests import tiny

IMAGES = 60
PLAIN, MIRRORED = tiny.features(0, IMAGES, 2, 3), tiny.features(1, IMAGES, 2, 3)
EXAMPLES = [
    Example(str(number), "", ((1, *[4] * (1 + number % 5), 2),), mirrored=number % 3 != 0) for number in range(IMAGES)
]


class Kept:
    """Features in memory, with the number of images of every read; `ragged` says which have one region only."""

    def __init__(self, features: NDArray[np.float16], ragged: Sequence[int] | None = None) -> None:
        self.features, self.ragged = features, ragged
        self.reads: list[int] = []

    def read(self, ids: Sequence[str]) -> tuple[NDArray[np.float16], NDArray[np.bool_] | None]:
        self.reads.append(len(ids))
        rows = [int(name) for name in ids]
        mask = None if self.ragged is None else np.array([[True, row not in self.ragged] for row in rows])
        return self.features[rows], mask


def batches_of(flip: float = 0.5, seed: int = 0, **options: object) -> CaptionBatches:
    given = {"seed": seed, "augmentation": Augmentation(flip), "mirrored": Kept(MIRRORED), **options}
    return CaptionBatches(EXAMPLES, Kept(PLAIN), None, 8, **given)  # type: ignore[arg-type]


def mirrored_in(batch: Batch) -> dict[str, bool]:
    """Tells of each image which of its two features a batch holds; any others fail."""
    assert batch.features is not None
    found = {}
    for name, features in zip(batch.ids, batch.features.numpy(), strict=True):
        found[name] = bool((features == MIRRORED[int(name)]).all())
        np.testing.assert_array_equal(features, (MIRRORED if found[name] else PLAIN)[int(name)])
    return found


def epoch_of(batches: CaptionBatches, epoch: int) -> dict[str, bool]:
    batches.set_epoch(epoch)
    return {name: turned for batch in batches for name, turned in mirrored_in(batch).items()}


def test_each_image_has_the_features_of_its_own_side_in_one_read_a_store() -> None:
    plain, mirrored, random = Kept(PLAIN), Kept(MIRRORED), np.random.default_rng(3)
    for chance in (0, 0.1, 0.5, 0.9, 1):
        rows, turned = random.permutation(IMAGES)[:7], random.random(7) < chance
        plain.reads, mirrored.reads = [], []
        features, mask = read_some_mirrored(plain, mirrored, [str(row) for row in rows], turned)
        np.testing.assert_array_equal(features, np.where(turned[:, None, None], MIRRORED[rows], PLAIN[rows]))
        assert features.dtype == np.float16
        assert mask is None
        assert plain.reads == [count for count in [int((~turned).sum())] if count]
        assert mirrored.reads == [count for count in [int(turned.sum())] if count]


@pytest.mark.parametrize("ragged", ["plain", "mirrored", "both"])
def test_fewer_regions_of_either_side_bring_their_mask(ragged: str) -> None:
    plain = Kept(PLAIN, None if ragged == "mirrored" else [0, 1])
    mirrored = Kept(MIRRORED, None if ragged == "plain" else [2])
    _, mask = read_some_mirrored(plain, mirrored, list("0123"), np.array([False, True, True, False]))
    assert mask is not None
    assert mask[:, 0].all()
    assert mask[:, 1].tolist() == [ragged == "mirrored", True, ragged == "plain", True]


def test_an_epoch_shows_about_half_of_those_that_may_be_mirrored_so_and_none_of_the_others() -> None:
    shown = [epoch_of(batches_of(), epoch) for epoch in range(40)]
    for example in EXAMPLES:
        share = np.mean([found[example.id] for found in shown])
        assert (0.2 < share < 0.8) if example.mirrored else share == 0
    may = [example.id for example in EXAMPLES if example.mirrored]
    assert 0.47 < np.mean([found[name] for found in shown for name in may]) < 0.53
    rare = [epoch_of(batches_of(0.1), epoch) for epoch in range(40)]
    assert 0.07 < np.mean([found[name] for found in rare for name in may]) < 0.13


def test_seed_epoch_and_image_decide_and_nothing_else() -> None:
    first = epoch_of(batches_of(), 0)
    assert epoch_of(batches_of(), 0) == first
    assert epoch_of(batches_of(), 1) != first
    assert epoch_of(batches_of(seed=1), 0) != first
    straight = epoch_of(batches_of(shuffle=False), 0)  # in other batches, and in another order
    assert list(straight) != list(first)
    assert straight == first


def test_processes_agree_with_one() -> None:
    whole = epoch_of(batches_of(), 2)
    shares: dict[str, bool] = {}
    for rank in range(3):
        batches = batches_of()
        batches.share(rank, 3)
        shares |= epoch_of(batches, 2)
    assert shares == whole


def test_resumed_within_an_epoch_it_goes_on_with_the_same_sides() -> None:
    unbroken, broken, resumed = batches_of(), batches_of(), batches_of()
    unbroken.set_epoch(3)
    broken.set_epoch(3)
    wanted = [mirrored_in(batch) for batch in unbroken]
    begun = iter(broken)
    found = [mirrored_in(next(begun)) for _ in range(3)]
    resumed.load_state_dict(broken.state_dict())
    assert found + [mirrored_in(batch) for batch in resumed] == wanted


def test_a_batch_is_read_once_from_each_store() -> None:
    batches = batches_of()
    count = len(list(batches))
    plain, mirrored = batches.features, batches.mirrored
    assert isinstance(plain, Kept)
    assert isinstance(mirrored, Kept)
    assert len(plain.reads) <= count
    assert 0 < len(mirrored.reads) <= count
    assert sum(plain.reads) + sum(mirrored.reads) == IMAGES


def test_nothing_is_mirrored_where_nothing_asks_for_it() -> None:
    """As in validation, which has no augmentation, whatever features there are."""
    for batches in (batches_of(0.0), batches_of(augmentation=None), CaptionBatches(EXAMPLES, Kept(PLAIN), None, 8)):
        assert not any(epoch_of(batches, 0).values())


def test_state_of_a_training_with_other_mirrored_features_is_refused() -> None:
    state = batches_of().state_dict()
    batches_of().load_state_dict(state)
    fewer = CaptionBatches(
        [*EXAMPLES[:-1], Example("59", "", EXAMPLES[-1].tokens, mirrored=False)], Kept(PLAIN), None, 8
    )
    fewer.load_state_dict(batches_of(0.0).state_dict())  # neither mirrors any
    fewer.augmentation = Augmentation(0.5)
    with pytest.raises(DataError, match=r"training with 40 images that may be mirrored, but now they are 39: put"):
        fewer.load_state_dict(state)
