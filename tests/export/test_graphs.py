"""Exported graphs compared with their torch modules: every decoder, every kind of encoder, any batch and beam."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seesay.captioners.onnx.graphs import Graphs, State
from seesay.config import DecodingOptions, EncoderConfig, ModelConfig
from seesay.decoding import GenerationRequest, generate
from seesay.errors import ConfigError
from seesay.export.graphs import EncoderGraph, write_decoder, write_encoder
from seesay.models.captioning import CaptionModel, build_model
from seesay.models.encoders import Encoder, build_encoder
from seesay.models.protocol import DecoderState, StepOutput
from tests.decoding.oracles import decode
from tests.models.decoder_cases import CONFIGS, sized

SIZE, WORDS = 8, 23
POOLED = ModelConfig(decoder="pooled", projection_size=8, embedding_size=8, hidden_size=8, num_layers=2, output_size=0)
DECODERS = {
    "attention-multihead": sized("attention-multihead"),
    "show-attend-tell": sized("show-attend-tell", tie_weights=True),
    "luong-dot": sized("luong-dot"),
    "up-down-general": sized("up-down", attention_score="general"),
    "transformer": sized("transformer", num_layers=1),
    "pooled-add": POOLED.replace(projection_size=6, embedding_size=6, hidden_size=7, merge="add", output_size=5),
}
"""Every decoder and every attention score at least once."""
MORE_DECODERS = {name: sized(name) for name in CONFIGS if name not in DECODERS} | {
    "pooled": POOLED,
    "transformer with layers": sized("transformer"),
}


def with_slow(fast: Collection[str], slow: Collection[str]) -> list[Any]:
    """Test parameters, of which those in `slow` are marked slow: an export takes seconds."""
    return [*fast, *(pytest.param(name, marks=pytest.mark.slow) for name in slow)]


class Patches(nn.Module):
    """An encoder of one linear layer over the four quarters of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * SIZE * SIZE // 4, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        halves = torch.unflatten(pixels.float().div(127.5).sub(1), 1, (2, -1))
        quarters = torch.unflatten(halves, 3, (2, -1)).transpose(2, 3)
        return cast("Tensor", self.layer(quarters.flatten(1, 2).flatten(2)))


def make(config: ModelConfig) -> CaptionModel:
    torch.manual_seed(0)
    model = build_model(config, WORDS, 5, cast("Encoder", Patches())).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.5)
    return model


