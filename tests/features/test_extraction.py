import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from seesay.errors import EncoderError, FeatureStoreError
from seesay.features.conversion import convert_store
from seesay.features.extraction import extract_features, round_features, store_path
from seesay.features.layout import FeatureDtype
from seesay.features.store import DONE, FeatureStore
from seesay.images.loading import load_pixels
from seesay.models.encoders import Encoder, build_encoder
from tests import processes, tiny
from tests.features.stores import DTYPES

BATCH = 4


@pytest.fixture(scope="module")
def encoder(weights: Path) -> Encoder:
    return tiny.build(weights)


@pytest.fixture(scope="module")
def int8_encoder(weights: Path) -> Encoder:
    """The same encoder with features stored as int8."""
    return build_encoder(tiny.cached(weights, feature_dtype="int8").encoder)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Eleven images; the sixth is unreadable."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(11):
        tiny.image(number).save(folder / f"{number:02}.png")
    (folder / "05.png").write_bytes((folder / "05.png").read_bytes()[:90])
    return {path.stem: str(path) for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory, sources: dict[str, str], encoder: Encoder) -> Path:
    path = tmp_path_factory.mktemp("store") / "complete"
    extract_features(sources, encoder, path, batch_size=BATCH)
    return path


def readable(sources: dict[str, str]) -> dict[str, str]:
    return {name: source for name, source in sources.items() if name != "05"}


def test_rows_equal_the_encoders_output(sources: dict[str, str], encoder: Encoder, complete: Path) -> None:
    store = FeatureStore(complete)
    assert store.identity == encoder.identity
    assert (store.grid, store.feature_size) == (encoder.grid, encoder.feature_size)
    for name, source in readable(sources).items():
        with torch.inference_mode():
            features = encoder(torch.from_numpy(load_pixels(source, encoder.preprocessing)[None]))
        assert float(features.std()) > 0.01
        np.testing.assert_allclose(store.read([name])[0], features.half().numpy(), rtol=2e-3, atol=1e-3)


def test_the_report_counts_images_and_lists_unreadable_ones(
    sources: dict[str, str], encoder: Encoder, tmp_path: Path
) -> None:
    calls: list[tuple[int, int]] = []
    report = extract_features(
        sources, encoder, tmp_path / "s", batch_size=BATCH, progress=lambda done, total: calls.append((done, total))
    )
    assert (report.images, report.extracted, len(report.unreadable)) == (10, 10, 1)
    assert sources["05"] in report.unreadable[0]
    assert calls == [(4, 11), (8, 11), (11, 11)]
    assert report.rate > 0
    assert report.encoder_rate >= report.rate


def test_unreadable_images_are_retried(sources: dict[str, str], encoder: Encoder, tmp_path: Path) -> None:
    broken = tmp_path / "b.png"
    broken.write_bytes(b"GIF89a")
    mixed = {"a": sources["00"], "b": str(broken)}
    path = tmp_path / "s"
    assert "b" not in FeatureStore(extract_features(mixed, encoder, path).path)
    again = extract_features(mixed, encoder, path)
    assert (again.images, again.extracted, len(again.unreadable)) == (1, 0, 1)
    tiny.image(1).save(broken)
    repaired = extract_features(mixed, encoder, path)
    assert (repaired.images, repaired.extracted, repaired.unreadable) == (2, 1, ())
    np.testing.assert_array_equal(
        FeatureStore(path).read(["b"])[0],
        FeatureStore(extract_features({"b": sources["01"]}, encoder, tmp_path / "t").path).read(["b"])[0],
    )


