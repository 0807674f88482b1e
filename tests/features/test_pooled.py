"""Pooled features are computed from a store of grids of the same encoder and images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seesay.features import FeatureStore, extract_features
from seesay.models.encoders import Encoder, build_encoder
from tests import tiny

NAMES = list("abcde")


@pytest.fixture
def images(tmp_path: Path) -> dict[str, str]:
    for number, name in enumerate(NAMES):
        tiny.image(number).save(tmp_path / f"{name}.png")
    return {name: str(tmp_path / f"{name}.png") for name in NAMES}


def encoder(weights: Path, pool: str, **overrides: Any) -> Encoder:
    return build_encoder(tiny.cached(weights, pool=pool, **overrides).encoder)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_pooled_features_are_averages_of_stored_grids(
    images: dict[str, str], weights: Path, tmp_path: Path, dtype: str, mirrored: bool
) -> None:
    # Bug: every image was encoded again although its grid was stored.
    pooled = encoder(weights, "pooled", feature_dtype=dtype)
    extract_features(images, pooled, tmp_path / "alone/p.safetensors", mirrored=mirrored)
    grids = dict(list(images.items())[:3])
    extract_features(grids, encoder(weights, "grid"), tmp_path / "both/g.safetensors", mirrored=mirrored)
    report = extract_features(images, pooled, tmp_path / "both/p.safetensors", mirrored=mirrored)
    assert (report.pooled, report.extracted, report.images) == (3, 2, 5)
    pooled_features, encoded = (FeatureStore(tmp_path / name / "p.safetensors") for name in ("both", "alone"))
    np.testing.assert_allclose(
        pooled_features.read(NAMES)[0], encoded.read(NAMES)[0], rtol=2e-3, atol=1e-3 if dtype == "float16" else 2e-2
    )
    assert float(encoded.read(NAMES)[0].std()) > 0.05
    assert extract_features(images, pooled, tmp_path / "both/p.safetensors", mirrored=mirrored).extracted == 0


@pytest.mark.parametrize("overrides", [{"layer": "layer2"}, {"image_size": 64}, {"feature_dtype": "int8"}])
def test_grids_of_another_encoder_or_int8_grids_are_not_pooled(
    images: dict[str, str], weights: Path, tmp_path: Path, overrides: dict[str, Any]
) -> None:
    extract_features(images, encoder(weights, "grid", **overrides), tmp_path / "g.safetensors")
    assert extract_features(images, encoder(weights, "pooled"), tmp_path / "p.safetensors").extracted == 5


def test_grids_of_changed_images_are_not_pooled(images: dict[str, str], weights: Path, tmp_path: Path) -> None:
    extract_features(images, encoder(weights, "grid"), tmp_path / "g.safetensors")
    tiny.image(9).save(images["b"])
    report = extract_features(images, encoder(weights, "pooled"), tmp_path / "p.safetensors")
    assert (report.pooled, report.extracted) == (4, 1)


def test_a_smaller_grid_is_pooled_from_the_stored_one(images: dict[str, str], weights: Path, tmp_path: Path) -> None:
    whole = encoder(weights, "grid", image_size=160)  # 5 x 5
    small = encoder(weights, "grid", image_size=160, grid_size=2)
    extract_features(images, small, tmp_path / "alone/s.safetensors")
    extract_features(images, whole, tmp_path / "both/g.safetensors")
    report = extract_features(images, small, tmp_path / "both/s.safetensors")
    assert (report.pooled, report.extracted) == (5, 0)
    pooled, encoded = (FeatureStore(tmp_path / name / "s.safetensors") for name in ("both", "alone"))
    np.testing.assert_allclose(pooled.read(NAMES)[0], encoded.read(NAMES)[0], rtol=2e-3, atol=1e-3)
    assert (pooled.grid, pooled.identity["grid_size"]) == ((2, 2), 2)
