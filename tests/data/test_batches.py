from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seesay.data.annotations import Annotation
from seesay.data.batches import Batch, CaptionBatches, Example, make_examples, pad_captions
from seesay.errors import DataError, FeatureStoreError, ImageError
from seesay.images.loading import Preprocessing, load_pixels
from tests import tiny

counts_and_lengths = st.lists(st.lists(st.integers(3, 30), min_size=1, max_size=9), min_size=1, max_size=60)


class Numbers:
    """A feature store that returns each image's number as its features."""

    def __init__(self, ragged: bool = False) -> None:
        self.ragged = ragged

    def read(self, ids: Sequence[str]) -> tuple[NDArray[np.float16], NDArray[np.bool_] | None]:
        features = np.array([[[float(image_id)]] * 2 for image_id in ids], np.float16)
        mask = np.array([[True, int(image_id) % 2 == 0] for image_id in ids])
        return features, mask if self.ragged else None


def examples_of(lengths: Sequence[Sequence[int]]) -> list[Example]:
    """Returns examples with captions of these lengths in tokens, each with a unique first word."""
    numbers = iter(range(4, 10_000))
    return [
        Example(str(place), f"{place}.jpg", tuple((1, *([next(numbers)] * (length - 2)), 2) for length in of_image))
        for place, of_image in enumerate(lengths)
    ]


def random_lengths(images: int, seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(5, 25, random.integers(1, 6)).tolist() for _ in range(images)]


def batches_of(lengths: Sequence[Sequence[int]], size: int = 16, **options: object) -> CaptionBatches:
    return CaptionBatches(examples_of(lengths), Numbers(), None, size, **options)  # type: ignore[arg-type]


def first_words(batch: Batch) -> list[int]:
    """Returns the first word of every caption of a batch."""
    return batch.captions.targets[: batch.captions.rows].tolist()


@settings(max_examples=60, deadline=None)
@given(counts_and_lengths, st.integers(1, 80), st.integers(0, 3), st.booleans())
def test_plan_contains_every_image_once_in_batches_of_about_the_requested_size(
    lengths: list[list[int]], size: int, epoch: int, shuffle: bool
) -> None:
    batches = batches_of(lengths, size, shuffle=shuffle)
    plan = batches.plan(epoch)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(lengths)))
    assert len(plan) == len(batches)
    captions = [sum(len(lengths[place]) for place in batch) for batch in plan]
    assert min(captions) > 0
    total, max_captions = sum(map(len, lengths)), max(map(len, lengths))
    assert batches.captions == total
    assert len(batches) == min(len(lengths), max(1, round(total / size)))
    if len(batches) * max_captions * 2 <= total:  # else single images exceed a batch
        goal = total / len(batches)
        assert all(goal - max_captions <= count <= goal + max_captions for count in captions)


@settings(max_examples=15, deadline=None)
@given(counts_and_lengths, st.integers(1, 80))
def test_epoch_contains_every_caption_once_with_its_image(lengths: list[list[int]], size: int) -> None:
    batches = batches_of(lengths, size)
    owner = {caption[1]: example.id for example in batches.examples for caption in example.tokens}
    seen: list[int] = []
    for batch in batches:
        assert batch.features is not None
        words = first_words(batch)
        images = [batch.ids[row] for row in batch.captions.image_of_row.tolist()]
        assert [owner[word] for word in words] == images
        assert batch.features[:, 0, 0].tolist() == [float(image_id) for image_id in batch.ids]
        seen += words
    assert Counter(seen) == Counter(owner.keys())


def test_order_depends_only_on_seed_and_epoch() -> None:
    lengths = random_lengths(60)

    def order(seed: int, epoch: int) -> list[list[int]]:
        return [batch.tolist() for batch in batches_of(lengths, seed=seed).plan(epoch)]

    assert order(0, 3) == order(0, 3)
    different = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert all(different[i] != different[j] for i in range(6) for j in range(i))
    together = [{frozenset(batch) for batch in plan} for plan in different]
    assert all(together[i] != together[j] for i in range(6) for j in range(i))
    assert len({len(plan) for plan in different}) == 1


def test_buckets_have_less_than_half_the_padding_of_random_batches() -> None:
    lengths = [[length] * 5 for length in np.random.default_rng(1).integers(6, 26, 480)]
    batches = batches_of(lengths, 40)

    def padding(plan: Sequence[NDArray[np.int64]]) -> float:
        longest = [max(lengths[place][0] for place in batch) * len(batch) for batch in plan]
        return float(sum(longest) / sum(of_image[0] for of_image in lengths) - 1)

    shuffled = np.array_split(np.random.default_rng(0).permutation(480), len(batches))
    assert padding(batches.plan(0)) < 0.5 * padding(shuffled)


