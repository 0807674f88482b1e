from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from seesay.errors import FeatureStoreError
from seesay.features import FeatureStore, JoinedStores, extract_features, match_mirrored, split_stores, store_path
from seesay.features.creation import create_store
from seesay.features.mirrored import mirrored_identity
from seesay.features.store import describe_identity
from seesay.images.loading import load_pixels
from seesay.models.encoders import Encoder
from tests import tiny


@pytest.fixture(scope="module")
def encoder(weights: Path) -> Encoder:
    return tiny.build(weights)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Five images of the encoder's input size, so that they are not resized."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(5):
        tiny.image(number, tiny.SIZE, tiny.SIZE).save(folder / f"{number}.png")
    return {path.stem: str(path) for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory, sources: dict[str, str], encoder: Encoder) -> FeatureStore:
    path = tmp_path_factory.mktemp("store") / "mirrored"
    extract_features(sources, encoder, path, mirrored=True)
    return FeatureStore(path)


def create_empty(path: Path, identity: dict[str, Any], *, flip: bool = False) -> FeatureStore:
    create_store(path, ["a"], 4, 3, (2, 2), mirrored_identity(identity) if flip else identity)
    return FeatureStore(path)


def test_rows_equal_the_features_of_mirrored_files(
    sources: dict[str, str], encoder: Encoder, mirrored: FeatureStore, tmp_path: Path
) -> None:
    flip = {name: str(tmp_path / f"{name}.png") for name in sources}
    for name, source in sources.items():
        with Image.open(source) as image:
            ImageOps.mirror(image).save(flip[name])
    extract_features(flip, encoder, tmp_path / "s")
    extract_features(sources, encoder, tmp_path / "plain")
    features, _ = mirrored.read(list(sources))
    np.testing.assert_array_equal(features, FeatureStore(tmp_path / "s").read(list(sources))[0])
    assert not np.allclose(features, FeatureStore(tmp_path / "plain").read(list(sources))[0], atol=0.01)


def test_an_interrupted_extraction_resumes_to_the_same_bytes(
    sources: dict[str, str], encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    extract_features(sources, encoder, tmp_path / "complete", batch_size=2, mirrored=True)
    with pytest.raises(KeyboardInterrupt):
        extract_features(sources, encoder, tmp_path / "s", batch_size=2, mirrored=True, progress=stop)
    assert extract_features(sources, encoder, tmp_path / "s", batch_size=2, mirrored=True).extracted == 3
    assert (tmp_path / "s").read_bytes() == (tmp_path / "complete").read_bytes()


def test_original_and_mirrored_stores_are_not_confused(
    sources: dict[str, str], encoder: Encoder, mirrored: FeatureStore, tmp_path: Path
) -> None:
    extract_features(sources, encoder, tmp_path / "plain")
    original = FeatureStore(tmp_path / "plain")
    assert original.identity == encoder.identity  # unchanged by the support of mirrored stores
    before = mirrored.path.read_bytes(), original.path.read_bytes()
    with pytest.raises(FeatureStoreError, match=r", mirrored, not of .*: mirrored is True, not None"):
        JoinedStores([mirrored]).require(encoder.identity)
    with pytest.raises(FeatureStoreError, match="mirrored is True, not None"):
        extract_features(sources, encoder, mirrored.path)
    with pytest.raises(FeatureStoreError, match="mirrored is None, not True"):
        extract_features(sources, encoder, original.path, mirrored=True)
    assert (mirrored.path.read_bytes(), original.path.read_bytes()) == before
    paths = [store_path("f", tmp_path, encoder, mirrored=flip) for flip in (False, True)]
    assert paths[0] == store_path("f", tmp_path, encoder)
    assert paths[0] != paths[1]
    assert "-mirrored-" in paths[1].name


def test_pixels_are_flipped_after_the_preprocessing(
    sources: dict[str, str], encoder: Encoder, mirrored: FeatureStore
) -> None:
    pixels = load_pixels(sources["3"], encoder.preprocessing)[:, ::-1].copy()
    with torch.inference_mode():
        features = encoder(torch.from_numpy(pixels[None])).half().numpy()
    np.testing.assert_allclose(mirrored.read(["3"])[0], features, rtol=2e-3, atol=1e-3)


class TestMatching:
    def test_stores_are_matched_by_encoder_in_the_order_of_the_originals(
        self, encoder: Encoder, tmp_path: Path
    ) -> None:
        one, two = encoder.identity, {**encoder.identity, "layer": "stem"}
        stores = [
            create_empty(tmp_path / "1", two, flip=True),
            create_empty(tmp_path / "2", one),
            create_empty(tmp_path / "3", two),
            create_empty(tmp_path / "4", one, flip=True),
        ]
        original, mirrored = split_stores(stores)
        assert [[store.path.name for store in part] for part in (original, mirrored)] == [["2", "3"], ["1", "4"]]
        assert [store.path.name for store in match_mirrored(original, mirrored).stores] == ["4", "1"]

    def test_mismatched_stores_are_refused(self, encoder: Encoder, tmp_path: Path) -> None:
        one, two = encoder.identity, {**encoder.identity, "layer": "stem"}
        original, other = create_empty(tmp_path / "original", one), create_empty(tmp_path / "other", two)
        imported = create_empty(tmp_path / "imported", {"imported": "mine"})
        flip = create_empty(tmp_path / "flip", one, flip=True)
        duplicate = create_empty(tmp_path / "duplicate", one, flip=True)
        with pytest.raises(FeatureStoreError, match=r"flip has .* mirrored images; also pass the store of the orig"):
            split_stores([flip, duplicate])
        with pytest.raises(
            FeatureStoreError, match=r"other has no store of mirrored images, .* seesay extract DATA --mirror"
        ):
            match_mirrored([original, other], [flip])
        with pytest.raises(FeatureStoreError, match=r"flip has .*, mirrored, which matches no other store"):
            match_mirrored([other], [flip])
        with pytest.raises(
            FeatureStoreError, match=r"flip and .*duplicate both have test_resnet .*, mirrored; pass one"
        ):
            match_mirrored([original], [flip, duplicate])
        with pytest.raises(FeatureStoreError, match=r"imported features 'mine', which have no mirrored counterpart"):
            match_mirrored([original, imported], [flip])


def test_descriptions_include_mirrored(encoder: Encoder) -> None:
    original = describe_identity(encoder.identity)
    assert describe_identity(mirrored_identity(encoder.identity)) == f"{original}, mirrored"
    assert "mirrored" not in original
