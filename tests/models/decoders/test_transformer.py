"""The Transformer decoder against torch's, its cache, and its positions."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seesay.models.decoders.transformer import sinusoids
from seesay.models.packing import pack_captions
from tests.models.decoder_cases import MASK, TOKENS, N, decoder, fed, memories, spread

WIDTH = 8


def torch_decoder(made: Any) -> nn.TransformerDecoder:
    """Return torch's decoder with the weights of `made`; memory and words must have equal widths."""
    layer = nn.TransformerDecoderLayer(WIDTH, 2, 9, 0.0, "relu", batch_first=True, norm_first=True)
    stack = nn.TransformerDecoder(layer, len(made.layers), nn.LayerNorm(WIDTH)).double().eval()
    pairs = [("norm1", "self_norm"), ("norm2", "cross_norm"), ("norm3", "feed_norm")]
    pairs += [("linear1", "feed_input"), ("linear2", "feed_output")]
    pairs += [("self_attn.out_proj", "self_output"), ("multihead_attn.out_proj", "cross_output")]
    for torch_result, ours in zip(stack.layers, made.layers, strict=True):
        for their_name, our_name in pairs:
            torch_result.get_submodule(their_name).load_state_dict(ours.get_submodule(our_name).state_dict())
        with torch.no_grad():
            torch_result.get_parameter("self_attn.in_proj_weight").copy_(ours.self_input.weight)
            torch_result.get_parameter("self_attn.in_proj_bias").copy_(ours.self_input.bias)
            for name in ("weight", "bias"):
                joined = torch.cat([getattr(ours.cross_query, name), getattr(ours.cross_keys, name)])
                torch_result.get_parameter(f"multihead_attn.in_proj_{name}").copy_(joined)
    assert stack.norm is not None
    stack.norm.load_state_dict(made.norm.state_dict())
    return stack


def perturbed(**changes: Any) -> Any:
    """Return a decoder with random norm weights, so that a misplaced norm changes the result."""
    made = decoder("transformer", projection_size=WIDTH, **changes)
    for name, parameter in made.named_parameters():
        if "norm" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return made


