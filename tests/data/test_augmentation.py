from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from seesay.data.augmentation import Augmentation, is_flippable
from seesay.data.batches import CaptionBatches, Example
from seesay.images.loading import Preprocessing, load_pixels

PREPROCESSING = Preprocessing(32, "squash", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def gradient(tmp_path: Path) -> str:
    """An image, twice as wide as high, with the column as its red channel and the row as its green channel."""
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(128)[None], 2 * np.arange(64)[:, None]
    Image.fromarray(pixels).save(tmp_path / "gradient.png")
    return str(tmp_path / "gradient.png")


def augment(source: str, seed: int, flippable: bool = True, **settings: float) -> NDArray[np.uint8]:
    return Augmentation(**settings).pixels(source, PREPROCESSING, np.random.default_rng(seed), flippable)


def test_without_augmentation_the_image_is_unchanged(gradient: str) -> None:
    assert not Augmentation()
    np.testing.assert_array_equal(augment(gradient, 0), load_pixels(gradient, PREPROCESSING))


def test_flippable_images_are_flipped_with_the_set_probability(gradient: str) -> None:
    plain = load_pixels(gradient, PREPROCESSING)
    found = [augment(gradient, seed, flip=0.3) for seed in range(300)]
    mirrored = [np.array_equal(pixels, plain[:, ::-1]) for pixels in found]
    assert all(flipped or np.array_equal(pixels, plain) for flipped, pixels in zip(mirrored, found, strict=True))
    assert 0.2 < np.mean(mirrored) < 0.4
    np.testing.assert_array_equal(augment(gradient, 0, flippable=False, flip=1.0), plain)


def test_a_crop_keeps_the_aspect_ratio_and_the_minimum_size(gradient: str) -> None:
    edges = []
    for seed in range(200):
        pixels = augment(gradient, seed, crop=0.25).astype(float)
        # Fractions of the image; the first and last pixel centres are half a pixel inside the border.
        left, right = pixels[:, 0, 0].mean() / 128, pixels[:, -1, 0].mean() / 128
        top, bottom = pixels[0, :, 1].mean() / 128, pixels[-1, :, 1].mean() / 128
        width, height = (right - left) * 32 / 31, (bottom - top) * 32 / 31
        assert 0.72 < width < 1.02
        assert width == pytest.approx(height, abs=0.04)
        edges.append((left, top, width))
    lefts, tops, widths = np.array(edges).T
    assert lefts.max() > 0.15
    assert tops.max() > 0.15
    assert min(lefts.min(), tops.min()) < 0.02
    assert widths.min() < 0.8
    assert widths.max() > 0.95


@pytest.mark.parametrize(
    ("caption", "flippable"),
    [
        ("a dog on the left", False),
        ("Right of the tree stands a man", False),
        ("the rightmost boy", False),
        ("a bright light", True),
        ("copyright sign", True),
        ("a dog runs", True),
    ],
)
def test_captions_that_name_a_side_are_not_flippable(caption: str, flippable: bool) -> None:
    assert is_flippable(["a man", caption]) is flippable


def test_augmentation_differs_between_epochs_and_repeats_for_the_same_epoch(gradient: str) -> None:
    examples = [Example(str(number), gradient, ((1, 4, 2),), flippable=number % 2 == 0) for number in range(12)]

    def pixels(epoch: int, augmentation: Augmentation | None) -> dict[str, bytes]:
        batches = CaptionBatches(examples, None, PREPROCESSING, 3, augmentation=augmentation)
        batches.set_epoch(epoch)
        pixels_by_id: dict[str, bytes] = {}
        for batch in batches:
            assert batch.pixels is not None
            pixels_by_id |= {name: one.numpy().tobytes() for name, one in zip(batch.ids, batch.pixels, strict=True)}
        return pixels_by_id

    first, second = pixels(0, Augmentation(0.5, 0.2)), pixels(1, Augmentation(0.5, 0.2))
    assert pixels(0, Augmentation(0.5, 0.2)) == first
    assert all(first[name] != second[name] for name in first)
    assert len(set(first.values())) == 12
    plain = load_pixels(gradient, PREPROCESSING).tobytes()
    assert set(pixels(0, None).values()) == set(pixels(0, Augmentation()).values()) == {plain}
    flipped = pixels(0, Augmentation(flip=1.0))
    assert all((flipped[name] == plain) == (int(name) % 2 == 1) for name in flipped)
