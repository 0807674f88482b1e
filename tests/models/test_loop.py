import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from seesay.config import ModelConfig
from seesay.models import additive
from seesay.models.attention import Attention, build_attention, masked_softmax
from seesay.models.loop import DeferredGradient, DeferredGradients, DeferredLinear, deferring_gradients
from seesay.models.packing import PackedCaptions, pack_captions

TOKENS = torch.tensor(
    [
        [[1, 4, 5, 6, 4, 5, 2], [1, 5, 2, 0, 0, 0, 0]],
        [[1, 6, 6, 2, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]],
        [[0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]],  # an image without a caption
        [[1, 4, 4, 2, 0, 0, 0], [1, 2, 0, 0, 0, 0, 0]],
    ]
)
SCORES = ("additive", "dot", "general", "multihead")


class Reader(nn.Module):
    """A recurrence with nothing but a linear layer and an attention, in the loop and without it."""

    def __init__(self, score: str, width: int = 6) -> None:
        super().__init__()
        config = ModelConfig(projection_size=width, attention_size=4, num_heads=2, attention_score=score)  # type: ignore[arg-type]
        self.attention: Attention = build_attention(config, width)
        self.mix = DeferredLinear(width, width)

    def forward(self, memory: Tensor, mask: Tensor | None, captions: PackedCaptions) -> Tensor:
        loop = DeferredGradients(captions, len(memory), "cpu")
        self.attention.enter(memory, loop)
        rows = None if mask is None else mask[captions.image_of_row]
        state, out = torch.zeros(captions.rows, memory.shape[-1], dtype=memory.dtype), []
        with deferring_gradients(self, loop):
            for size in captions.sizes:
                context, weights = self.attention.loop_attend(state[:size], None if rows is None else rows[:size])
                state = torch.tanh(self.mix(state[:size]) + context)
                out.append(torch.cat([state, weights], -1))
        return torch.cat(out)

    def plainly(self, memory: Tensor, mask: Tensor | None, captions: PackedCaptions) -> Tensor:
        """The same by autograd alone, with tanh where the attention is additive."""
        image = captions.image_of_row
        keys, regions = self.attention.keys(memory)[image], memory[image]
        rows = None if mask is None else mask[image]
        state, out = torch.zeros(captions.rows, memory.shape[-1], dtype=memory.dtype), []
        for size in captions.sizes:
            allowed = None if rows is None else rows[:size]
            context, weights = self.attention(state[:size], keys[:size], regions[:size], allowed)
            state = torch.tanh(self.mix(state[:size]) + context)
            out.append(torch.cat([state, weights], -1))
        return torch.cat(out)


def a_reader(score: str) -> tuple[Reader, Tensor, Tensor, PackedCaptions]:
    torch.manual_seed(5)
    memory = torch.randn(4, 5, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(4, 5) > 0.3
    mask[:, 0] = True
    return Reader(score).double(), memory, mask, pack_captions(TOKENS)


def gradients(out: Tensor, reader: Reader, memory: Tensor, again: bool = False) -> list[Tensor]:
    chosen = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    found = torch.autograd.grad(
        (out * chosen).sum(), [memory, *reader.parameters()], retain_graph=again, allow_unused=True
    )
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, [memory, *reader.parameters()], strict=True)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("score", SCORES)
def test_results_and_gradients_are_those_of_the_plain_loop(score: str, masked: bool) -> None:
    reader, memory, mask, captions = a_reader(score)
    allowed = mask if masked else None
    found, wanted = reader(memory, allowed, captions), reader.plainly(memory, allowed, captions)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)
    pairs = zip(gradients(found, reader, memory), gradients(wanted, reader, memory), strict=True)
    for left, right in pairs:
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)
        assert float(left.abs().sum()) > 0


@pytest.mark.parametrize("used", [slice(None), slice(6), slice(6, None)], ids=["both", "states", "weights"])
@pytest.mark.parametrize("score", SCORES)
def test_in_float32_they_are_near_those_of_float64(score: str, used: slice) -> None:
    """There C does some of it; a loss may be of what was seen, of where, or of both."""
    reader, memory, _, captions = a_reader(score)
    wanted = gradients(reader.plainly(memory, None, captions)[:, used], reader, memory)
    reader, memory = reader.float(), memory.detach().float().requires_grad_()
    out = reader(memory, None, captions)[:, used]
    first = gradients(out, reader, memory, again=True)
    for left, right in zip(first, wanted, strict=True):
        assert float((left.double() - right).norm()) <= 2e-6 * float(right.norm()) + 1e-7
    torch.autograd.grad(out.sum(), memory, retain_graph=True)
    for left, right in zip(gradients(out, reader, memory), first, strict=True):
        torch.testing.assert_close(left, right)


