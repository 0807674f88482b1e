"""Detection of images that were replaced under the same name, in every kind of source."""

import logging
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seesay.errors import FeatureStoreError
from seesay.features import convert_store, extract_features, import_features
from seesay.features.extraction import ExtractionReport
from seesay.features.layout import FeatureDtype
from seesay.features.stamps import changed_images, require_unchanged
from seesay.features.store import FeatureStore
from seesay.images import sources as sources_module
from seesay.models.encoders import Encoder, build_encoder
from tests import tiny
from tests.features.stores import DTYPES, write_unstamped

NAMES = list("abcd")


@pytest.fixture(scope="module")
def encoder(weights: Path) -> Encoder:
    return tiny.build(weights)


@pytest.fixture
def images(tmp_path: Path) -> dict[str, str]:
    for number, name in enumerate(NAMES):
        tiny.image(number).save(tmp_path / f"{name}.png")
    return {name: str(tmp_path / f"{name}.png") for name in NAMES}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.LogCaptureFixture]:
    """Log records of seesay, each once, also after a test that configured its logger for a terminal."""
    logger = logging.getLogger("seesay")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    with caplog.at_level(logging.INFO, "seesay"):
        yield caplog


def read(path: Path, *names: str) -> np.ndarray:
    return FeatureStore(path).read(names or NAMES)[0]


def counts(report: ExtractionReport) -> tuple[int, int]:
    return report.extracted, report.changed


@DTYPES
@pytest.mark.parametrize("mirrored", [False, True])
def test_an_image_replaced_under_the_same_name_is_encoded_again(
    images: dict[str, str], weights: Path, tmp_path: Path, log: pytest.LogCaptureFixture,
    dtype: FeatureDtype, mirrored: bool,
) -> None:  # fmt: skip
    encoder = build_encoder(tiny.cached(weights, feature_dtype=dtype).encoder)
    path = tmp_path / "s"
    assert counts(extract_features(images, encoder, path, mirrored=mirrored)) == (4, 0)
    before = read(path)
    status = Path(images["b"]).stat()
    tiny.image(9).save(images["b"])
    os.utime(images["b"], ns=(status.st_atime_ns, status.st_mtime_ns))  # as unpacking an archive does
    assert counts(extract_features(images, encoder, path, mirrored=mirrored)) == (1, 1)
    assert [message for message in log.messages if "changed" in message] == [
        f"1 images have changed since {path} was created, such as {images['b']}; encoding them again"
    ]
    extract_features(images, encoder, tmp_path / "fresh", mirrored=mirrored)
    np.testing.assert_allclose(read(path), read(tmp_path / "fresh"), rtol=2e-3, atol=2e-2)
    assert not np.allclose(read(path, "b"), before[1:2], atol=0.1)
    np.testing.assert_array_equal(read(path, "a", "c", "d"), before[[0, 2, 3]])
    assert counts(extract_features(images, encoder, path, mirrored=mirrored)) == (0, 0)


