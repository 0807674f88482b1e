"""`CaptionModel`: sizes, initial weights, features, and an encoder in the loop."""

import math
from typing import Literal

import pytest
import torch
from torch import nn

from seesay.config import EncoderConfig, ModelConfig
from seesay.errors import ConfigError
from seesay.models.captioning import CaptionModel, build_model, count_parameters
from seesay.models.decoders.attention_gru import AttentionGRUDecoder
from seesay.models.decoders.pooled_gru import PooledGRUDecoder
from seesay.models.encoders import SMALL_CNN, build_encoder
from seesay.models.packing import pack_captions

V, F = 13, 10
ATTENTION = ModelConfig(projection_size=6, embedding_size=5, hidden_size=7, attention_size=4, output_size=8)
POOLED = ModelConfig(
    decoder="pooled",
    projection_size=7,
    projection_activation="tanh",
    embedding_size=5,
    hidden_size=7,
    num_layers=3,
    output_size=0,
)
ADDED = ModelConfig(
    decoder="pooled",
    projection_size=5,
    projection_activation="none",
    embedding_size=5,
    hidden_size=7,
    num_layers=2,
    output_size=8,
    merge="add",
)
CAPTIONS = pack_captions(torch.tensor([[[1, 4, 5, 2], [1, 6, 2, 0]], [[1, 2, 0, 0], [0, 0, 0, 0]]]))


@pytest.mark.parametrize("config", [ATTENTION, POOLED, ADDED])
def test_the_network_is_projection_then_decoder(config: ModelConfig) -> None:
    model = build_model(config, V, F).eval()
    features, mask = torch.randn(2, 3, F), torch.tensor([[True, True, True], [True, False, True]])
    linear = model.get_submodule("projection.0")
    assert isinstance(linear, nn.Linear)
    memory = features @ linear.weight.T + linear.bias
    if config.projection_activation != "none":
        memory = {"relu": torch.relu, "tanh": torch.tanh}[config.projection_activation](memory)
    torch.testing.assert_close(model.project(features), memory)
    assert memory.shape == (2, 3, config.projection_size)
    logits = model(features, mask, CAPTIONS)
    assert logits.shape == (len(CAPTIONS.targets), V)
    torch.testing.assert_close(logits, model.decoder(memory, mask, CAPTIONS).logits)
    assert id(model.step_decoder) == id(model.decoder)


def test_sizes_equal_the_configuration() -> None:
    attention, pooled, added = (build_model(config, V, F).decoder for config in (ATTENTION, POOLED, ADDED))
    assert isinstance(attention, AttentionGRUDecoder)
    shapes = {name: tuple(parameter.shape) for name, parameter in attention.named_parameters()}
    assert shapes == {
        "embedding.weight": (V, 5),
        "attention.key.weight": (4, 6),
        "attention.key.bias": (4,),
        "attention.query.weight": (4, 7),
        "attention.score.weight": (1, 4),
        "word_gates.weight": (21, 5),
        "word_gates.bias": (21,),
        "context_gates.weight": (21, 6),
        "state_gates.weight": (21, 7),
        "state_gates.bias": (21,),
        "output.0.weight": (8, 7),
        "output.0.bias": (8,),
        "output.1.weight": (V, 8),
        "output.1.bias": (V,),
    }
    assert isinstance(pooled, PooledGRUDecoder)
    assert (pooled.gru.num_layers, pooled.gru.hidden_size, pooled.gru.input_size) == (3, 7, 5)
    assert isinstance(pooled.output, nn.Linear)  # no dense layer before the vocabulary
    assert isinstance(added, PooledGRUDecoder)
    assert (added.gru.num_layers, added.merge) == (2, "add")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ModelConfig(num_layers=2), "model.num_layers is 2"),
        (ModelConfig(decoder="pooled", projection_size=100), "model.hidden_size (512)"),
        (ModelConfig(decoder="pooled", merge="add", projection_size=512), "model.embedding_size (256)"),
    ],
)
def test_contradictory_sizes_raise(config: ModelConfig, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model(config, V, F)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [ATTENTION, POOLED])
def test_initial_weights_follow_keras(config: ModelConfig) -> None:
    torch.manual_seed(0)
    for name, parameter in build_model(config, 300, 200).named_parameters():
        if parameter.ndim == 1:
            assert not parameter.any(), name
            continue
        limit = 0.05 if "embedding" in name else math.sqrt(6 / sum(parameter.shape))
        largest = parameter.abs().max().item()
        assert 0.7 * limit < largest <= limit, name
    torch.manual_seed(0)
    again = build_model(config, 300, 200)
    torch.manual_seed(0)
    assert all(
        torch.equal(one, other)
        for one, other in zip(again.parameters(), build_model(config, 300, 200).parameters(), strict=True)
    )