def test_gradients_of_additive_attention_do_not_hang_on_the_size_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, memory, mask, captions = a_reader("additive")
    wanted = gradients(reader(memory, mask, captions), reader, memory)
    for numbers in (1, 30, 70):  # one row at a time, and parts that do not come out even
        monkeypatch.setattr(additive, "_CACHED", numbers)
        for left, right in zip(gradients(reader(memory, mask, captions), reader, memory), wanted, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("score", SCORES)
def test_a_second_backward_pass_gives_the_same_and_not_the_sum(score: str) -> None:
    reader, memory, _, captions = a_reader(score)
    out = reader(memory, None, captions)
    first = gradients(out, reader, memory, again=True)
    # Of the memory alone, so that what it leaves behind must not count in the next.
    torch.autograd.grad(out.sum(), memory, retain_graph=True)
    for left, right in zip(gradients(out, reader, memory), first, strict=True):
        torch.testing.assert_close(left, right)


def test_frozen_weights_get_no_gradient_and_the_others_theirs() -> None:
    reader, memory, _, captions = a_reader("additive")
    wanted = dict(
        zip(
            ["memory", *dict(reader.named_parameters())],
            gradients(reader(memory, None, captions), reader, memory),
            strict=True,
        )
    )
    reader.mix.weight.requires_grad_(False)
    out = reader(memory, None, captions)
    out.mul(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    assert reader.mix.weight.grad is None
    for name, parameter in reader.named_parameters():
        if name != "mix.weight":
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, wanted[name])


@pytest.mark.parametrize("masked", [False, True])
def test_bfloat16_is_near_and_its_gradients_have_the_type_of_the_weights(masked: bool) -> None:
    reader, memory, mask, captions = a_reader("additive")
    reader, memory = reader.float(), memory.detach().float().requires_grad_()
    allowed = mask if masked else None
    wanted = gradients(reader(memory, allowed, captions), reader, memory)
    with torch.autocast("cpu", torch.bfloat16):
        out = reader(memory, allowed, captions)
    found = gradients(out, reader, memory)
    for left, right in zip(found, wanted, strict=True):
        assert left.dtype == torch.float32
        assert float((left - right).norm()) < 0.03 * float(right.norm())


def test_no_part_stays_in_a_loop_that_has_ended_or_failed() -> None:
    reader, memory, _, captions = a_reader("additive")
    reader(memory, None, captions)
    assert reader.mix.loop is None
    assert reader.attention.loop is None
    with pytest.raises(RuntimeError, match="stop"), deferring_gradients(reader, DeferredGradients(captions, 4, "cpu")):
        raise RuntimeError("stop")
    assert reader.mix.loop is None


def test_a_step_keeps_nothing_as_large_as_the_regions_of_all_captions() -> None:
    """The memory that tutorials fill: the tanh of every caption, region and unit, of every step."""
    reader, memory, _, captions = a_reader("additive")

    def kept(way: Callable[..., Tensor]) -> list[int]:
        sizes: list[int] = []

        def note(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            way(memory, None, captions)
        return [size for size in sizes if size != memory.numel()]  # that is what the keys were made of

    largest = captions.rows * 5 * 4  # (R, N, A)
    assert max(kept(reader.plainly)) >= largest
    assert max(kept(reader)) < largest


def test_saturated_sides_keep_their_gradients_finite() -> None:
    reader, memory, _, captions = a_reader("additive")
    found = gradients(reader(200 * memory, None, captions), reader, memory)
    assert all(bool(torch.isfinite(gradient).all()) for gradient in found)


def test_energies_are_those_of_tanh_but_for_what_all_regions_share() -> None:
    torch.manual_seed(0)
    keys, query, score = torch.randn(3, 7, 4).double(), torch.randn(3, 5, 4).double(), torch.randn(4).double()
    wanted = torch.tanh(keys[:, None] + query[:, :, None]) @ score
    factors, regions = additive.doubled_exponential(query), additive.doubled_exponential(keys)
    for energies in (additive.energies(factors, regions, score), _without_grad(factors, regions, score)):
        torch.testing.assert_close(energies + score.sum(), wanted)
        torch.testing.assert_close(masked_softmax(energies, None), torch.softmax(wanted, -1))


@torch.no_grad()
def _without_grad(factors: Tensor, keys: Tensor, score: Tensor) -> Tensor:
    return additive.energies(factors, keys, score)


@pytest.mark.parametrize("score", SCORES)
def test_a_batch_goes_without_pythons_search_for_circles(score: str) -> None:
    # The loop and its terms knew each other: training up-down grew to 7 GB, until Python happened to look.
    captions = pack_captions(TOKENS)
    reader, memory = Reader(score), torch.randn(4, 5, 6, requires_grad=True)
    gc.collect()
    gc.disable()
    try:
        loops = count_loops()
        for _ in range(3):
            reader(memory, None, captions).sum().backward()
        assert count_loops() == loops
    finally:
        gc.enable()


def count_loops() -> int:
    kinds = (DeferredGradients, DeferredGradient)
    return sum(issubclass(type(each), kinds) for each in gc.get_objects())
