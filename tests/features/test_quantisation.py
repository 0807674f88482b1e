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


def round_trip(features: NDArray[np.float16]) -> NDArray[np.float16]:
    return dequantise(*quantise(features))


def max_errors(features: NDArray[np.float16]) -> NDArray[np.float64]:
    """Returns the maximum round-trip error of each feature (B, N, F).

    It is half of a step, 1/255 of the region's range including 0, plus the last bit of float16.
    """
    values = features.astype(np.float64)
    ranges = np.maximum(values.max(-1), 0) - np.minimum(values.min(-1), 0)
    last_bit = np.spacing(np.abs(features) + np.float16(1e-7)).astype(np.float64)
    return np.asarray(ranges[..., None] / 255 / 2 * (1 + 1e-5) + last_bit)


regions = arrays.arrays(
    np.float16,
    arrays.array_shapes(min_dims=3, max_dims=3, max_side=6),
    elements=st.one_of(st.just(0.0), st.floats(-30000, 30000, **FINITE), st.floats(-(2.0**-13), 2.0**-13, **FINITE)),  # type: ignore[arg-type]
)


@settings(max_examples=200, deadline=None)
@given(regions)
def test_the_error_is_at_most_half_a_step_and_zero_is_exact(features: NDArray[np.float16]) -> None:
    restored = round_trip(features)
    assert restored.dtype == np.float16
    assert (np.abs(restored.astype(np.float64) - features) <= max_errors(features)).all()
    assert not restored[features == 0].any()


@settings(max_examples=100, deadline=None)
@given(regions)
def test_the_step_of_a_region_is_a_255th_of_its_range(features: NDArray[np.float16]) -> None:
    codes, scales, zeros = quantise(features)
    assert [array.dtype.name for array in (codes, scales, zeros)] == ["int8", "float32", "int8"]
    assert (codes.shape, scales.shape, zeros.shape) == (features.shape, features.shape[:2], features.shape[:2])
    for index in np.ndindex(scales.shape):
        values = [0.0, *map(float, features[index])]
        assert scales[index] == pytest.approx((max(values) - min(values)) / 255)


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.float16, (1, 2, 4), elements=st.floats(-65504, 65504, **FINITE)))  # type: ignore[arg-type]
def test_finite_features_stay_finite(features: NDArray[np.float16]) -> None:
    """The largest float16 rounded up by half a step would be infinite."""
    assert np.isfinite(round_trip(features)).all()


def test_the_largest_float16_is_not_rounded_up_to_infinity() -> None:
    """The step is 345.1: 65504 is nearer to 190 steps, which overflow float16, than to 189."""
    features = np.array([[[-22496.0, 65504.0]]], np.float16)
    assert np.rint(65504 / (88000 / 255)) * 88000 / 255 > 65520
    assert 65000 < round_trip(features)[0, 0, 1] < np.inf


def test_zeros_are_exact() -> None:
    features = np.zeros((2, 3, 4), np.float16)
    features[1, 1] = [1, 0, 2, 3]
    codes, scales, zeros = quantise(features)
    assert (scales == 0).sum() == 5
    np.testing.assert_array_equal(codes[0], zeros[0][:, None].repeat(4, axis=1))
    np.testing.assert_array_equal(round_trip(features)[features == 0], 0)


def test_unwritten_regions_are_zeros() -> None:
    """Growing a store appends zero bytes to its rows."""
    codes, scales, zeros = np.zeros((1, 2, 3), np.int8), np.zeros((1, 2), np.float32), np.zeros((1, 2), np.int8)
    np.testing.assert_array_equal(dequantise(codes, scales, zeros), np.zeros((1, 2, 3)))


@pytest.mark.parametrize("shape", [(3, 64, 1280), (1, 1, 40_000), (0, 4, 6), (2, 5, 16_384)])
def test_features_larger_than_a_chunk_are_restored(shape: tuple[int, ...]) -> None:
    """Chunks consist of complete regions, or of one region larger than a chunk."""
    features = exact(0, *shape)
    np.testing.assert_array_equal(dequantise(*quantise(features)), features)


def test_reading_uses_one_thread() -> None:
    """With threads on busy cores, a batch took 44 ms instead of 0.5 ms."""
    parts = quantise(exact(0, 13, 64, 1280))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        dequantise(*parts)
    copies = [event for event in profile.events() if event.name in ("aten::copy_", "aten::sub_", "aten::mul_")]
    assert len(copies) > 3
    assert all(np.prod(event.input_shapes[0]) <= 32768 for event in copies)


def test_regions_of_one_sign_use_all_codes() -> None:
    """Hand-computed: steps symmetric about 0 would be twice as wide."""
    features = np.array([[[0, 51, 255, 254], [0, -51, -255, -254]]], np.float16)
    codes, scales, zeros = quantise(features)
    np.testing.assert_array_equal(scales, [[1, 1]])
    np.testing.assert_array_equal(zeros, [[-128, 127]])
    np.testing.assert_array_equal(codes, [[[-128, -77, 127, 126], [127, 76, -128, -127]]])


def test_multiples_of_the_step_are_exact_after_repeated_round_trips() -> None:
    features = exact(0, 3, 4, 50)
    np.testing.assert_array_equal(round_trip(features), features)
    np.testing.assert_array_equal(round_trip(round_trip(features)), features)


def test_each_region_has_its_own_step() -> None:
    """A common step would round a region of small features to 0."""
    features = np.random.default_rng(0).normal(size=(1, 2, 500)).astype(np.float16)
    features[0, 1] /= 1000
    error = np.linalg.norm(round_trip(features).astype(float) - features, axis=-1)
    assert (error / np.linalg.norm(features.astype(float), axis=-1) < 0.01).all()


def test_non_contiguous_features_are_supported() -> None:
    features = np.random.default_rng(0).normal(size=(5, 3, 8)).astype(np.float16)
    np.testing.assert_array_equal(round_trip(features[::2, :, ::2]), round_trip(features[::2, :, ::2].copy()))
