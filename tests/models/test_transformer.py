"""The Transformer decoder against torch's own, its cache, and its positions."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seesay.models.decoders.transformer import sinusoids
from seesay.models.packing import pack_captions
from tests.models.decoders import MASK, TOKENS, N, decoder, fed, memories, spread

WIDTH = 8


def torchs(made: Any) -> nn.TransformerDecoder:
    """torch's decoder with the weights of ours, whose memory must be as wide as its words."""
    layer = nn.TransformerDecoderLayer(WIDTH, 2, 9, 0.0, "relu", batch_first=True, norm_first=True)
    stack = nn.TransformerDecoder(layer, len(made.layers), nn.LayerNorm(WIDTH)).double().eval()
    pairs = [("norm1", "self_norm"), ("norm2", "cross_norm"), ("norm3", "feed_norm")]
    pairs += [("linear1", "feed_input"), ("linear2", "feed_output")]
    pairs += [("self_attn.out_proj", "self_output"), ("multihead_attn.out_proj", "cross_output")]
    for theirs, ours in zip(stack.layers, made.layers, strict=True):
        for their_name, our_name in pairs:
            theirs.get_submodule(their_name).load_state_dict(ours.get_submodule(our_name).state_dict())
        with torch.no_grad():
            theirs.get_parameter("self_attn.in_proj_weight").copy_(ours.self_input.weight)
            theirs.get_parameter("self_attn.in_proj_bias").copy_(ours.self_input.bias)
            for name in ("weight", "bias"):
                joined = torch.cat([getattr(ours.cross_query, name), getattr(ours.cross_keys, name)])
                theirs.get_parameter(f"multihead_attn.in_proj_{name}").copy_(joined)
    assert stack.norm is not None
    stack.norm.load_state_dict(made.norm.state_dict())
    return stack


def shaken(**changes: Any) -> Any:
    """A decoder whose norms are not at one and zero, so that a norm in the wrong place shows."""
    made = decoder("transformer", projection_size=WIDTH, **changes)
    for name, parameter in made.named_parameters():
        if "norm" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return made


def positions(length: int) -> Tensor:
    """The encodings of the paper one by one, sines before cosines."""
    rows = []
    for place in range(length):
        angles = [place / 10000 ** (2 * i / WIDTH) for i in range(WIDTH // 2)]
        rows.append([math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("tied", [False, True])
def test_forward_is_torchs_decoder_one_caption_at_a_time(tied: bool) -> None:
    made, memory = shaken(tie_weights=tied), memories(size=WIDTH)
    stack = torchs(made)
    for (image, caption), logits in spread(made(memory, MASK, pack_captions(TOKENS)).logits, TOKENS).items():
        words = torch.tensor(fed(image, caption))
        hidden = made.embedding.weight[words] * math.sqrt(WIDTH) + positions(len(words))
        later = torch.ones(len(words), len(words), dtype=torch.bool).triu(1)
        seen = stack(hidden[None], memory[image : image + 1], later, memory_key_padding_mask=~MASK[image : image + 1])
        matrix = made.embedding.weight if tied else made.output.weight
        wanted = seen[0] @ matrix.T + made.output.bias
        torch.testing.assert_close(logits, wanted, rtol=1e-6, atol=1e-7)  # positions are computed in float32


@pytest.mark.parametrize("mask", [None, MASK])
def test_with_dropout_on_the_attention_a_processor_computes_the_same(mask: Tensor | None) -> None:
    """By operations of its own, as torch's has no quick way there; a share of next to nothing drops nothing."""
    made, dropping = shaken(), shaken(attention_dropout=1e-9)
    dropping.load_state_dict(made.state_dict())
    found = []
    for each in (made.train(), dropping.train()):
        memory = memories(size=WIDTH).requires_grad_()
        logits = each(memory, mask, pack_captions(TOKENS)).logits
        found.append((logits, *torch.autograd.grad(logits.square().sum(), [memory, *each.parameters()])))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_in_half_precision_the_attention_is_as_exact_as_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores above all, whose rounding would be a per cent of a weight."""
    made = decoder("transformer", projection_size=WIDTH, attention_dropout=0.1).float()
    layer = made.layers[0]
    layer.train()
    monkeypatch.setattr(layer.attention_dropout, "p", 1e-9)
    torch.manual_seed(0)
    query, key, value = (2 * torch.randn(3, 2, 20, 64) for _ in range(3))
    query, key, value = query.bfloat16(), key.bfloat16(), value.bfloat16()
    wanted = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), is_causal=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer._look(query, key, value, None, only_back=True)
        theirs = F.scaled_dot_product_attention(query, key, value, dropout_p=1e-9, is_causal=True)
    errors = [float((each.double() - wanted).norm()) for each in (found, theirs)]
    assert errors[0] < 1.5 * errors[1]  # the weights are rounded, which torch's are not; the scores' would be 2.7


def test_the_attention_drops_in_training_alone() -> None:
    made, memory = shaken(attention_dropout=0.5), memories(size=WIDTH)
    whole = made.eval()(memory, MASK, pack_captions(TOKENS)).logits
    torch.testing.assert_close(made(memory, MASK, pack_captions(TOKENS)).logits, whole)
    torch.manual_seed(0)
    one, other = (made.train()(memory, MASK, pack_captions(TOKENS)).logits for _ in range(2))
    assert not torch.allclose(one, other)
    assert not torch.allclose(one, whole)


def test_the_attention_of_a_step_is_the_mean_of_the_last_layers_heads() -> None:
    made, memory = shaken(), memories(size=WIDTH)
    words, state = torch.tensor(fed(0, 0)), made.init_state(memory, MASK)
    maps: list[Tensor] = []
    stack = torchs(made)
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


def test_the_cache_grows_by_one_word_a_step_and_regions_are_projected_once() -> None:
    made = shaken()
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


def test_a_word_does_not_see_those_after_it() -> None:
    made, other = shaken(), TOKENS.clone()
    other[0, 0, 3] = 9
    memory = memories(size=WIDTH)
    before, after = (spread(made(memory, MASK, pack_captions(t)).logits, t)[0, 0] for t in (TOKENS, other))
    torch.testing.assert_close(before[:3], after[:3])
    assert not torch.allclose(before[3], after[3])


def test_positions_are_the_papers_and_have_no_end() -> None:
    torch.testing.assert_close(sinusoids(torch.arange(30), WIDTH).double(), positions(30), atol=1e-5, rtol=0)
    assert sinusoids(torch.tensor([[5000]]), 7).shape == (1, 1, 7)
    made = shaken()
    state = made.init_state(memories(size=WIDTH), None)
    first = made.step(torch.full((3, 1), 4), state).logits
    later = made.step(torch.full((3, 1), 4), made.step(torch.full((3, 1), 4), state).state).logits
    assert not torch.allclose(first, later)
