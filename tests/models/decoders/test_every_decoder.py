"""Properties of every decoder with attention: steps equal forward, masks, gradients, precision."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seesay.config import DecodingOptions
from seesay.models.captioning import build_model
from seesay.models.packing import pack_captions
from tests import tiny
from tests.decoding.oracles import decode
from tests.models.decoder_cases import CONFIGS, MASK, TOKENS, V, decoder, memories, sized, spread

every = pytest.mark.parametrize("name", CONFIGS)


@every
@pytest.mark.parametrize("masked", [True, False])
def test_steps_equal_forward(name: str, masked: bool) -> None:
    made, memory, mask = decoder(name), memories(), MASK if masked else None
    found = spread(made(memory, mask, pack_captions(TOKENS)).logits, TOKENS)
    assert len(found) == 5
    state = made.init_state(memory, mask).pick(torch.zeros(3, 2, dtype=torch.int64))
    for t in range(5):
        output = made.step(TOKENS[:, :, t], state)
        state = output.state
        for (image, caption), logits in found.items():
            if t < len(logits):
                torch.testing.assert_close(output.logits[image, caption], logits[t], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(output.attention.sum(-1), torch.ones(3, 2, dtype=torch.float64))
        if masked:
            assert not output.attention[~MASK[:, None].expand(3, 2, 4)].any()


@every
@pytest.mark.parametrize("masked", [True, False])
def test_float32_equals_float64(name: str, masked: bool) -> None:
    """Native kernels support float32 only; float64 uses torch's operations."""
    wanted, memory, mask = decoder(name), memories(), MASK if masked else None
    runs = []
    for made, inputs in ((copy.deepcopy(wanted).float(), memory.float()), (wanted, memory)):
        inputs.requires_grad_()
        logits = made(inputs, mask, pack_captions(TOKENS)).logits
        state = made.init_state(inputs, mask)
        searched = made.step(TOKENS[:, :1, 0], made.step(TOKENS[:, :1, 1], state).state).logits
        slopes = torch.autograd.grad(logits.sin().sum(), [inputs, *made.parameters()], allow_unused=True)
        runs.append([logits, searched, *(slope for slope in slopes if slope is not None)])
    for found, exact in zip(*runs, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)


@every
def test_reordering_hypotheses_reorders_their_state(name: str) -> None:
    made, memory = decoder(name), memories()
    parents = torch.tensor([[1, 0], [1, 1], [0, 1]])
    words = [torch.tensor([[4, 5], [6, 7], [8, 9]]), torch.tensor([[5, 9], [4, 4], [10, 6]])]
    state = made.step(words[0], made.init_state(memory, MASK).pick(torch.zeros(3, 2, dtype=torch.int64))).state
    moved = made.step(words[1], state.pick(parents))
    for image in range(3):
        for beam in range(2):
            one = memory[image : image + 1], MASK[image : image + 1]
            alone = made.init_state(*one)
            for word in (words[0][image, parents[image, beam]], words[1][image, beam]):
                output = made.step(word.reshape(1, 1), alone)
                alone = output.state
            torch.testing.assert_close(moved.logits[image, beam], output.logits[0, 0], rtol=1e-9, atol=1e-9)
    kept = moved.state.keep(torch.tensor([2, 0]))
    after = made.step(words[0][[2, 0]], kept).logits
    torch.testing.assert_close(after, made.step(words[0], moved.state).logits[[2, 0]], rtol=1e-9, atol=1e-9)


@every
@pytest.mark.parametrize("strategy", ["greedy", "sample", "beam"])
def test_generate_scores_equal_teacher_forcing(name: str, strategy: Any) -> None:
    made, memory = decoder(name), memories()
    for parameter in made.parameters():
        parameter.data.mul_(2.0)  # so that captions differ
    options = DecodingOptions(strategy="beam", max_length=6, allow_unk=True, length_penalty=0.0).with_strategy(strategy)
    for image, hypotheses in enumerate(decode(made, memory, MASK, options, keep_attention=True)):
        best = hypotheses[0]
        tokens = torch.tensor([[[1, *best.tokens, 2]]])  # the end is scored even if the caption was truncated
        one = memory[image : image + 1], MASK[image : image + 1]
        logits = made(*one, pack_captions(tokens)).logits
        logits[:, :2] = float("-inf")
        scores = torch.log_softmax(logits, -1).gather(1, tokens[0, 0, 1:, None])[:, 0]
        assert best.log_probs == pytest.approx(scores.tolist(), rel=1e-6, abs=1e-6)
        assert best.attention is not None
        assert best.attention.shape == (len(best.log_probs), 4)