def positions(length: int) -> Tensor:
    """Return the encodings of the paper one by one, sines before cosines."""
    rows = []
    for place in range(length):
        angles = [place / 10000 ** (2 * i / WIDTH) for i in range(WIDTH // 2)]
        rows.append([math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("tied", [False, True])
def test_forward_equals_torch_s_decoder(tied: bool) -> None:
    made, memory = perturbed(tie_weights=tied), memories(size=WIDTH)
    stack = torch_decoder(made)
    for (image, caption), logits in spread(made(memory, MASK, pack_captions(TOKENS)).logits, TOKENS).items():
        words = torch.tensor(fed(image, caption))
        hidden = made.embedding.weight[words] * math.sqrt(WIDTH) + positions(len(words))
        later = torch.ones(len(words), len(words), dtype=torch.bool).triu(1)
        hidden_seq = stack(
            hidden[None], memory[image : image + 1], later, memory_key_padding_mask=~MASK[image : image + 1]
        )
        matrix = made.embedding.weight if tied else made.output.weight
        wanted = hidden_seq[0] @ matrix.T + made.output.bias
        torch.testing.assert_close(logits, wanted, rtol=1e-6, atol=1e-7)  # positions are computed in float32


@pytest.mark.parametrize("mask", [None, MASK])
def test_attention_with_dropout_on_a_cpu_equals_torch(mask: Tensor | None) -> None:
    """It has its own implementation, since torch's is slow there; a tiny probability drops nothing."""
    made, dropping = perturbed(), perturbed(attention_dropout=1e-9)
    dropping.load_state_dict(made.state_dict())
    found = []
    for each in (made.train(), dropping.train()):
        memory = memories(size=WIDTH).requires_grad_()
        logits = each(memory, mask, pack_captions(TOKENS)).logits
        found.append((logits, *torch.autograd.grad(logits.square().sum(), [memory, *each.parameters()])))
    for ours, torch_result in zip(*found, strict=True):
        torch.testing.assert_close(ours, torch_result)


def test_half_precision_attention_is_as_accurate_as_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding the scores would change weights by 1 %."""
    made = decoder("transformer", projection_size=WIDTH, attention_dropout=0.1).float()
    layer = made.layers[0]
    layer.train()
    monkeypatch.setattr(layer.attention_dropout, "p", 1e-9)
    torch.manual_seed(0)
    query, key, value = (2 * torch.randn(3, 2, 20, 64) for _ in range(3))
    query, key, value = query.bfloat16(), key.bfloat16(), value.bfloat16()
    wanted = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), is_causal=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer._attend_values(query, key, value, None, causal=True)
        torch_result = F.scaled_dot_product_attention(query, key, value, dropout_p=1e-9, is_causal=True)
    errors = [float((each.double() - wanted).norm()) for each in (found, torch_result)]
    assert errors[0] < 1.5 * errors[1]  # the weights are rounded, unlike torch's; rounded scores would give 2.7


def test_attention_dropout_is_active_in_training_only() -> None:
    made, memory = perturbed(attention_dropout=0.5), memories(size=WIDTH)
    without_dropout = made.eval()(memory, MASK, pack_captions(TOKENS)).logits
    torch.testing.assert_close(made(memory, MASK, pack_captions(TOKENS)).logits, without_dropout)
    torch.manual_seed(0)
    one, other = (made.train()(memory, MASK, pack_captions(TOKENS)).logits for _ in range(2))
    assert not torch.allclose(one, other)
    assert not torch.allclose(one, without_dropout)


def test_the_attention_of_a_step_is_the_mean_over_the_last_layer_s_heads() -> None:
    made, memory = perturbed(), memories(size=WIDTH)
    words, state = torch.tensor(fed(0, 0)), made.init_state(memory, MASK)
    maps: list[Tensor] = []
    stack = torch_decoder(made)
    last = stack.layers[-1].get_submodule("multihead_attn")
    last.register_forward_pre_hook(lambda _, args, options: (args, {**options, "need_weights": True}), with_kwargs=True)
    last.register_forward_hook(lambda _, args, output: maps.append(output[1]))
    hidden = made.embedding.weight[words] * math.sqrt(WIDTH) + positions(len(words))
    later = torch.ones(len(words), len(words), dtype=torch.bool).triu(1)
    stack(hidden[None], memory[:1], later, memory_key_padding_mask=~MASK[:1])
    for t, word in enumerate(words):
        output = made.step(word.expand(3, 1), state)
        state = output.state
        assert output.attention.shape == (3, 1, N)
        torch.testing.assert_close(output.attention[0, 0], maps[0][0, t], rtol=1e-6, atol=1e-7)


def test_the_cache_grows_by_one_token_per_step_and_regions_are_projected_once() -> None:
    made = perturbed()
    state = made.init_state(memories(size=WIDTH), MASK)
    calls: list[int] = []
    for layer in made.layers:
        layer.cross_keys.register_forward_hook(lambda *_: calls.append(1))
    for length in range(1, 4):
        state = made.step(torch.full((3, 1), 4), state).state
        assert {name: tuple(tensor.shape) for name, tensor in state.per_row.items()} == {
            f"cache_{place}": (3, 1, length, 2 * WIDTH) for place in range(2)
        }
    assert calls == []


def test_self_attention_is_causal() -> None:
    made, other = perturbed(), TOKENS.clone()
    other[0, 0, 3] = 9
    memory = memories(size=WIDTH)
    before, after = (spread(made(memory, MASK, pack_captions(t)).logits, t)[0, 0] for t in (TOKENS, other))
    torch.testing.assert_close(before[:3], after[:3])
    assert not torch.allclose(before[3], after[3])


def test_positions_equal_the_formula_at_any_length() -> None:
    torch.testing.assert_close(sinusoids(torch.arange(30), WIDTH).double(), positions(30), atol=1e-5, rtol=0)
    assert sinusoids(torch.tensor([[5000]]), 7).shape == (1, 1, 7)
    made = perturbed()
    state = made.init_state(memories(size=WIDTH), None)
    first = made.step(torch.full((3, 1), 4), state).logits
    later = made.step(torch.full((3, 1), 4), made.step(torch.full((3, 1), 4), state).state).logits
    assert not torch.allclose(first, later)
