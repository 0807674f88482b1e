from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from seesay.data.augmentation import Augmentation, may_be_mirrored
from seesay.data.batches import CaptionBatches, Example
from seesay.images import Preprocessing, load_pixels

PREPROCESSING = Preprocessing(32, "squash", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def gradient(tmp_path: Path) -> str:
    """An image whose red tells the column and whose green tells the row, twice as wide as high."""
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(128)[None], 2 * np.arange(64)[:, None]
    Image.fromarray(pixels).save(tmp_path / "gradient.png")
    return str(tmp_path / "gradient.png")


def changed(source: str, seed: int, mirrored: bool = True, **settings: float) -> NDArray[np.uint8]:
    return Augmentation(**settings).pixels(source, PREPROCESSING, np.random.default_rng(seed), mirrored)


def test_nothing_asked_for_is_the_image_itself(gradient: str) -> None:
    assert not Augmentation()
    np.testing.assert_array_equal(changed(gradient, 0), load_pixels(gradient, PREPROCESSING))


def test_images_are_mirrored_as_often_as_told_and_only_those_that_may(gradient: str) -> None:
    plain = load_pixels(gradient, PREPROCESSING)
    found = [changed(gradient, seed, flip=0.3) for seed in range(300)]
    mirrored = [np.array_equal(pixels, plain[:, ::-1]) for pixels in found]
    assert all(turned or np.array_equal(pixels, plain) for turned, pixels in zip(mirrored, found, strict=True))
    assert 0.2 < np.mean(mirrored) < 0.4
    np.testing.assert_array_equal(changed(gradient, 0, mirrored=False, flip=1.0), plain)


def test_a_crop_is_a_window_of_the_image_s_shape_no_smaller_than_told_anywhere_in_it(gradient: str) -> None:
    edges = []
    for seed in range(200):
        pixels = changed(gradient, seed, crop=0.25).astype(float)
        # In shares of the image: half a pixel of the square lies outside the first and last centre.
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
    ("caption", "true_of_both"),
    [
        ("a dog on the left", False),
        ("Right of the tree stands a man", False),
        ("the rightmost boy", False),
        ("a bright light", True),
        ("copyright sign", True),
        ("a dog runs", True),
    ],
)
def test_captions_that_name_a_side_hold_of_one_image_only(caption: str, true_of_both: bool) -> None:
    assert may_be_mirrored(["a man", caption]) is true_of_both


def test_batches_are_changed_anew_each_epoch_and_alike_when_epochs_are_repeated(gradient: str) -> None:
    examples = [Example(str(number), gradient, ((1, 4, 2),), mirrored=number % 2 == 0) for number in range(12)]

    def pixels(epoch: int, augmentation: Augmentation | None) -> dict[str, bytes]:
        batches = CaptionBatches(examples, None, PREPROCESSING, 3, augmentation=augmentation)
        batches.set_epoch(epoch)
        found: dict[str, bytes] = {}
        for batch in batches:
            assert batch.pixels is not None
            found |= {name: one.numpy().tobytes() for name, one in zip(batch.ids, batch.pixels, strict=True)}
        return found

    first, second = pixels(0, Augmentation(0.5, 0.2)), pixels(1, Augmentation(0.5, 0.2))
    assert pixels(0, Augmentation(0.5, 0.2)) == first
    assert all(first[name] != second[name] for name in first)
    assert len(set(first.values())) == 12
    plain = load_pixels(gradient, PREPROCESSING).tobytes()
    assert set(pixels(0, None).values()) == set(pixels(0, Augmentation()).values()) == {plain}
    turned = pixels(0, Augmentation(flip=1.0))
    assert all((turned[name] == plain) == (int(name) % 2 == 1) for name in turned)
