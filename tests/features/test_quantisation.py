import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from seesay.features.quantisation import dequantise, quantise
from tests.features.stores import exact

FINITE = {"allow_nan": False, "allow_infinity": False, "width": 16}


def back(features: NDArray[np.float16]) -> NDArray[np.float16]:
    return dequantise(*quantise(features))


def half_a_step(features: NDArray[np.float16]) -> NDArray[np.float64]:
    """Returns how far a feature (B, N, F) may come back from itself: half of 1/255 of its region's range with 0 in it.

    And then the half of a float16's last bit.
    """
    exactly = features.astype(np.float64)
    span = np.maximum(exactly.max(-1), 0) - np.minimum(exactly.min(-1), 0)
    last_bit = np.spacing(np.abs(features) + np.float16(1e-7)).astype(np.float64)
    return np.asarray(span[..., None] / 255 / 2 * (1 + 1e-5) + last_bit)


regions = arrays.arrays(
    np.float16,
    arrays.array_shapes(min_dims=3, max_dims=3, max_side=6),
    elements=st.one_of(st.just(0.0), st.floats(-30000, 30000, **FINITE), st.floats(-(2.0**-13), 2.0**-13, **FINITE)),  # type: ignore[arg-type]
)


@settings(max_examples=200, deadline=None)
@given(regions)
def test_feature_comes_back_within_half_a_step_and_zero_as_zero(features: NDArray[np.float16]) -> None:
    found = back(features)
    assert found.dtype == np.float16
    assert (np.abs(found.astype(np.float64) - features) <= half_a_step(features)).all()
    assert not found[features == 0].any()


@settings(max_examples=100, deadline=None)
@given(regions)
def test_step_of_a_region_is_its_range_cut_in_255(features: NDArray[np.float16]) -> None:
    codes, scales, zeros = quantise(features)
    assert [array.dtype.name for array in (codes, scales, zeros)] == ["int8", "float32", "int8"]
    assert (codes.shape, scales.shape, zeros.shape) == (features.shape, features.shape[:2], features.shape[:2])
    for place in np.ndindex(scales.shape):
        values = [0.0, *map(float, features[place])]
        assert scales[place] == pytest.approx((max(values) - min(values)) / 255)


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.float16, (1, 2, 4), elements=st.floats(-65504, 65504, **FINITE)))  # type: ignore[arg-type]
def test_finite_features_come_back_finite(features: NDArray[np.float16]) -> None:
    """Rounded up by half a step, the largest float16 would be infinite."""
    assert np.isfinite(back(features)).all()


def test_largest_float16_beside_a_low_that_would_round_it_up() -> None:
    """The step is 345.1: 65504 lies nearer to 190 steps, which no float16 holds, than to 189."""
    features = np.array([[[-22496.0, 65504.0]]], np.float16)
    assert np.rint(65504 / (88000 / 255)) * 88000 / 255 > 65520
    assert 65000 < back(features)[0, 0, 1] < np.inf


def test_region_of_zeros_is_a_region_of_zeros() -> None:
    features = np.zeros((2, 3, 4), np.float16)
    features[1, 1] = [1, 0, 2, 3]
    codes, scales, zeros = quantise(features)
    assert (scales == 0).sum() == 5
    np.testing.assert_array_equal(codes[0], zeros[0][:, None].repeat(4, axis=1))
    np.testing.assert_array_equal(back(features)[features == 0], 0)


def test_room_that_was_never_written_is_zeros() -> None:
    """As it lies in the file: rows get room for further regions where a store grows."""
    codes, scales, zeros = np.zeros((1, 2, 3), np.int8), np.zeros((1, 2), np.float32), np.zeros((1, 2), np.int8)
    np.testing.assert_array_equal(dequantise(codes, scales, zeros), np.zeros((1, 2, 3)))


@pytest.mark.parametrize("shape", [(3, 64, 1280), (1, 1, 40_000), (0, 4, 6), (2, 5, 16_384)])
def test_features_beyond_one_piece_all_come_back(shape: tuple[int, ...]) -> None:
    """They are worked on in pieces of whole regions, or of one that is larger than a piece."""
    features = exact(0, *shape)
    np.testing.assert_array_equal(dequantise(*quantise(features)), features)


def test_reading_is_left_to_one_thread() -> None:
    """Shared out over threads on busy cores, a batch that takes half a millisecond took 44."""
    parts = quantise(exact(0, 13, 64, 1280))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        dequantise(*parts)
    copies = [event for event in profile.events() if event.name in ("aten::copy_", "aten::sub_", "aten::mul_")]
    assert len(copies) > 3
    assert all(np.prod(event.input_shapes[0]) <= 32768 for event in copies)


def test_regions_of_one_sign_use_all_the_steps() -> None:
    """By hand: steps symmetric about 0 would be twice as wide here."""
    features = np.array([[[0, 51, 255, 254], [0, -51, -255, -254]]], np.float16)
    codes, scales, zeros = quantise(features)
    np.testing.assert_array_equal(scales, [[1, 1]])
    np.testing.assert_array_equal(zeros, [[-128, 127]])
    np.testing.assert_array_equal(codes, [[[-128, -77, 127, 126], [127, 76, -128, -127]]])


def test_what_lies_on_the_steps_comes_back_exactly_however_often() -> None:
    features = exact(0, 3, 4, 50)
    np.testing.assert_array_equal(back(features), features)
    np.testing.assert_array_equal(back(back(features)), features)


def test_each_region_has_steps_of_its_own() -> None:
    """One step for all would leave nothing of a region of small features beside one of large."""
    features = np.random.default_rng(0).normal(size=(1, 2, 500)).astype(np.float16)
    features[0, 1] /= 1000
    error = np.linalg.norm(back(features).astype(float) - features, axis=-1)
    assert (error / np.linalg.norm(features.astype(float), axis=-1) < 0.01).all()


def test_numbers_that_lie_apart_in_memory_are_coded_as_if_they_did_not() -> None:
    features = np.random.default_rng(0).normal(size=(5, 3, 8)).astype(np.float16)
    np.testing.assert_array_equal(back(features[::2, :, ::2]), back(features[::2, :, ::2].copy()))
