"""The fused time loops against the loop of modules, which other tests hold against plain formulas."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from seesay.config import ModelConfig
from seesay.models.decoders import attention_gru, show_attend_tell
from seesay.models.decoders.attention_gru import AttentionGRUDecoder
from seesay.models.decoders.show_attend_tell import ShowAttendTellDecoder
from seesay.models.fused_attention import can_fuse
from seesay.models.fused_lstm_loop import LSTMLoopWeights, fused_lstm_loop
from seesay.models.packing import PackedCaptions, pack_captions, pad_to_longest
from seesay.models.protocol import DecoderOutput
from seesay.models.recurrent import RecurrentDecoder
from seesay.tokenizer import END_ID, START_ID, UNK_ID

needs_fusion = pytest.mark.skipif(
    not can_fuse(torch.zeros(1, 1, 1), torch.zeros(1, 1)), reason="needs a C compiler (cc) and torch's oneDNN layer"
)
SIZES = {"projection_size": 7, "embedding_size": 6, "hidden_size": 20, "attention_size": 10, "output_size": 9}
every = pytest.mark.parametrize(
    ("kind", "settings"),
    [(AttentionGRUDecoder, {}), (ShowAttendTellDecoder, {}), (ShowAttendTellDecoder, {"doubly_stochastic": 1.5})],
    ids=["attention-gru", "show-attend-tell", "show-attend-tell with its penalty"],
)
Kind = type[RecurrentDecoder]


def made(kind: Kind = AttentionGRUDecoder, **settings: float) -> Any:
    torch.manual_seed(4)
    decoder = kind(ModelConfig(**{**SIZES, **settings}), vocabulary_size=30)  # type: ignore[arg-type]
    for name, weight in decoder.named_parameters():
        if "beta" in name:  # gates that are neither open nor shut, and not all alike
            torch.nn.init.normal_(weight)
    return decoder


def random_tokens(images: int, captions: int, length: int, words: int) -> Tensor:
    """Captions (B, C, T) of one word up to T - 2, start and end tokens and padding included."""
    random = torch.Generator().manual_seed(images)
    tokens = torch.zeros(images * captions, length, dtype=torch.int64)
    for row in tokens:
        count = int(torch.randint(0, length - 1, (), generator=random))
        row[0], row[1 + count] = START_ID, END_ID
        row[1 : 1 + count] = torch.randint(UNK_ID, words, (count,), generator=random)
    return tokens.view(images, captions, length)


def results(
    decoder: RecurrentDecoder,
    forward: Callable[..., DecoderOutput],
    captions: PackedCaptions,
    memory: Tensor,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """The logits and all gradients of a sum of theirs."""
    given = memory.clone().requires_grad_()
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        logits, penalty = forward(decoder, given, None, captions)
        logits = logits.float()
    factors = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    parameters, more = dict(decoder.named_parameters()), torch.as_tensor(penalty())
    gradients = torch.autograd.grad((logits * factors).sum() + 10 * more, [given, *parameters.values()])
    found = {"logits": logits.detach(), "penalty": more.detach()[None]}
    return {**found, **dict(zip(["memory", *parameters], gradients, strict=True))}


def difference(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@needs_fusion
@pytest.mark.parametrize(("images", "captions", "length"), [(3, 4, 11), (1, 1, 3), (2, 1, 2), (30, 5, 7)])
@every
def test_it_is_the_loop_of_modules(
    kind: Kind, settings: dict[str, float], images: int, captions: int, length: int
) -> None:
    decoder, memory = made(kind, **settings), torch.randn(images, 5, 7)
    packed = pack_captions(random_tokens(images, captions, length, 30))
    found = results(decoder, kind.forward, packed, memory)
    for name, wanted in results(decoder, RecurrentDecoder.forward, packed, memory).items():
        assert difference(found[name], wanted) < 1e-5 or not wanted.any(), name


@needs_fusion
@every
def test_half_precision_is_as_near_to_float32_as_the_modules_is(kind: Kind, settings: dict[str, float]) -> None:
    decoder, memory = made(kind, hidden_size=64, attention_size=48, **settings), torch.randn(6, 9, 7)
    packed = pack_captions(random_tokens(6, 5, 9, 30))
    exact = results(decoder, RecurrentDecoder.forward, packed, memory)
    modules = results(decoder, RecurrentDecoder.forward, packed, memory, torch.bfloat16)
    for name, found in results(decoder, kind.forward, packed, memory, torch.bfloat16).items():
        if exact[name].any():
            assert difference(found, exact[name]) < 1.3 * difference(modules[name], exact[name]) + 4e-3, name


@needs_fusion
@every
def test_captions_that_run_to_the_longest_and_a_second_backward_pass(kind: Kind, settings: dict[str, float]) -> None:
    decoder, memory = made(kind, **settings), torch.randn(2, 5, 7)
    captions = pad_to_longest(random_tokens(2, 3, 6, 30))
    found = results(decoder, kind.forward, captions, memory)
    for name, wanted in results(decoder, RecurrentDecoder.forward, captions, memory).items():
        assert difference(found[name], wanted) < 1e-5 or not wanted.any(), name
    logits, penalty = decoder(memory, None, captions)
    loss = logits.square().sum() + penalty()
    parameters = list(decoder.parameters())
    once = torch.autograd.grad(loss, parameters, retain_graph=True)
    for first, second in zip(once, torch.autograd.grad(loss, parameters), strict=True):
        assert torch.equal(first, second)


def hook_a_layer(decoder: Any) -> None:
    decoder.state_gates.register_forward_hook(lambda *_: None)


def take_the_place_of_a_method(decoder: Any) -> None:
    decoder.advance = decoder.advance


def drop_in_evaluation(decoder: Any) -> None:
    """As for a guess of how sure a model is (Gal and Ghahramani 2016)."""
    decoder.attention.dropout.train()


@needs_fusion
@pytest.mark.parametrize(
    ("kind", "place", "name"),
    [
        (AttentionGRUDecoder, attention_gru, "fused_loop"),
        (ShowAttendTellDecoder, show_attend_tell, "fused_lstm_loop"),
    ],
)
def test_it_is_taken_where_it_can_be_and_only_there(
    kind: Kind, place: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Tensor] = []
    loop = getattr(place, name)

    def noted(words: Tensor, *given: Any) -> Any:
        taken.append(words)
        return loop(words, *given)

    class Other(kind):  # type: ignore[misc, valid-type]
        """A subclass, which may do anything."""

    monkeypatch.setattr(place, name, noted)
    memory, packed = torch.randn(2, 5, 7), pack_captions(random_tokens(2, 3, 6, 30))
    made(kind)(memory, None, packed)
    made(kind, state_dropout=0.5).eval()(memory, None, packed)
    assert len(taken) == 2
    made(kind)(memory, torch.ones(2, 5, dtype=torch.bool), packed)
    for settings in ({"state_dropout": 0.5}, {"attention_dropout": 0.5}):
        made(kind, **settings)(memory, None, packed)
    made(kind).double()(memory.double(), None, packed)
    made(Other)(memory, None, packed)
    for alter in (hook_a_layer, take_the_place_of_a_method, drop_in_evaluation):
        altered = made(kind, attention_dropout=0.5).eval()
        alter(altered)
        altered(memory, None, packed)
    assert len(taken) == 2
    made(kind, doubly_stochastic=1.0)(memory, None, packed)
    assert len(taken) == 2 + (kind is ShowAttendTellDecoder), "the weights of the other's loop are not to be had"


@needs_fusion
def test_the_gradient_may_come_in_any_layout() -> None:
    """C reads rows, whatever lies in them."""
    decoder, packed = made(ShowAttendTellDecoder), pack_captions(random_tokens(2, 3, 6, 30))
    memory, first = torch.randn(2, 5, 7), torch.randn(packed.rows, 20)
    weights = LSTMLoopWeights(
        decoder.attention.score.weight,
        decoder.attention.query.weight,
        decoder.beta.weight,
        decoder.beta.bias,
        decoder.context_gates.weight,
        decoder.state_gates.weight,
    )
    words = decoder.words(decoder.embedding(packed.inputs)).detach()
    found, _ = fused_lstm_loop(words, memory, decoder.attention.keys(memory), (first, first), weights, packed)
    factors = torch.randn(found.shape)
    wanted = torch.autograd.grad((found * factors).sum(), list(weights), retain_graph=True)
    for left, right in zip(
        torch.autograd.grad((found.t() * factors.t().contiguous()).sum(), list(weights)), wanted, strict=True
    ):
        torch.testing.assert_close(left, right)
