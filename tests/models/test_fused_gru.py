"""The fused layers against torch.nn.GRU."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from seesay.config import ModelConfig
from seesay.models.decoders import pooled_gru
from seesay.models.decoders.pooled_gru import PooledGRUDecoder
from seesay.models.fused_attention import can_fuse
from seesay.models.fused_gru import fused_gru
from seesay.models.packing import pack_captions
from tests.models.test_fused_loop import difference, needs_fusion, random_tokens


def made(**settings: float) -> PooledGRUDecoder:
    torch.manual_seed(4)
    sizes = {"decoder": "pooled", "projection_size": 20, "embedding_size": 6, "hidden_size": 20, "num_layers": 3}
    return PooledGRUDecoder(ModelConfig(**{**sizes, **settings}), vocabulary_size=30)  # type: ignore[arg-type]


@pytest.fixture
def torchs(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    with monkeypatch.context() as patch:
        patch.setattr(pooled_gru, "can_fuse", lambda *_: False)
        yield patch


def results(decoder: PooledGRUDecoder, memory: Tensor, tokens: Tensor, half: bool = False) -> dict[str, Tensor]:
    given = memory.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = decoder(given, None, pack_captions(tokens)).logits.float()
    factors = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    parameters = dict(decoder.named_parameters())
    gradients = torch.autograd.grad((logits * factors).sum(), [given, *parameters.values()])
    return {"logits": logits.detach(), **dict(zip(["memory", *parameters], gradients, strict=True))}


@needs_fusion
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("merge", ["state", "add"])
@pytest.mark.parametrize(("images", "captions", "length"), [(3, 4, 11), (1, 1, 3), (30, 5, 7)])
def test_it_is_torchs_layer(
    images: int, captions: int, length: int, merge: str, layers: int, torchs: pytest.MonkeyPatch
) -> None:
    width = 20 if merge == "state" else 6
    decoder = made(merge=merge, num_layers=layers, projection_size=width)  # type: ignore[arg-type]
    memory, tokens = torch.randn(images, 1, width), random_tokens(images, captions, length, 30)
    wanted = results(decoder, memory, tokens)
    torchs.undo()
    assert can_fuse(memory, decoder.embedding.weight)
    for name, found in results(decoder, memory, tokens).items():
        assert difference(found, wanted[name]) < 1e-5 or not wanted[name].any(), name


@needs_fusion
def test_half_precision_is_as_near_to_float32_as_torchs_is(torchs: pytest.MonkeyPatch) -> None:
    decoder, memory, tokens = made(), torch.randn(6, 1, 20), random_tokens(6, 5, 9, 30)
    exact, theirs = results(decoder, memory, tokens), results(decoder, memory, tokens, half=True)
    torchs.undo()
    for name, found in results(decoder, memory, tokens, half=True).items():
        assert difference(found, exact[name]) < 1.3 * difference(theirs[name], exact[name]) + 1e-3, name


@needs_fusion
def test_a_gradient_that_is_transposed_is_read_as_it_is() -> None:
    given = [torch.randn(*shape, requires_grad=True) for shape in ((5, 12), (5, 4), (12, 4), (12,))]
    gates, first, weight, bias = given
    factors = torch.randn(4, 5)
    even = factors.T.contiguous()
    found = torch.autograd.grad((fused_gru(gates, first, weight, bias, [5]).T * factors).sum(), given)
    wanted = torch.autograd.grad((fused_gru(gates, first, weight, bias, [5]) * even).sum(), given)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@needs_fusion
def test_words_are_dropped_between_the_layers_in_training_alone() -> None:
    decoder, memory, tokens = made(output_dropout=0.5), torch.randn(3, 1, 20), random_tokens(3, 2, 6, 30)
    captions = pack_captions(tokens)

    def states() -> Tensor:
        first = memory[:, 0].repeat_interleave(2, 0)[: captions.rows].expand(3, -1, -1).contiguous()
        words = decoder.embedding(captions.inputs)
        return decoder._fused(words, first, captions.sizes)

    assert not torch.equal(states(), states())
    decoder.eval()
    assert torch.equal(states(), states())