@pytest.fixture(scope="module", params=with_slow(DECODERS, MORE_DECODERS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[CaptionModel, Graphs]:
    """A model with random weights, and its graphs."""
    model, folder = make((DECODERS | MORE_DECODERS)[request.param]), tmp_path_factory.mktemp("graphs")
    return model, write(model, SIZE, folder)


def write(model: CaptionModel, size: int, folder: Path) -> Graphs:
    first = write_encoder(EncoderGraph(model, False), size, folder / "encoder.onnx")
    write_decoder(model.decoder, first, folder / "decoder.onnx")
    return Graphs(folder, threads=1)


def images(seed: int, count: int, size: int = SIZE) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@torch.no_grad()
def start(model: CaptionModel, pixels: Any) -> DecoderState:
    return model.step_decoder.init_state(model.project(model.encode(torch.from_numpy(pixels))), None)


def assert_close(actual: State, expected: DecoderState) -> None:
    for arrays, tensors in ((actual.per_image, expected.per_image), (actual.per_row, expected.per_row)):
        assert arrays.keys() == tensors.keys()
        for name, array in arrays.items():
            assert array.shape == tensors[name].shape
            np.testing.assert_allclose(array, tensors[name].numpy(), rtol=2e-4, atol=2e-5)


@torch.no_grad()
def test_each_step_equals_the_decoders(exported: tuple[CaptionModel, Graphs]) -> None:
    model, graphs = exported
    random = np.random.default_rng(1)
    for count, beam in ((1, 1), (5, 1), (1, 3), (4, 5)):
        pixels, rows = images(count, count), np.zeros((count, beam), np.int64)
        state, torch_state = graphs.encode(pixels), start(model, pixels)
        assert_close(state, torch_state)
        state, torch_state = state.pick(rows), torch_state.pick(torch.from_numpy(rows))
        for _ in range(4):
            words, parents = random.integers(0, WORDS, (2, count, beam)) % np.array([[[WORDS]], [[beam]]])
            output = graphs.step(words, state)
            expected = model.step_decoder.step(torch.from_numpy(words), torch_state)
            np.testing.assert_allclose(output.logits, expected.logits.numpy(), rtol=1e-4, atol=1e-4)
            assert (output.attention is None) == (expected.attention is None)
            if output.attention is not None and expected.attention is not None:
                np.testing.assert_allclose(output.attention, expected.attention.numpy(), rtol=1e-4, atol=1e-6)
            state, torch_state = output.state.pick(parents), expected.state.pick(torch.from_numpy(parents))
            assert_close(state, torch_state)


@pytest.mark.parametrize("beam", [1, 3, 5])
def test_captions_of_many_images_are_equal(exported: tuple[CaptionModel, Graphs], beam: int) -> None:
    model, graphs = exported
    options = (
        DecodingOptions(strategy="beam", beam_size=beam, max_length=9) if beam > 1 else DecodingOptions(max_length=9)
    )
    pixels = images(9, 60)
    with torch.no_grad():
        wanted = decode(model.step_decoder, model.project(model.encode(torch.from_numpy(pixels))), None, options)
    found = generate(graphs, graphs.encode(pixels), GenerationRequest(options, keep_attention=True))
    for (actual, *_), (expected, *_) in zip(found, wanted, strict=True):
        assert actual.tokens == expected.tokens
        assert actual.finished == expected.finished
        np.testing.assert_allclose(actual.score, expected.score, rtol=1e-4, atol=1e-5)
    assert len({one.tokens for one, *_ in wanted}) > 5


ENCODERS = {
    "small-cnn": EncoderConfig(encoder="small-cnn", encoder_weights="none"),
    "a network's last map": EncoderConfig(encoder="test_efficientnet.r160_in1k", encoder_weights="none", image_size=64),
    "a transformer": EncoderConfig(encoder="test_vit.r160_in1k", encoder_weights="none", image_size=64),
    # Bug: the exception that ends a forward pass at the requested layer ended the export too.
    "a layer": EncoderConfig(encoder="test_resnet", encoder_weights="none", image_size=48, layer="layer2"),
    "pooled": EncoderConfig(encoder="test_resnet", encoder_weights="none", image_size=48, pool="pooled"),
    "a layer, with TensorFlow's average pools": EncoderConfig(
        encoder="inception_v3.tf_in1k", encoder_weights="none", layer="Mixed_5b", image_size=96, tf_average_pooling=True
    ),
}


FAST = ("a transformer", "a layer")


@pytest.mark.parametrize("name", with_slow(FAST, [name for name in ENCODERS if name not in FAST]))
def test_features_equal_those_of_the_encoder(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(ENCODERS[name])
    model = build_model(POOLED, WORDS, encoder.feature_size, encoder).eval()
    model.decoder = _MemoryDecoder()
    size = encoder.preprocessing.size
    graphs = write(model, size, tmp_path)
    pixels = images(3, 2, size)
    found = graphs.encode(pixels).per_image["memory"]
    with torch.no_grad():
        wanted = model.project(model.encode(torch.from_numpy(pixels)))
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))
    assert float(wanted.std()) > 0


class _MemoryDecoder(nn.Module):
    """A decoder whose state is the unchanged memory."""

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        return DecoderState({"memory": memory}, {"sum": memory.sum((1, 2))[:, None, None]})

    def step(self, tokens: Tensor, state: DecoderState) -> Any:
        scores = state.per_row["sum"] + tokens[..., None]
        return StepOutput(scores.expand(-1, -1, WORDS), DecoderState(state.per_image, {"sum": scores}), None)


def test_unsupported_operations_are_an_error_of_one_line(tmp_path: Path) -> None:
    class BranchingDecoder(_MemoryDecoder):
        """A decoder whose step branches on tensor values."""

        def step(self, tokens: Tensor, state: DecoderState) -> Any:
            return super().step(tokens if bool(tokens.sum() > 3) else tokens + 1, state)

    first = _MemoryDecoder().init_state(torch.ones(3, 4, 2), None)
    with pytest.raises(ConfigError, match=r"^the decoder of this run cannot be exported to ONNX: [^\n]+$"):
        write_decoder(BranchingDecoder(), first, tmp_path / "decoder.onnx")
    assert not list(tmp_path.iterdir())