def test_short_and_long_batches_are_mixed() -> None:
    lengths = [[length] for length in range(5, 105)]
    means = [np.mean([lengths[place][0] for place in batch]) for batch in batches_of(lengths, 10).plan(0)]
    assert means != sorted(means)


@pytest.mark.parametrize("taken", [0, 1, 4, 7])
def test_resumes_with_the_next_batch(taken: int) -> None:
    lengths = random_lengths(40)
    uninterrupted = batches_of(lengths)
    uninterrupted.set_epoch(2)
    expected = [batch.ids for batch in uninterrupted]
    assert len(expected) > 7
    stopped = batches_of(lengths)
    stopped.set_epoch(2)
    iterator = iter(stopped)
    first = [next(iterator).ids for _ in range(taken)]
    state = stopped.state_dict()
    resumed = batches_of(lengths)
    resumed.load_state_dict(state)
    assert first + [batch.ids for batch in resumed] == expected


def test_finished_epoch_starts_again_from_its_first_batch() -> None:
    batches = batches_of(random_lengths(20), shuffle=False)
    assert [batch.ids for batch in batches] == [batch.ids for batch in batches]


def test_state_of_other_data_is_refused() -> None:
    state = batches_of(random_lengths(20)).state_dict()
    with pytest.raises(DataError, match=r"on 20 images with \d+ captions, but the data has 21 with"):
        batches_of(random_lengths(21)).load_state_dict(state)


def test_validation_keeps_the_order() -> None:
    batches = batches_of(random_lengths(30), shuffle=False)
    assert [image_id for batch in batches for image_id in batch.ids] == [str(place) for place in range(30)]
    assert len(batches) > 1


def test_features_of_fewer_regions_have_a_mask() -> None:
    batch = next(iter(CaptionBatches(examples_of([[4], [5]]), Numbers(ragged=True), None, 9, shuffle=False)))
    assert batch.memory_mask is not None
    assert batch.memory_mask.tolist() == [[True, True], [True, False]]
    moved = batch.to(torch.device("meta"))
    assert moved.memory_mask is not None
    assert moved.features is not None
    assert {moved.features.device.type, moved.captions.inputs.device.type} == {"meta"}
    assert moved.pixels is None


def test_pixels_are_loaded_if_there_are_no_features(tmp_path: Path) -> None:
    preprocessing = Preprocessing(16, "squash", (0.5,) * 3, (0.5,) * 3)
    items = []
    for number in range(5):
        path = tmp_path / f"{number}.png"
        tiny.image(number).save(path)
        items.append(Example(str(number), str(path), ((1, 4, 2),)))
    batches = CaptionBatches(items, None, preprocessing, 2)
    for batch in batches:
        assert batch.features is None
        assert batch.pixels is not None
        for image_id, pixels in zip(batch.ids, batch.pixels.numpy(), strict=True):
            np.testing.assert_array_equal(pixels, load_pixels(tmp_path / f"{image_id}.png", preprocessing))


def test_the_error_names_an_unreadable_image(tmp_path: Path) -> None:
    preprocessing = Preprocessing(16, "squash", (0.5,) * 3, (0.5,) * 3)
    batches = CaptionBatches([Example("1", str(tmp_path / "gone.png"), ((1, 4, 2),))], None, preprocessing, 2)
    with pytest.raises(ImageError, match=r"gone\.png"):
        next(iter(batches))


def test_missing_examples_or_sources_are_refused() -> None:
    with pytest.raises(DataError, match="no captioned images"):
        CaptionBatches([], Numbers(), None, 8)
    with pytest.raises(DataError, match="feature store or a preprocessing"):
        CaptionBatches(examples_of([[4]]), None, None, 8)


def test_a_store_that_lacks_an_image_is_an_error() -> None:
    class Lacking(Numbers):
        def read(self, ids: Sequence[str]) -> tuple[NDArray[np.float16], NDArray[np.bool_] | None]:
            raise FeatureStoreError("lacks it")

    with pytest.raises(FeatureStoreError, match="lacks it"):
        list(CaptionBatches(examples_of([[4]]), Lacking(), None, 8))


def test_captions_without_words_and_images_without_captions_are_skipped() -> None:
    items = [Annotation("a", "a.jpg", ("one two", "", "three")), Annotation("b", "b.jpg", ("",))]
    examples = make_examples(items, lambda caption: [1, *range(4, 4 + len(caption.split())), 2])
    assert examples == [Example("a", "a.jpg", ((1, 4, 5, 2), (1, 4, 2)))]
    assert examples[0].length == 4


def test_padding_to_the_longest_caption_and_the_maximum_number_of_captions() -> None:
    padded = pad_captions([[(1, 4, 2), (1, 5, 6, 2)], [(1, 2)]])
    assert padded.tolist() == [[[1, 4, 2, 0], [1, 5, 6, 2]], [[1, 2, 0, 0], [0, 0, 0, 0]]]
