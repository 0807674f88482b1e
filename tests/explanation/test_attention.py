"""Attention over an image: position, strength and layout."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from seesay.errors import ConfigError, DataError
from seesay.explanation import attention_entropy, attention_strip, overlay, upsample_attention

GRIDS = st.tuples(st.integers(1, 9), st.integers(1, 9))
Pixels = NDArray[np.int64]


def random_weights(words: int, regions: int, seed: int = 0) -> NDArray[np.float64]:
    weights = np.random.default_rng(seed).random((words, regions)) ** 3
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def pixels(image: Image.Image) -> Pixels:
    return np.asarray(image, dtype=np.int64)


# --- maps -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(GRIDS, st.integers(3, 17), st.integers(3, 17), st.data())
def test_one_hot_attention_is_largest_inside_its_cell(
    grid: tuple[int, int], across: int, down: int, data: st.DataObject
) -> None:
    rows, columns = grid
    region = data.draw(st.integers(0, rows * columns - 1))
    size = (columns * across + 1, rows * down + 2)  # cells need not have integer sizes
    (heat,) = upsample_attention(np.eye(rows * columns)[[region]], grid, size)
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    assert (int((y + 0.5) / size[1] * rows), int((x + 0.5) / size[0] * columns)) == divmod(region, columns)


@settings(deadline=None, max_examples=40)
@given(GRIDS, st.sampled_from([3, 5, 9]), st.sampled_from([3, 7]))
def test_the_centre_pixel_of_a_cell_has_the_weight_of_the_region(grid: tuple[int, int], across: int, down: int) -> None:
    weights = random_weights(2, grid[0] * grid[1])
    maps = upsample_attention(weights, grid, (grid[1] * across, grid[0] * down))
    centres = maps[:, down // 2 :: down, across // 2 :: across]
    np.testing.assert_allclose(centres.reshape(2, -1), weights, atol=1e-6)


def test_maps_have_the_range_of_the_weights_and_the_requested_shape() -> None:
    weights = random_weights(3, 35)
    maps = upsample_attention(weights, (5, 7), (131, 64))
    assert maps.shape == (3, 64, 131)
    assert maps.dtype == np.float32
    assert (maps >= 0).all()
    for heat, row in zip(maps, weights, strict=True):
        assert row.min() - 1e-6 <= heat.min()
        assert heat.max() <= row.max() + 1e-6


def test_maps_are_smooth() -> None:
    (heat,) = upsample_attention(np.eye(16)[[5]], (4, 4), (80, 80))
    assert np.abs(np.diff(heat, axis=0)).max() < 0.1  # one cell is 20 pixels
    assert np.abs(np.diff(heat, axis=1)).max() < 0.1


def test_uniform_attention_stays_flat_to_the_border() -> None:
    maps = upsample_attention(np.full((1, 64), 1 / 64), (8, 8), (101, 67))
    assert np.ptp(maps) == 0
    assert maps[0, 0, 0] == np.float32(1 / 64)


def test_mirrored_attention_gives_the_mirrored_map() -> None:
    weights = random_weights(1, 12).reshape(3, 4)
    plain = upsample_attention(weights.reshape(1, 12), (3, 4), (50, 31))
    mirrored = upsample_attention(weights[:, ::-1].reshape(1, 12), (3, 4), (50, 31))
    np.testing.assert_allclose(mirrored, plain[..., ::-1], atol=1e-6)


def test_no_words_give_no_maps() -> None:
    assert upsample_attention(np.zeros((0, 4)), (2, 2), (9, 5)).shape == (0, 5, 9)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones((2, 5)), r"\(2, 5\) for a grid of 2 x 3"),
        (np.ones(6), r"\(6,\) for a grid"),
        (np.ones((1, 2, 6)), r"\(1, 2, 6\) for a grid"),
        (np.full((1, 6), -0.1), "after the softmax"),
        (np.full((1, 6), np.nan), "after the softmax"),
    ],
)
def test_invalid_attention_weights_are_refused(weights: NDArray[np.float64], message: str) -> None:
    with pytest.raises(DataError, match=message):
        upsample_attention(weights, (2, 3), (30, 20))


# --- one overlay ----------------------------------------------------------------------------------------


def test_only_attended_pixels_are_heated() -> None:
    heat = np.zeros((20, 30))
    heat[3, 4] = 0.2
    result = pixels(overlay(Image.new("RGB", (30, 20), "white"), heat))
    red, green, blue = result[3, 4]
    assert red > green > blue
    assert red - blue > 100
    elsewhere = np.delete(result.reshape(-1, 3), 3 * 30 + 4, axis=0)
    assert (elsewhere == elsewhere[0, 0]).all()  # no tint elsewhere
    assert elsewhere[0, 0] > 150


def test_more_attention_is_more_heat() -> None:
    ramp = np.tile(np.linspace(0, 1, 64), (4, 1))
    result = pixels(overlay(Image.new("RGB", (64, 4), (128, 128, 128)), ramp))[0]
    difference = np.abs(result - result[0]).sum(axis=1)
    assert (np.diff(difference) >= -2).all()  # rounding of three channels
    assert difference[-1] > 150
    assert difference[13] < 0.4 * difference[-1]


def test_the_image_is_visible_under_the_heat() -> None:
    half = Image.new("RGB", (40, 10), "black")
    half.paste("white", (20, 0, 40, 10))
    for heat in (np.zeros((10, 40)), np.ones((10, 40))):
        dark, light = pixels(overlay(half, heat)).sum(axis=2)[5, [5, 35]]
        assert light > dark + 80


def test_the_largest_weight_is_full_heat_without_a_peak() -> None:
    image, heat = Image.new("RGB", (16, 16), "white"), random_weights(1, 256).reshape(16, 16)
    assert overlay(image, heat) == overlay(image, heat * 7)
    assert overlay(image, heat, peak=float(heat.max())) == overlay(image, heat)
    hot, faint = (
        pixels(overlay(image, heat, peak=p * float(heat.max()))).reshape(-1, 3)[heat.argmax()] for p in (1, 4)
    )
    assert hot[0] - hot[2] > faint[0] - faint[2] + 50


def test_overlay_takes_images_of_any_mode_and_a_map_without_attention() -> None:
    for mode in ("L", "RGBA", "P", "CMYK"):
        result = overlay(Image.new(mode, (8, 6)), np.zeros((6, 8)))
        assert (result.mode, result.size) == ("RGB", (8, 6))


def test_overlay_refuses_a_map_of_another_size() -> None:
    with pytest.raises(DataError, match=r"\(8, 6\) for an image of 8 x 6"):
        overlay(Image.new("RGB", (8, 6)), np.zeros((8, 6)))


# --- the strip ------------------------------------------------------------------------------------------

BLUE = (20, 40, 220)  # labels and background are grey, so pixels with a hue belong to a tile


def blue(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), BLUE)


def runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Returns start and stop of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(int)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def find_tiles(figure: Image.Image) -> list[list[tuple[int, int, int, int]]]:
    """Returns the boxes (left, top, right, bottom) of the coloured tiles, row by row."""
    array = pixels(figure)
    hue = array.max(axis=2) - array.min(axis=2) > 15
    rows = []
    for top, bottom in runs(hue.any(axis=1)):
        rows.append([(left, top, right, bottom) for left, right in runs(hue[top:bottom].any(axis=0))])
    return rows


def count_dark(figure: Image.Image, box: tuple[int, int, int, int]) -> int:
    return int((pixels(figure.crop(box)).max(axis=2) < 100).sum())


class LayoutOptions(TypedDict, total=False):
    title: str
    columns: int
    tile: int
    font: str | Path | None


def strip(words: Sequence[str], image: Image.Image | None = None, **options: Unpack[LayoutOptions]) -> Image.Image:
    weights = random_weights(len(words), 12)
    return attention_strip(image or blue(60, 40), words, weights, (3, 4), **options)


@pytest.mark.parametrize(
    ("words", "columns", "expected"),
    [
        (0, 0, [1]),
        (3, 0, [4]),
        (5, 0, [6]),
        (6, 0, [4, 3]),
        (12, 0, [5, 5, 3]),
        (4, 2, [2, 2, 1]),
        (2, 8, [3]),
    ],
)
def test_the_image_and_one_overlay_per_word_are_in_even_rows(words: int, columns: int, expected: list[int]) -> None:
    tiles = find_tiles(strip(["word"] * words, columns=columns, tile=64))
    assert [len(row) for row in tiles] == expected
    assert {(right - left, bottom - top) for row in tiles for left, top, right, bottom in row} == {(64, 43)}


def test_the_first_tile_is_the_unchanged_image() -> None:
    figure = strip(["a", "dog"])
    ((first, second, _),) = find_tiles(figure)
    assert figure.crop(first).getcolors() == [(160 * 107, BLUE)]
    assert BLUE not in [colour for _, colour in figure.crop(second).getcolors(1 << 16) or []]


def test_each_tile_has_the_attention_of_its_word() -> None:
    grid, regions = (3, 4), [9, 0, 7, 4]
    figure = attention_strip(blue(60, 40), ["a", "b", "c", "d"], np.eye(12)[regions], grid)
    ((_, *overlays),) = find_tiles(figure)
    for box, region in zip(overlays, regions, strict=True):
        warmth = pixels(figure.crop(box))[..., 0]
        y, x = np.unravel_index(int(warmth.argmax()), warmth.shape)
        assert (int(y / warmth.shape[0] * 3), int(x / warmth.shape[1] * 4)) == divmod(region, 4)


def test_focused_attention_is_bright_and_uniform_attention_faint() -> None:
    weights = np.stack([np.eye(64)[20], np.full(64, 1 / 64)])
    figure = attention_strip(blue(64, 64), ["sharp", "flat"], weights, (8, 8))
    ((_, sharp, flat),) = find_tiles(figure)
    assert pixels(figure.crop(sharp))[..., 0].max() > 180
    assert pixels(figure.crop(flat))[..., 0].max() < 90
    assert len(figure.crop(flat).getcolors() or []) == 1


def test_every_word_is_above_its_tile_and_nothing_above_the_image() -> None:
    figure = strip(["a", "dog", "runs", "over", "the", "wet", "grass"])
    top = 0
    for number, row in enumerate(find_tiles(figure)):
        for column, (left, above, right, below) in enumerate(row):
            has_label = number + column > 0
            assert (count_dark(figure, (left, top, right, above)) > 10) is has_label
            top_of_next = below
        top = top_of_next


def test_different_words_give_different_labels() -> None:
    assert strip(["dog"]) != strip(["cat"])
    assert strip(["dog"]) == strip(["dog"])


def test_a_long_word_is_truncated_to_its_tile() -> None:
    figure = strip(["w" * 200, ""], tile=80)
    ((_, (left, top, right, _), (last, *_)),) = find_tiles(figure)
    assert count_dark(figure, (left, 0, right, top)) > 50
    assert count_dark(figure, (right + 1, 0, figure.width, top)) == 0
    assert count_dark(figure, (0, 0, left - 1, top)) == 0
    assert last > right


def test_a_word_with_a_line_break_is_one_label() -> None:
    assert strip(["hot\n dog"]) == strip(["hot dog"])


def test_a_title_is_on_top_and_wraps() -> None:
    heights = [strip(["a", "dog"], title=title).height for title in ("", "a dog", "a dog runs " * 12)]
    assert heights == sorted(set(heights))
    figure = strip(["a", "dog"], title="a dog runs " * 12)
    ((first, *_, last),) = find_tiles(figure)
    assert count_dark(figure, (first[0], 0, last[2], heights[2] - heights[0])) > 500
    assert count_dark(figure, (last[2] + 2, 0, figure.width, figure.height)) == 0


@pytest.mark.parametrize(("size", "expected"), [((300, 100), (90, 30)), ((100, 300), (30, 90)), ((1000, 4), (90, 1))])
def test_the_longer_side_of_any_image_fills_the_tile(size: tuple[int, int], expected: tuple[int, int]) -> None:
    ((first, *others),) = find_tiles(strip(["a", "dog"], blue(*size), tile=90))
    assert (first[2] - first[0], first[3] - first[1]) == expected
    assert len(others) == 2


def test_a_font_can_be_selected_and_an_invalid_one_is_refused(tmp_path: Path) -> None:
    bold = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans-Bold.ttf"
    assert strip(["dog"], font=bold) != strip(["dog"])
    with pytest.raises(ConfigError, match=r"none\.ttf"):
        strip(["dog"], font=tmp_path / "none.ttf")


def test_words_and_weights_must_match() -> None:
    with pytest.raises(DataError, match="1 words but attention for 2"):
        attention_strip(blue(8, 8), ["a"], random_weights(2, 4), (2, 2))


@pytest.mark.parametrize("options", [LayoutOptions(columns=-1), LayoutOptions(tile=3)])
def test_an_invalid_layout_is_refused(options: LayoutOptions) -> None:
    with pytest.raises(ConfigError, match="columns"):
        attention_strip(blue(8, 8), ["a"], random_weights(1, 4), (2, 2), **options)


# --- statistics --------------------------------------------------------------------------------------------


def test_a_word_without_attention_is_refused() -> None:
    with pytest.raises(DataError, match="sum to 0"):
        attention_entropy(np.zeros((1, 4)))


def test_entropy_of_known_distributions_in_bits() -> None:
    weights = np.array([[1, 0, 0, 0], [0.5, 0, 0.5, 0], [0.25] * 4, [0.5, 0.25, 0.125, 0.125]])
    np.testing.assert_allclose(attention_entropy(weights), np.array([0, 1, 2, 1.75]))


@given(st.lists(st.floats(1e-3, 1), min_size=1, max_size=20))
def test_entropy_equals_the_sum_over_regions_and_is_bounded(weights: list[float]) -> None:
    (bits,) = attention_entropy([weights])
    shares = [weight / math.fsum(weights) for weight in weights]
    assert bits == pytest.approx(-math.fsum(p * math.log2(p) for p in shares), abs=1e-9)
    assert 0 <= bits <= math.log2(len(weights)) + 1e-9


def test_entropy_of_no_words_and_of_no_table() -> None:
    assert attention_entropy(np.zeros((0, 4))).shape == (0,)
    with pytest.raises(DataError, match="for a grid"):
        attention_entropy([0.5, 0.5])