def test_only_added_images_are_encoded(sources: dict[str, str], encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "s"
    subset = {name: sources[name] for name in ("00", "02")}
    extract_features(subset, encoder, path)
    before, _ = FeatureStore(path).read(["00", "02"])
    grown = extract_features(readable(sources), encoder, path)
    assert (grown.images, grown.extracted) == (10, 8)
    np.testing.assert_array_equal(FeatureStore(path).read(["00", "02"])[0], before)
    fewer = extract_features(subset, encoder, path)
    assert (fewer.images, fewer.extracted) == (2, 0)
    assert len(FeatureStore(path)) == 10


def test_a_store_of_another_encoder_is_refused_and_unchanged(
    sources: dict[str, str], encoder: Encoder, complete: Path, tmp_path: Path
) -> None:
    other = tiny.build(tiny.write_encoder(tmp_path / "other.safetensors", seed=1))
    before = complete.read_bytes()
    with pytest.raises(FeatureStoreError) as caught:
        extract_features(sources, other, complete)
    for digest in (encoder.identity["digest"], other.identity["digest"]):
        assert f"test_resnet at 48 px, grid, weights {str(digest)[:8]}" in str(caught.value)
    assert complete.read_bytes() == before


def test_encoders_and_data_sets_have_distinct_paths(encoder: Encoder, tmp_path: Path) -> None:
    other = tiny.build(tiny.write_encoder(tmp_path / "other.safetensors", seed=1))
    paths = {
        store_path("f", data, network) for data in (tmp_path / "a", tmp_path / "b") for network in (encoder, other)
    }
    assert len(paths) == 4
    assert store_path("f", tmp_path / "a" / ".." / "a", encoder) in paths


def test_dtypes_have_distinct_paths(encoder: Encoder, int8_encoder: Encoder, tmp_path: Path) -> None:
    paths = [store_path("f", tmp_path / "a", network) for network in (encoder, int8_encoder)]
    assert paths[1].name == f"{paths[0].stem}-int8.safetensors"


@pytest.mark.parametrize("added", [False, True])
def test_a_store_of_the_other_dtype_is_refused_and_unchanged(
    sources: dict[str, str], int8_encoder: Encoder, complete: Path, added: bool
) -> None:
    before = complete.read_bytes()
    with pytest.raises(FeatureStoreError, match="has dtype float16, not int8; choose another file"):
        extract_features({**sources, "new": sources["00"]} if added else sources, int8_encoder, complete)
    assert complete.read_bytes() == before


def test_int8_features_equal_the_converted_float16_store(
    sources: dict[str, str], int8_encoder: Encoder, complete: Path, tmp_path: Path
) -> None:
    report = extract_features(sources, int8_encoder, tmp_path / "s", batch_size=BATCH)
    assert (report.images, len(report.unreadable)) == (10, 1)
    store, names = FeatureStore(tmp_path / "s"), list(readable(sources))
    assert (store.dtype, store.identity) == ("int8", int8_encoder.identity)
    assert convert_store(complete, tmp_path / "t", "int8") == 10
    found, expected = (FeatureStore(tmp_path / name).read(names)[0] for name in "st")
    np.testing.assert_array_equal(found, expected)
    original = FeatureStore(complete).read(names)[0].astype(float)
    assert 0 < np.linalg.norm(found - original) < 0.01 * np.linalg.norm(original)


def test_extraction_resumes_after_a_full_disk(
    sources: dict[str, str], encoder: Encoder, complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls_left = [2]

    def pwrite(*arguments: object) -> int:
        calls_left[0] -= 1
        if calls_left[0] < 0:
            raise OSError(28, "No space left on device")
        return real(*arguments)  # type: ignore[arg-type]

    real = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(FeatureStoreError, match=r"^the disk of .* is full; free space .* to resume$"):
            extract_features(sources, encoder, tmp_path / "s", batch_size=BATCH)
    assert 0 < int((FeatureStore(tmp_path / "s").status == DONE).sum()) < 10
    extract_features(sources, encoder, tmp_path / "s", batch_size=BATCH)
    assert (tmp_path / "s").read_bytes() == complete.read_bytes()


@pytest.mark.parametrize("batches", [1, 2])
def test_an_interrupted_extraction_resumes_to_the_same_bytes(
    sources: dict[str, str], encoder: Encoder, complete: Path, tmp_path: Path, batches: int
) -> None:
    def stop(done: int, total: int) -> None:
        if done >= batches * BATCH:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(sources, encoder, tmp_path / "s", batch_size=BATCH, progress=stop)
    report = extract_features(sources, encoder, tmp_path / "s", batch_size=BATCH)
    assert report.extracted == 10 - batches * BATCH + (batches == 2)
    assert (tmp_path / "s").read_bytes() == complete.read_bytes()


def test_resuming_keeps_the_batches(
    sources: dict[str, str], encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: the last bits of features depend on the batch, so that resuming gave other bytes."""
    good = readable(sources)
    names, path = list(good), tmp_path / "s"
    extract_features({name: good[name] for name in names[:2]}, encoder, path, batch_size=BATCH)
    sizes: list[int] = []
    forward = encoder.forward

    def spy(pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return forward(pixels)

    monkeypatch.setattr(encoder, "forward", spy)
    extract_features(good, encoder, path, batch_size=BATCH)
    assert sizes == [2, 4, 2]


@pytest.mark.parametrize("value", [1e5, float("nan"), float("-inf")])
def test_features_out_of_the_range_of_float16_are_refused(
    encoder: Encoder, sources: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    assert round_features(torch.tensor([65_000.0])).item() == 64_992
    monkeypatch.setattr(encoder, "forward", lambda pixels: torch.full((len(pixels), 4, encoder.feature_size), value))
    with pytest.raises(EncoderError, match="do not fit float16"):
        extract_features(sources, encoder, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []  # Bug: an empty store of the final size was left.


def extract_and_die(sources: dict[str, str], weights: Path, path: Path, dtype: FeatureDtype, call: int) -> None:
    real = os.pwrite
    processes.die_at(os, "pwrite", call, lambda file, data, offset: real(file, data[: len(data) // 2], offset))
    extract_features(sources, build_encoder(tiny.cached(weights, feature_dtype=dtype).encoder), path, batch_size=BATCH)


@DTYPES
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="requires SIGKILL")
def test_an_extraction_killed_five_times_equals_an_uninterrupted_one(
    sources: dict[str, str], weights: Path, tmp_path: Path, dtype: FeatureDtype
) -> None:
    """Each kill is in the middle of a write."""
    many = {f"{name}-{copy}": source for copy in range(6) for name, source in sources.items()}
    uninterrupted, killed = tmp_path / "complete", tmp_path / "killed"
    encoder, writes = build_encoder(tiny.cached(weights, feature_dtype=dtype).encoder), {"float16": 4, "int8": 12}
    extract_features(many, encoder, uninterrupted, batch_size=BATCH)
    random_, done = random.Random(5), 0
    for _ in range(5):
        assert (
            processes.run(extract_and_die, many, weights, killed, dtype, random_.randint(1, writes[dtype]))
            == -signal.SIGKILL
        )
        finished = int((FeatureStore(killed).status == DONE).sum())
        assert done <= finished < 60
        done = finished
    assert done > 20
    extract_features(many, encoder, killed, batch_size=BATCH)
    assert killed.read_bytes() == uninterrupted.read_bytes()
