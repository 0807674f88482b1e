"""Frozen encoders in ONNX Runtime against torch, and where torch runs them instead."""

import copy
import logging
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seesay import onnx_sessions
from seesay.config import EncoderConfig
from seesay.models import onnx_encoder
from seesay.models.encoders import SMALL_CNN, Encoder, build_encoder
from seesay.models.products import prepack_weights

ENCODERS = {
    "small-cnn": EncoderConfig(encoder=SMALL_CNN, encoder_weights="none", image_size=32),
    "last map": EncoderConfig(encoder="test_efficientnet.r160_in1k", encoder_weights="none", image_size=64),
    "transformer": EncoderConfig(encoder="test_vit.r160_in1k", encoder_weights="none", image_size=64),
    "layer": EncoderConfig(encoder="test_resnet", encoder_weights="none", image_size=48, layer="layer2"),
    "pooled": EncoderConfig(encoder="test_resnet", encoder_weights="none", image_size=48, pool="pooled"),
    "TensorFlow's padding": EncoderConfig(encoder="tf_mobilenetv3_small_075", encoder_weights="none", image_size=33),
    "TensorFlow's average pools": EncoderConfig(
        encoder="inception_v3.tf_in1k", encoder_weights="none", layer="Mixed_5b", image_size=96, tf_average_pooling=True
    ),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of the test."""
    monkeypatch.setattr(onnx_encoder, "cache_folder", lambda name: tmp_path)
    return tmp_path


def build(config: EncoderConfig = ENCODERS["small-cnn"]) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(config)


def frozen(config: EncoderConfig = ENCODERS["small-cnn"]) -> Encoder:
    encoder = build(config)
    prepack_weights(encoder)
    return encoder


def images(count: int, size: int = 32) -> Tensor:
    random = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, size, size, 3), generator=random, dtype=torch.uint8)


def no_torch(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(pixels: Tensor) -> Tensor:
        raise AssertionError("run by torch")

    monkeypatch.setattr(encoder, "encode_in_torch", fail)


def no_onnx(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Tensor:
        raise AssertionError("run by ONNX Runtime")

    monkeypatch.setattr(encoder, "_onnx", fail)


def no_export(graph: object, pixels: Tensor) -> bytes:
    raise AssertionError("exported")


def assert_same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=3e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", ENCODERS)
def test_features_are_those_of_torch_in_any_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = frozen(ENCODERS[name])
    batches = [images(count, encoder.preprocessing.size) for count in (3, 1, 5)]
    with torch.inference_mode():
        wanted = [encoder.encode_in_torch(pixels) for pixels in batches]
        encoder(batches[0])  # exports
        no_torch(encoder, monkeypatch)
        for pixels, features in zip(batches, wanted, strict=True):
            assert_same(encoder(pixels), features)
    assert float(wanted[0].std()) > 0


def test_the_identity_does_not_depend_on_the_backend() -> None:
    encoder = frozen()
    with torch.no_grad():
        encoder(images(1))
    assert encoder.identity == build().identity


def test_nothing_is_exported_before_the_first_image(folder: Path) -> None:
    encoder = frozen()
    assert not list(folder.iterdir())
    with torch.no_grad():
        encoder(images(1))
    assert len(list(folder.iterdir())) == 1


def test_weights_that_are_not_fixed_are_run_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = build()
    no_onnx(encoder, monkeypatch)
    with torch.no_grad():
        encoder(images(1))


def test_gradients_are_computed_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = frozen()
    no_onnx(encoder, monkeypatch)
    encoder(images(2)).sum().backward()
    assert all(each.grad is not None for each in encoder.parameters())


def test_an_encoder_without_trainable_weights_needs_no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = frozen().requires_grad_(False)
    encoder(images(1))
    no_torch(encoder, monkeypatch)
    assert not encoder(images(2)).requires_grad


def test_bfloat16_is_computed_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = frozen()
    no_onnx(encoder, monkeypatch)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        encoder(images(1))


def test_images_of_another_size_are_encoded_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = frozen()
    no_onnx(encoder, monkeypatch)
    with torch.no_grad():
        encoder(images(1, 64))


def test_weights_that_were_trained_are_exported_again(folder: Path) -> None:
    encoder = frozen(EncoderConfig(encoder=SMALL_CNN, encoder_weights="none", image_size=32, encoder_training="full"))
    with torch.no_grad():
        before = encoder(images(2))
        encoder.train()
        for weight in encoder.parameters():
            weight.mul_(1.5)
        encoder.eval()
        prepack_weights(encoder)
        assert_same(encoder(images(2)), encoder.encode_in_torch(images(2)))
        assert not torch.allclose(encoder(images(2)), before)
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder))])
def test_copies_open_a_session_of_their_own(duplicate: Callable[[Encoder], Encoder]) -> None:
    encoder = frozen()
    with torch.no_grad():
        wanted = encoder(images(2))
        twin = duplicate(encoder)
        assert set(twin.state_dict()) == set(encoder.state_dict())
        assert torch.equal(twin(images(2)), wanted)


def test_a_later_process_reads_the_file(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with torch.no_grad():
        wanted = frozen()(images(2))
        monkeypatch.setattr(onnx_encoder, "_export", no_export)
        with caplog.at_level(logging.INFO, "seesay"):
            assert torch.equal(frozen()(images(2)), wanted)
    assert "runs in torch" not in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"layer": "layers.5"},
        {"pool": "pooled"},
        {"image_size": 40},
        {"mean": (0.1, 0.2, 0.3)},
        {"std": (0.1, 0.2, 0.3)},
    ],
    ids=str,
)
def test_another_encoder_has_a_file_of_its_own(change: dict[str, Any], folder: Path) -> None:
    with torch.no_grad():
        for config in (
            ENCODERS["small-cnn"],
            EncoderConfig(encoder=SMALL_CNN, encoder_weights="none", **{"image_size": 32, **change}),
        ):
            encoder = frozen(config)
            pixels = images(1, encoder.preprocessing.size)
            assert_same(encoder(pixels), encoder.encode_in_torch(pixels))
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\0" * 100])
def test_a_damaged_file_is_written_again(damage: Callable[[bytes], bytes], folder: Path) -> None:
    with torch.no_grad():
        wanted = frozen()(images(2))
        (file,) = folder.iterdir()
        whole = file.read_bytes()
        file.write_bytes(damage(whole))
        assert torch.equal(frozen()(images(2)), wanted)
    assert file.read_bytes() == whole


def test_a_file_of_another_graph_is_written_again(folder: Path) -> None:
    with torch.no_grad():
        encoder = frozen()
        encoder(images(1))
        (file,) = folder.iterdir()
        whole = file.read_bytes()
        file.unlink()
        frozen(EncoderConfig(encoder=SMALL_CNN, encoder_weights="none", image_size=32, mean=(0.1, 0.2, 0.3)))(images(1))
        (other,) = folder.iterdir()
        other.rename(file)
        assert_same(frozen()(images(1)), encoder(images(1)))
    assert file.read_bytes() == whole


def test_an_encoder_that_cannot_be_exported_is_run_by_torch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, folder: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no operator\nof this kind")

    monkeypatch.setattr(torch.onnx, "export", fail)
    encoder = frozen()
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(encoder(images(2)), encoder.encode_in_torch(images(2)))
    (line,) = (record.getMessage() for record in caplog.records if "in torch" in record.getMessage())
    assert line.endswith("ONNX Runtime: no operator of this kind")
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda features: 1.01 * features, "of the largest"),
        (lambda features: torch.ones(len(features)).view(-1, 1, 1) * features, "differ by inf"),  # of a fixed batch
    ],
)
def test_a_graph_with_other_features_is_not_used(
    alter: Callable[[Tensor], Tensor],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    folder: Path,
) -> None:
    export = onnx_encoder._export

    def wrong(graph: Any, pixels: Tensor) -> bytes:
        encode = graph.encode
        graph.encode = lambda pixels: alter(encode(pixels))
        return export(graph, pixels)

    encoder = frozen()
    monkeypatch.setattr(onnx_encoder, "_export", wrong)
    with torch.no_grad():
        assert torch.equal(encoder(images(2)), encoder.encode_in_torch(images(2)))
    assert reason in caplog.text
    assert not list(folder.iterdir())


def test_a_missing_onnxruntime_leaves_torch(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    encoder = frozen()
    with torch.no_grad():
        assert torch.equal(encoder(images(1)), encoder.encode_in_torch(images(1)))
    assert "onnxruntime, which is not installed" in caplog.text


def test_without_a_cache_folder_each_process_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Path:
        raise PermissionError(name)

    monkeypatch.setattr(onnx_encoder, "cache_folder", fail)
    encoder = frozen()
    with torch.no_grad():
        encoder(images(1))
        no_torch(encoder, monkeypatch)
        encoder(images(1))


def test_threads_of_one_encoder_share_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, export = [], onnx_encoder._export

    def count(*given: Any) -> bytes:
        calls.append(given)
        return export(*given)

    monkeypatch.setattr(onnx_encoder, "_export", count)
    encoder = frozen()
    with torch.no_grad():
        wanted = encoder.encode_in_torch(images(2))

    def encode(_: int) -> Any:
        with torch.no_grad():
            return encoder(images(2))

    with ThreadPoolExecutor(4) as pool:
        for features in pool.map(encode, range(8)):
            assert_same(features, wanted)
    assert len(calls) == 1


def test_the_session_has_as_many_threads_as_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def note(model: Path | bytes, threads: int, *, spinning: bool) -> Any:
        found.append(threads)
        return onnx_sessions.open_session(model, threads, spinning=spinning)

    monkeypatch.setattr(onnx_encoder, "open_session", note)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    with torch.no_grad():
        frozen()(images(1))
    assert found == [3]
