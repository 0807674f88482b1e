import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seesay.errors import DataError
from seesay.explanation import frame_of_crop, grounding_baseline, grounding_ratio, is_grounded
from tests.explanation.test_attention import GRIDS, random_weights


@settings(deadline=None, max_examples=60)
@given(GRIDS, st.integers(1, 6), st.integers(1, 6), st.data())
def test_grounding_ratio_equals_counting_pixels(
    grid: tuple[int, int], across: int, down: int, data: st.DataObject
) -> None:
    rows, columns = grid
    width, height = columns * across, rows * down
    weights = random_weights(1, rows * columns, seed=data.draw(st.integers(0, 99)))[0]
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = (left, top, data.draw(st.integers(1, width - left)), data.draw(st.integers(1, height - top)))
    spread = np.kron(weights.reshape(grid), np.full((down, across), 1 / (down * across)))
    inside = spread[top : top + box[3], left : left + box[2]]
    expected = inside.sum() / (inside.size / spread.size)
    assert grounding_ratio(weights, grid, [box], (width, height)) == pytest.approx(expected)


@given(
    st.floats(0, 90),
    st.floats(0, 90),
    st.floats(1, 200),
    st.floats(1, 200),
    st.sampled_from([(1, 1), (7, 7), (3, 5)]),
)
def test_uniform_attention_has_ratio_1(x: float, y: float, width: float, height: float, grid: tuple[int, int]) -> None:
    flat = np.full(grid[0] * grid[1], 1 / (grid[0] * grid[1]))
    assert grounding_ratio(flat, grid, [(x, y, width, height)], (100, 91)) == pytest.approx(1)


def test_grounding_ratio_of_one_region() -> None:
    weights = np.eye(12)[6]  # second row, third column of 3 x 4 cells of 10 x 20 pixels
    assert grounding_ratio(weights, (3, 4), [(20, 20, 10, 20)], (40, 60)) == pytest.approx(12)
    assert grounding_ratio(weights, (3, 4), [(20, 20, 20, 20)], (40, 60)) == pytest.approx(6)
    assert grounding_ratio(weights, (3, 4), [(25, 20, 10, 20)], (40, 60)) == pytest.approx(6)
    assert grounding_ratio(weights, (3, 4), [(0, 0, 10, 60)], (40, 60)) == 0


def test_grounding_ratio_clips_boxes_and_normalises_weights() -> None:
    weights = random_weights(1, 12)[0]
    expected = grounding_ratio(weights, (3, 4), [(20, 40, 20, 20)], (40, 60))
    assert grounding_ratio(weights, (3, 4), [(20, 40, 500, 500)], (40, 60)) == pytest.approx(expected)
    assert grounding_ratio(weights * 3, (3, 4), [(20, 40, 20, 20)], (40, 60)) == pytest.approx(expected)
    assert grounding_ratio(weights.astype(np.float16), (3, 4), [(20, 40, 20, 20)], (40, 60)) == pytest.approx(
        expected, rel=1e-2
    )


@pytest.mark.parametrize("box", [(40, 0, 5, 5), (0, 0, 0, 5), (-9, 0, 5, 5), (0, 0, math.nan, 5)])
def test_a_box_without_area_in_the_image_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(DataError, match="no area inside an image of 40 x 60"):
        grounding_ratio(np.ones(12), (3, 4), [box], (40, 60))


def test_overlaps_of_boxes_count_once() -> None:
    weights = random_weights(1, 12)[0]
    boxes = [(5.0, 5.0, 20.0, 30.0), (10.0, 20.0, 25.0, 25.0)]
    fine = np.kron(weights.reshape(3, 4), np.ones((20, 10)))
    mask = np.zeros((60, 40), bool)
    mask[5:35, 5:25] = mask[20:45, 10:35] = True
    expected = fine[mask].sum() / fine.sum() / mask.mean()
    assert grounding_ratio(weights, (3, 4), boxes, (40, 60)) == pytest.approx(expected)


def test_a_hit_has_the_centre_of_the_maximum_in_a_box() -> None:
    weights = np.eye(12)[6]  # its centre is at (25, 30)
    assert is_grounded(weights, (3, 4), [(24, 29, 2, 2)], (40, 60))
    assert is_grounded(weights, (3, 4), [(0, 0, 1, 1), (24, 29, 2, 2)], (40, 60))
    assert not is_grounded(weights, (3, 4), [(26, 20, 14, 40)], (40, 60))
    assert grounding_baseline((3, 4), [(24, 29, 2, 2)], (40, 60)) == pytest.approx(1 / 12)
    assert grounding_baseline((3, 4), [(0, 0, 40, 60)], (40, 60)) == 1


@given(GRIDS, st.integers(0, 99))
def test_the_baseline_is_the_mean_over_all_regions(grid: tuple[int, int], seed: int) -> None:
    x, y, width, height = np.random.default_rng(seed).random(4) * 50
    regions = np.eye(grid[0] * grid[1])
    hits = [is_grounded(region, grid, [(x, y, width, height)], (70, 60)) for region in regions]
    assert grounding_baseline(grid, [(x, y, width, height)], (70, 60)) == pytest.approx(np.mean(hits))


def test_a_word_without_attention_is_refused() -> None:
    with pytest.raises(DataError, match="sum to 0"):
        grounding_ratio(np.zeros(4), (2, 2), [(0, 0, 1, 1)], (2, 2))


def test_boxes_of_a_crop() -> None:
    assert frame_of_crop((30, 10, 20, 20), (100, 60), (30, 30)) == (5, 5, 10, 10)
    assert frame_of_crop((0, 0, 30, 60), (100, 60), (60, 60)) == (0, 0, 10, 60)
    assert frame_of_crop((0, 0, 20, 60), (100, 60), (60, 60)) is None
