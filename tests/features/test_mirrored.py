from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from seesay.errors import FeatureStoreError
from seesay.features import FeatureStore, JoinedStores, extract_features, match_mirrored, part_stores, store_path
from seesay.features.creation import create_store
from seesay.features.mirrored import mirrored_identity
from seesay.features.store import describe_identity
from seesay.images import load_pixels
from seesay.models.encoders import Encoder
from tests import tiny


@pytest.fixture(scope="module")
def encoder(weights: Path) -> Encoder:
    return tiny.build(weights)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Five images of the encoder's own size, which no resize changes."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(5):
        tiny.image(number, tiny.SIZE, tiny.SIZE).save(folder / f"{number}.png")
    return {path.stem: str(path) for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory, sources: dict[str, str], encoder: Encoder) -> FeatureStore:
    path = tmp_path_factory.mktemp("store") / "mirrored"
    extract_features(sources, encoder, path, mirrored=True)
    return FeatureStore(path)


def an_empty_one(path: Path, identity: dict[str, Any], *, turned: bool = False) -> FeatureStore:
    create_store(path, ["a"], 4, 3, (2, 2), mirrored_identity(identity) if turned else identity)
    return FeatureStore(path)


def test_rows_are_what_the_encoder_gives_of_files_that_hold_the_mirrored_images(
    sources: dict[str, str], encoder: Encoder, mirrored: FeatureStore, tmp_path: Path
) -> None:
    turned = {name: str(tmp_path / f"{name}.png") for name in sources}
    for name, source in sources.items():
        with Image.open(source) as image:
            ImageOps.mirror(image).save(turned[name])
    extract_features(turned, encoder, tmp_path / "s")
    extract_features(sources, encoder, tmp_path / "plain")
    features, _ = mirrored.read(list(sources))
    np.testing.assert_array_equal(features, FeatureStore(tmp_path / "s").read(list(sources))[0])
    assert not np.allclose(features, FeatureStore(tmp_path / "plain").read(list(sources))[0], atol=0.01)


def test_broken_off_it_goes_on_to_the_same_bytes(
    sources: dict[str, str], encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    extract_features(sources, encoder, tmp_path / "whole", batch_size=2, mirrored=True)
    with pytest.raises(KeyboardInterrupt):
        extract_features(sources, encoder, tmp_path / "s", batch_size=2, mirrored=True, progress=stop)
    assert extract_features(sources, encoder, tmp_path / "s", batch_size=2, mirrored=True).extracted == 3
    assert (tmp_path / "s").read_bytes() == (tmp_path / "whole").read_bytes()


def test_neither_store_is_taken_for_the_other(
    sources: dict[str, str], encoder: Encoder, mirrored: FeatureStore, tmp_path: Path
) -> None:
    extract_features(sources, encoder, tmp_path / "plain")
    plain = FeatureStore(tmp_path / "plain")
    assert plain.identity == encoder.identity  # as it was before there were mirrored ones
    before = mirrored.path.read_bytes(), plain.path.read_bytes()
    with pytest.raises(FeatureStoreError, match=r", mirrored, not by .*: mirrored is True, wanted None"):
        JoinedStores([mirrored]).require(encoder.identity)
    with pytest.raises(FeatureStoreError, match="mirrored is True, wanted None"):
        extract_features(sources, encoder, mirrored.path)
    with pytest.raises(FeatureStoreError, match="mirrored is None, wanted True"):
        extract_features(sources, encoder, plain.path, mirrored=True)
    assert (mirrored.path.read_bytes(), plain.path.read_bytes()) == before
    paths = [store_path("f", tmp_path, encoder, mirrored=turned) for turned in (False, True)]
    assert paths[0] == store_path("f", tmp_path, encoder)
    assert paths[0] != paths[1]
    assert "-mirrored-" in paths[1].name


def test_pixels_are_turned_left_to_right_after_the_preprocessing(
    sources: dict[str, str], encoder: Encoder, mirrored: FeatureStore
) -> None:
    pixels = load_pixels(sources["3"], encoder.preprocessing)[:, ::-1].copy()
    with torch.inference_mode():
        features = encoder(torch.from_numpy(pixels[None])).half().numpy()
    np.testing.assert_allclose(mirrored.read(["3"])[0], features, rtol=2e-3, atol=1e-3)


class TestMatching:
    def test_is_by_encoder_in_the_order_of_the_plain_ones(self, encoder: Encoder, tmp_path: Path) -> None:
        one, two = encoder.identity, {**encoder.identity, "layer": "stem"}
        given = [
            an_empty_one(tmp_path / "1", two, turned=True),
            an_empty_one(tmp_path / "2", one),
            an_empty_one(tmp_path / "3", two),
            an_empty_one(tmp_path / "4", one, turned=True),
        ]
        plain, mirrored = part_stores(given)
        assert [[store.path.name for store in side] for side in (plain, mirrored)] == [["2", "3"], ["1", "4"]]
        assert [store.path.name for store in match_mirrored(plain, mirrored).stores] == ["4", "1"]

    def test_what_does_not_go_together_is_refused(self, encoder: Encoder, tmp_path: Path) -> None:
        one, two = encoder.identity, {**encoder.identity, "layer": "stem"}
        plain, other = an_empty_one(tmp_path / "plain", one), an_empty_one(tmp_path / "other", two)
        imported = an_empty_one(tmp_path / "imported", {"imported": "mine"})
        turned = an_empty_one(tmp_path / "turned", one, turned=True)
        twin = an_empty_one(tmp_path / "twin", one, turned=True)
        with pytest.raises(FeatureStoreError, match=r"turned holds .* mirrored images; name the store of the images"):
            part_stores([turned, twin])
        with pytest.raises(FeatureStoreError, match=r"other has no counterpart .* seesay extract DATA --mirror"):
            match_mirrored([plain, other], [turned])
        with pytest.raises(FeatureStoreError, match=r"turned holds .*, mirrored, which goes with no other store given"):
            match_mirrored([other], [turned])
        with pytest.raises(FeatureStoreError, match=r"turned and .*twin both hold test_resnet .*, mirrored; name one"):
            match_mirrored([plain], [turned, twin])
        with pytest.raises(FeatureStoreError, match=r"imported features 'mine', of which there are none of mirrored"):
            match_mirrored([plain, imported], [turned])


def test_messages_say_which_is_mirrored(encoder: Encoder) -> None:
    plain = describe_identity(encoder.identity)
    assert describe_identity(mirrored_identity(encoder.identity)) == f"{plain}, mirrored"
    assert "mirrored" not in plain