def test_initial_weights_may_follow_torch() -> None:
    model = build_model(ATTENTION.replace(initialisation="torch"), V, F)
    assert all(bool(parameter.any()) for parameter in model.parameters())  # its biases are not zero
    assert model.get_parameter("decoder.embedding.weight").std().item() > 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_stored_features_are_cast_to_the_dtype_of_the_weights(dtype: torch.dtype) -> None:
    model = build_model(ATTENTION, V, F)
    features = torch.randn(2, 3, F).half()
    torch.testing.assert_close(model.project(features.to(dtype)), model.project(features.float()))
    assert model.project(features.to(dtype)).dtype == torch.float32
    assert model.double().project(features.to(dtype)).dtype == torch.float64


def dropped(model: CaptionModel) -> bool:
    """Return whether two passes over the same features differ."""
    features = torch.ones(2, 3, F)
    return not torch.equal(model(features, None, CAPTIONS), model(features, None, CAPTIONS))


@pytest.mark.parametrize("place", ["feature_dropout", "embedding_dropout", "output_dropout"])
@pytest.mark.parametrize("decoder", ["attention", "pooled"])
def test_each_dropout_is_active_in_training_only(decoder: Literal["attention", "pooled"], place: str) -> None:
    rates = {place: 0.5}
    config = ModelConfig(decoder=decoder, projection_size=32, embedding_size=32, hidden_size=32, **rates)  # type: ignore[arg-type]
    model = build_model(config, V, F)
    assert dropped(model.train())
    assert not dropped(model.eval())


def test_zero_dropout_is_deterministic() -> None:
    assert not dropped(build_model(ATTENTION, V, F).train())


def test_feature_dropout_drops_its_share_of_the_features() -> None:
    model = build_model(ModelConfig(feature_dropout=0.25, projection_activation="none"), V, 4000).train()
    linear = model.get_submodule("projection.0")
    assert isinstance(linear, nn.Linear)
    nn.init.constant_(linear.weight, 1 / 4000)  # the projection of ones is the share of kept features
    left = model.project(torch.ones(8, 1, 4000)) * 0.75
    assert left.mean().item() == pytest.approx(0.75, abs=0.02)


def test_embedding_dropout_does_not_apply_to_the_image_vector() -> None:
    # Bug: dropout was applied to the sum, including the image's vector.
    model = build_model(
        ModelConfig(decoder="pooled", projection_size=64, embedding_size=64, merge="add", embedding_dropout=0.9), V, F
    ).train()
    decoder = model.decoder
    assert isinstance(decoder, PooledGRUDecoder)
    nn.init.zeros_(decoder.embedding.weight)
    memory = torch.rand(2, 1, 64)
    torch.testing.assert_close(decoder(memory, None, CAPTIONS).logits, decoder.eval()(memory, None, CAPTIONS).logits)


def test_an_encoder_in_the_loop_is_trained_with_the_rest() -> None:
    encoder = build_encoder(EncoderConfig(encoder=SMALL_CNN, encoder_weights="none", image_size=32))
    model = build_model(ATTENTION, V, encoder.feature_size, encoder)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    features = model.encode(pixels)
    assert features.shape == (2, encoder.grid[0] * encoder.grid[1], encoder.feature_size)
    torch.testing.assert_close(features, encoder(pixels))
    model(features, None, CAPTIONS).square().mean().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert silent == []


def test_a_model_of_cached_features_cannot_encode_images() -> None:
    with pytest.raises(ConfigError, match="cached features"):
        build_model(ATTENTION, V, F).encode(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))


def test_trainable_parameters_are_counted() -> None:
    model = build_model(POOLED, V, F)
    gru = 3 * 7 * (5 + 7 + 2) + 2 * (3 * 7 * (7 + 7 + 2))
    assert count_parameters(model) == (F * 7 + 7) + V * 5 + gru + (7 * V + V)
    model.decoder.requires_grad_(False)
    assert count_parameters(model) == F * 7 + 7
