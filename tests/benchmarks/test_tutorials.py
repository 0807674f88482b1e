"""The tutorial's network in the training benchmark equals ours."""

from typing import Any

import pytest
import torch

from bench.tutorial_torch import TorchTutorial
from seesay.config import resolve_config
from seesay.data.batches import pad_captions
from seesay.models.captioning import CaptionModel, build_model
from seesay.models.packing import pack_captions
from seesay.training.losses import cross_entropy

V, F, N = 17, 9, 6
CAPTIONS = [((1, 4, 5, 6, 2), (1, 7, 2)), ((1, 8, 9, 10, 11, 12, 2), (1, 16, 15, 2))]
PARTS = {
    "projection": "projection.0",
    "embedding": "decoder.embedding",
    "key": "decoder.attention.key",
    "query": "decoder.attention.query",
    "score": "decoder.attention.score",
    "dense": "decoder.output.0",
    "vocabulary": "decoder.output.1",
}


@pytest.fixture
def pair() -> tuple[TorchTutorial, CaptionModel]:
    """The tutorial and our attention-gru with its weights; two biases without effect, which ours lacks, are 0."""
    torch.manual_seed(0)
    plain = TorchTutorial(F, V, width=8, units=12).double()
    config = resolve_config("attention-gru-tutorial").model
    sizes: dict[str, Any] = {
        "projection_size": 8,
        "embedding_size": 8,
        "hidden_size": 12,
        "attention_size": 12,
        "output_size": 12,
    }
    model = build_model(config.replace(**sizes), V, F).double()
    with torch.no_grad():
        plain.query.bias.zero_()
        plain.score.bias.zero_()
        for tutorial_name, own_name in PARTS.items():
            source = plain.get_submodule(tutorial_name)
            for name, parameter in model.get_submodule(own_name).named_parameters():
                parameter.copy_(source.get_parameter(name))
        context, word = plain.gru.weight_ih.chunk(2, 1)
        decoder = model.decoder
        for own, weight, bias in (
            ("word_gates", word, plain.gru.bias_ih),
            ("context_gates", context, None),
            ("state_gates", plain.gru.weight_hh, plain.gru.bias_hh),
        ):
            decoder.get_submodule(own).get_parameter("weight").copy_(weight)
            if bias is not None:
                decoder.get_submodule(own).get_parameter("bias").copy_(bias)
    return plain, model


@pytest.mark.parametrize("longest", [7, 11])
def test_loss_and_gradients_equal_ours_for_any_padding(pair: tuple[TorchTutorial, CaptionModel], longest: int) -> None:
    plain, model = pair
    features = torch.randn(2, N, F, dtype=torch.float64)
    rows = [(image, caption) for image, captions in enumerate(CAPTIONS) for caption in captions]
    padded = torch.zeros(len(rows), longest, dtype=torch.int64)
    for row, (_, caption) in enumerate(rows):
        padded[row, : len(caption)] = torch.tensor(caption)
    loss = plain(features[[image for image, _ in rows]], padded)
    loss.backward()
    captions = pack_captions(pad_captions(CAPTIONS))
    ours = cross_entropy(model(features, None, captions), captions.targets)
    ours = ours * len(captions.targets) / len(rows)  # the tutorial averages over captions, ours over words
    ours.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss.double(), ours.double(), rtol=1e-6, atol=1e-6)  # both are computed in float32
    for tutorial_name, own_name in PARTS.items():
        for name, weight in model.get_submodule(own_name).named_parameters():
            grad = plain.get_submodule(tutorial_name).get_parameter(name).grad
            torch.testing.assert_close(grad, weight.grad, rtol=1e-5, atol=1e-7)