def test_a_touched_file_is_read_once_and_not_encoded_again(
    images: dict[str, str], encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract_features(images, encoder, tmp_path / "s")
    os.utime(images["c"], (0, 0))
    assert counts(extract_features(images, encoder, tmp_path / "s")) == (0, 0)
    monkeypatch.setattr("seesay.features.stamps.open_source", None)
    assert counts(extract_features(images, encoder, tmp_path / "s")) == (0, 0)


def test_an_image_replaced_by_an_unreadable_file_loses_its_features(
    images: dict[str, str], encoder: Encoder, tmp_path: Path
) -> None:
    extract_features(images, encoder, tmp_path / "s")
    Path(images["a"]).write_bytes(b"GIF89a")
    report = extract_features(images, encoder, tmp_path / "s")
    assert (report.images, len(report.unreadable)) == (3, 1)
    assert "a" not in FeatureStore(tmp_path / "s")


def test_features_of_a_missing_image_are_used_with_a_warning(
    images: dict[str, str], encoder: Encoder, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    extract_features(images, encoder, tmp_path / "s")
    Path(images["a"]).unlink()
    assert extract_features(images, encoder, tmp_path / "s").images == 4
    expected = f"{tmp_path / 's'}: features of 1 of 4 images are used unchecked: 1 with a missing image"
    assert log.messages == [expected]


def _tar(folder: Path, contents: list[bytes]) -> dict[str, str]:
    with tarfile.open(folder / "t.tar", "w") as tar:
        for name, content in zip(NAMES, contents, strict=True):
            (folder / "member").write_bytes(content)
            tar.add(folder / "member", f"{name}.png")
    return {name: f"{folder / 't.tar'}::{name}.png" for name in NAMES}


def _parquet(folder: Path, contents: list[bytes]) -> dict[str, str]:
    pq.write_table(pa.table({"image": contents}), folder / "t.parquet")
    return {name: f"{folder / 't.parquet'}::image::{row}" for row, name in enumerate(NAMES)}


@pytest.mark.parametrize("pack", [_tar, _parquet])
def test_only_the_changed_members_of_an_archive_are_encoded_again(
    images: dict[str, str], encoder: Encoder, tmp_path: Path, pack: object
) -> None:
    assert callable(pack)
    contents = [Path(image).read_bytes() for image in images.values()]
    extract_features(pack(tmp_path, contents), encoder, tmp_path / "s")
    contents[1] = contents[2]
    assert counts(extract_features(pack(tmp_path, contents), encoder, tmp_path / "s")) == (1, 1)
    np.testing.assert_allclose(read(tmp_path / "s", "b"), read(tmp_path / "s", "c"), atol=2e-2)


def test_a_url_is_fetched_again_only_if_it_changed(
    images: dict[str, str], encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    log: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    requests: list[str] = []

    def fetch(url: str) -> bytes:
        requests.append(url)
        return Path(images[url[-1]]).read_bytes()

    monkeypatch.setattr(sources_module, "_fetch", fetch)
    urls = {name: f"http://host/{name}" for name in NAMES[:2]}
    extract_features(urls, encoder, tmp_path / "s")
    assert extract_features(urls, encoder, tmp_path / "s").extracted == 0
    assert len(requests) == 2
    assert "used unchecked: 2 from URLs" in log.messages[0]
    assert counts(extract_features({**urls, "b": "http://other/d"}, encoder, tmp_path / "s")) == (1, 1)
    assert set(requests[2:]) == {"http://other/d"}


def test_stores_of_changed_images_are_refused(images: dict[str, str], encoder: Encoder, tmp_path: Path) -> None:
    for name in ("one", "two"):
        extract_features(images, encoder, tmp_path / name)
    stores = [FeatureStore(tmp_path / name) for name in ("one", "two")]
    require_unchanged(stores, images)
    tiny.image(9).save(images["b"])
    extract_features(images, encoder, tmp_path / "one")
    with pytest.raises(
        FeatureStoreError, match=r"1 images have changed since .*two was created, such as .*b\.png; encode"
    ):
        require_unchanged([FeatureStore(store.path) for store in stores], images)


def test_older_stores_are_accepted_with_a_warning(
    images: dict[str, str], encoder: Encoder, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    path = write_unstamped(tmp_path / "s", tiny.features(0, 2, 1, 3), encoder.identity)
    assert changed_images(FeatureStore(path), images) == []
    assert log.messages == [
        f"{path}: features of 2 of 2 images are used unchecked: 2 without a record of the image (older store)"
    ]


def test_changed_arrays_are_imported_again_and_images_are_not_checked(
    images: dict[str, str], tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "arrays"
    source.mkdir()
    for index, name in enumerate(NAMES):
        np.save(source / f"{name}.npy", tiny.features(index, 2, 3))
    import_features(source, images, tmp_path / "s")
    before = read(tmp_path / "s")
    np.save(source / "b.npy", tiny.features(9, 2, 3))
    import_features(source, images, tmp_path / "s")
    assert log.messages == [f"imported 1 arrays again that changed since {tmp_path / 's'} was created"]
    np.testing.assert_array_equal(read(tmp_path / "s", "a", "b")[1], tiny.features(9, 2, 3))
    np.testing.assert_array_equal(read(tmp_path / "s", "a", "c", "d"), before[[0, 2, 3]])
    tiny.image(9).save(images["a"])
    require_unchanged([FeatureStore(tmp_path / "s")], images)
    assert log.messages[1].endswith("used unchecked: 4 imported, not extracted from an image")


def test_conversion_updates_rows_that_were_encoded_again(
    images: dict[str, str], encoder: Encoder, tmp_path: Path
) -> None:
    extract_features(images, encoder, tmp_path / "s")
    convert_store(tmp_path / "s", tmp_path / "i", "int8")
    tiny.image(9).save(images["b"])
    extract_features(images, encoder, tmp_path / "s")
    with pytest.raises(FeatureStoreError, match="have changed"):
        require_unchanged([FeatureStore(tmp_path / "i")], images)
    convert_store(tmp_path / "s", tmp_path / "i", "int8")
    require_unchanged([FeatureStore(tmp_path / "i")], images)
    np.testing.assert_allclose(read(tmp_path / "i"), read(tmp_path / "s"), atol=0.05)
