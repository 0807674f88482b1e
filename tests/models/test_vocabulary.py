"""The vocabulary layer: tied to the embeddings, and initialised from word frequencies."""

import copy
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from seesay.config import ModelConfig
from seesay.data.batches import Example
from seesay.errors import ConfigError
from seesay.models.captioning import build_model, count_parameters
from seesay.models.packing import pack_captions
from seesay.models.vocabulary import VocabularyLayer, init_bias_from_frequencies
from seesay.training.inputs import count_words
from tests.models.decoder_cases import CONFIGS, TOKENS, V, sized

TIED: dict[str, dict[str, Any]] = {
    "attention": {"embedding_size": 8, "output_size": 8},
    "show-attend-tell": {},
    "luong-general": {"embedding_size": 8, "output_size": 8},
    "up-down": {"embedding_size": 7, "output_size": 0},
    "transformer": {},
}


def tied(name: str) -> ModelConfig:
    return sized(name, tie_weights=True, **TIED[name])


def layer_of(model: nn.Module) -> VocabularyLayer:
    (layer,) = [module for module in model.modules() if isinstance(module, VocabularyLayer)]
    return layer


@pytest.mark.parametrize("name", TIED)
def test_tied_weights_are_one_parameter_in_both_places(name: str) -> None:
    model, loose = build_model(tied(name), V, 10), build_model(tied(name).replace(tie_weights=False), V, 10)
    embedding = model.get_parameter("decoder.embedding.weight")
    assert count_parameters(loose) - count_parameters(model) == embedding.numel()
    layer, hidden = layer_of(model), torch.randn(2, embedding.shape[1])
    torch.testing.assert_close(layer(hidden), hidden @ embedding.T + layer.bias)
    with torch.no_grad():
        embedding[4] += 1.0
    torch.testing.assert_close(layer(hidden), hidden @ embedding.T + layer.bias)


def test_a_tied_model_is_saved_once_and_deep_copied(tmp_path: Path) -> None:
    """safetensors rejects a tensor with two names."""
    model = build_model(tied("transformer"), V, 10)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = build_model(tied("transformer"), V, 10)
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    features, captions = torch.randn(3, 4, 10), pack_captions(TOKENS)
    torch.testing.assert_close(other(features, None, captions), model(features, None, captions))
    twin = copy.deepcopy(model).double()
    assert layer_of(twin)(torch.zeros(1, 8).double()).dtype == torch.float64
    with torch.no_grad():
        twin.get_parameter("decoder.embedding.weight").zero_()
    hidden = torch.randn(2, 8)
    assert torch.equal(layer_of(twin)(hidden.double()), layer_of(twin).bias.expand(2, V))
    assert not torch.equal(layer_of(model)(hidden), layer_of(model).bias.expand(2, V))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("attention", {}),
        ("attention", {"output_size": 0}),
        ("luong-general", {}),
        ("up-down", {"output_size": 0}),
    ],
)
def test_tied_sizes_that_differ_raise(name: str, sizes: dict[str, int]) -> None:
    with pytest.raises(
        ConfigError, match=r"model\.tie_weights .*model\.embedding_size is 5 .* has [78] inputs"
    ) as caught:
        build_model(sized(name, tie_weights=True, **sizes), V, 10)
    assert "\n" not in str(caught.value)


def test_counts_equal_the_number_of_targets() -> None:
    examples = [Example("a", "", ((1, 4, 5, 2), (1, 4, 2))), Example("b", "", ((1, 3, 2),))]
    assert count_words(examples, 7).tolist() == [0, 0, 3, 1, 2, 1, 0]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_new_model_predicts_the_word_frequencies(name: str) -> None:
    model = build_model(sized(name), V, 10).eval()
    counts = torch.tensor([0, 0, 30, 5, 40, 10, 3, 1, 1, 1, 0])
    init_bias_from_frequencies(model.decoder, counts)
    layer = layer_of(model)
    with torch.no_grad():
        layer.weight.zero_()
    shares = torch.softmax(model(torch.randn(3, 4, 10), None, pack_captions(TOKENS)), -1)
    torch.testing.assert_close(shares, ((counts + 1) / (counts + 1).sum()).expand_as(shares))


def test_a_decoder_without_a_vocabulary_layer_raises() -> None:
    with pytest.raises(ConfigError, match=r"model\.log_frequency_bias needs a decoder with a VocabularyLayer"):
        init_bias_from_frequencies(nn.Linear(2, 3), torch.ones(3))
