"""The native step against the decoder's modules."""

from typing import Any

import pytest
import torch

from seesay.config import ModelConfig
from seesay.kernels.attention_gru_step import AttentionGRUStep, AttentionGRUWeights
from seesay.kernels.native import library
from seesay.models.decoders.attention_gru import AttentionGRUDecoder
from seesay.models.products import prepack_weights
from seesay.models.recurrent import RecurrentDecoder

SIZES = {"projection_size": 20, "embedding_size": 12, "hidden_size": 24, "attention_size": 70, "output_size": 36}


@pytest.fixture(autouse=True)
def built() -> None:
    if library() is None:
        pytest.skip("no native library")


def decoder(**changes: Any) -> AttentionGRUDecoder:
    torch.manual_seed(0)
    return AttentionGRUDecoder(ModelConfig(**{**SIZES, **changes}), 75).eval()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("changes", [{}, {"output_size": 0}, {"tie_weights": True, "output_size": 12}])
@pytest.mark.parametrize("masked", [False, True])
def test_it_equals_the_modules(changes: dict[str, Any], masked: bool) -> None:
    plain, packed = decoder(**changes), decoder(**changes)
    prepack_weights(packed)
    memory = torch.randn(3, 9, SIZES["projection_size"])
    mask = torch.rand(3, 9) > 0.4 if masked else None
    with torch.inference_mode():
        states = [each.init_state(memory, mask).pick(torch.zeros(3, 4, dtype=torch.int64)) for each in (plain, packed)]
        for tokens in torch.randint(4, 75, (5, 3, 4)):
            wanted = RecurrentDecoder.step(plain, tokens, states[0])
            found = packed.step(tokens, states[1])
            assert packed._native_step is not None
            for left, right in zip(
                (wanted.logits, wanted.attention, wanted.state.per_row["hidden"]),
                (found.logits, found.attention, found.state.per_row["hidden"]),
                strict=True,
            ):
                torch.testing.assert_close(right, left, rtol=1e-4, atol=1e-5)
            states = [wanted.state, found.state]


def test_large_queries_are_clamped() -> None:
    plain, packed = decoder(), decoder()
    for each in (plain, packed):
        with torch.no_grad():
            each.attention.get_submodule("query").get_parameter("weight").mul_(1000)
    prepack_weights(packed)
    memory = torch.randn(2, 9, SIZES["projection_size"])
    with torch.inference_mode():
        states = [each.init_state(memory, None) for each in (plain, packed)]
        tokens = torch.full((2, 1), 5)
        for _ in range(2):  # the first state is zero, and so is its query
            outputs = [each.step(tokens, state) for each, state in zip((plain, packed), states, strict=True)]
            states = [each.state for each in outputs]
    torch.testing.assert_close(outputs[1].logits, outputs[0].logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("token", [-1, 75])
def test_tokens_outside_the_vocabulary_are_refused(token: int) -> None:
    packed = decoder()
    prepack_weights(packed)
    with torch.inference_mode(), pytest.raises(IndexError, match="not in the vocabulary of 75 words"):
        packed.step(torch.tensor([[token]]), packed.init_state(torch.randn(1, 9, SIZES["projection_size"]), None))


def test_weights_that_changed_are_packed_again() -> None:
    module = decoder()
    memory, tokens = torch.randn(1, 9, SIZES["projection_size"]), torch.tensor([[5]])
    for _ in range(2):
        prepack_weights(module)
        with torch.inference_mode():
            found = module.step(tokens, module.init_state(memory, None))
        assert module._native_step is not None
        module.train().eval()
        assert module._native_step is None
        wanted = module.step(tokens, module.init_state(memory, None))
        torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            for weight in module.parameters():
                weight.mul_(1.5)


@pytest.mark.parametrize("score", ["dot", "general", "multihead"])
def test_other_attention_runs_in_modules(score: str) -> None:
    sizes = {"projection_size": 24, "attention_size": 24} if score != "general" else {}
    module = decoder(attention_score=score, num_heads=2, **sizes)
    prepack_weights(module)
    with torch.inference_mode():
        module.step(torch.tensor([[5]]), module.init_state(torch.randn(1, 9, sizes.get("projection_size", 20)), None))
    assert module._native_step is None


def test_weights_in_double_precision_are_refused() -> None:
    wide = [torch.zeros(2, 2, dtype=torch.float64)] * 10
    with pytest.raises(RuntimeError, match="cannot work on these weights"):
        AttentionGRUStep(AttentionGRUWeights(*wide))