@every
def test_captions_of_other_images_have_no_effect(name: str) -> None:
    made, memory = decoder(name), memories()
    together = spread(made(memory, MASK, pack_captions(TOKENS)).logits, TOKENS)
    for image in range(3):
        part = slice(image, image + 1)
        alone = spread(made(memory[part], MASK[part], pack_captions(TOKENS[part])).logits, TOKENS[part])
        for (_, caption), logits in alone.items():
            torch.testing.assert_close(together[image, caption], logits, rtol=1e-9, atol=1e-9)


@every
def test_masked_regions_have_no_effect(name: str) -> None:
    made, memory = decoder(name), memories()
    other = torch.where(MASK[..., None], memory, torch.full_like(memory, 7.0))
    packed = pack_captions(TOKENS)
    torch.testing.assert_close(made(memory, MASK, packed).logits, made(other, MASK, packed).logits)
    assert not torch.allclose(made(memory, None, packed).logits, made(other, None, packed).logits)


@every
@pytest.mark.parametrize("tied", [False, True])
def test_a_gradient_reaches_every_parameter(name: str, tied: bool) -> None:
    torch.manual_seed(0)
    width = 8 if name in ("transformer", "attention", "luong-general", "show-attend-tell") else 7
    sizes = {"embedding_size": 8, "output_size": 8, "tie_weights": True} if tied and width == 8 else {}
    changes = tiny.what_is_read(CONFIGS[name].decoder, {**sizes, "hard_share": 1.0})
    model = build_model(sized(name, **changes), V, 10).train()
    output = model.forward_with_penalty(torch.randn(3, 4, 10), MASK, pack_captions(TOKENS))
    (nn.functional.cross_entropy(output.logits, pack_captions(TOKENS).targets) + output.penalty()).backward()  # type: ignore[no-untyped-call]
    silent = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    # The softmax is invariant to a constant over regions, so that the keys' bias has no gradient.
    allowed = {"cross_keys.bias", "self_input.bias", "key_value.bias"}
    assert [n for n in silent if not n.endswith(tuple(allowed))] == []


@every
@pytest.mark.parametrize("place", ["embedding_dropout", "attention_dropout", "state_dropout", "output_dropout"])
def test_each_dropout_is_active_in_training_only(name: str, place: str) -> None:
    made, packed = decoder(name, **{place: 0.5}), pack_captions(TOKENS)
    plain: Tensor = decoder(name)(memories(), MASK, packed).logits
    assert torch.equal(made(memories(), MASK, packed).logits, plain)
    made.train()
    if name.endswith("hard"):
        made.hard_share = 0.0  # sampled regions are random too
    first, second = (made(memories(), MASK, packed).logits for _ in range(2))
    assert not torch.equal(first, second)


def test_state_dropout_has_one_mask_per_caption() -> None:
    made = decoder("attention", state_dropout=0.5).train()
    masks = made.dropout_masks(1000)["state_mask"]
    assert masks.shape == (1000, 7)
    assert set(masks.unique().tolist()) == {0.0, 2.0}
    assert float(masks.mean()) == pytest.approx(1.0, abs=0.05)
    assert decoder("attention").train().dropout_masks(5) == {}
    assert made.eval().dropout_masks(5) == {}


@every
def test_bfloat16_keeps_the_state_in_float32(name: str) -> None:
    """bfloat16 applies to products, not to the state."""
    model = build_model(sized(name), V, 10)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.train()(torch.randn(3, 4, 10), MASK, pack_captions(TOKENS))
        decoder = model.eval().step_decoder
        state = decoder.init_state(model.project(torch.randn(3, 4, 10)), MASK)
        output = decoder.step(TOKENS[:, :1, 0], state)
    assert torch.isfinite(logits).all()
    assert torch.isfinite(output.logits).all()
    if "transformer" not in name:
        assert {tensor.dtype for tensor in output.state.per_row.values()} == {torch.float32}
