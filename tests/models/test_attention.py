"""Each attention against its formula, computed region by region in float64."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from seesay.config import ModelConfig
from seesay.models.attention import (
    AdditiveAttention,
    Attention,
    GeneralAttention,
    MultiHeadAttention,
    Regions,
    build_attention,
)
from seesay.models.packing import PackingIndex, RegularIndex, pack_captions
from seesay.models.recurrent import doubly_stochastic_penalty

D, Q, A, N = 6, 6, 4, 5
SCORES = ("additive", "dot", "general", "multihead")


def build(score: str, dropout: float = 0.0) -> Attention:
    torch.manual_seed(0)
    config = ModelConfig(
        projection_size=D,
        hidden_size=Q,
        attention_size=A,
        num_heads=2,
        attention_score=score,  # type: ignore[arg-type]
        attention_dropout=dropout,
    )
    return build_attention(config, Q).double().eval()


def softmax(scores: list[Tensor]) -> Tensor:
    powers = torch.stack([score.exp() for score in scores])
    return powers / powers.sum()


def reference(attention: Attention, query: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Return context and weights of a query (Q,) over regions (N, D), by the formula of the paper."""
    if isinstance(attention, MultiHeadAttention):
        return reference_multihead(attention, query, memory)
    scores = []
    for region in memory:
        if isinstance(attention, AdditiveAttention):
            inner = attention.key.weight @ region + attention.key.bias + attention.query.weight @ query
            scores.append(attention.score.weight[0] @ torch.tanh(inner))
        elif isinstance(attention, GeneralAttention):
            scores.append(query @ (attention.key.weight @ region))
        else:
            scores.append(query @ region)
    weights = softmax(scores)
    return sum(cast("Tensor", weight * region) for weight, region in zip(weights, memory, strict=True)), weights  # type: ignore[return-value]


def reference_multihead(attention: MultiHeadAttention, query: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    size = A // 2
    heads, all_weights = [], []
    for head in range(2):
        part = slice(head * size, (head + 1) * size)
        q = attention.query.weight[part] @ query + attention.query.bias[part]
        w_k, w_v = attention.key_value.weight[:A][part], attention.key_value.weight[A:][part]
        b_k, b_v = attention.key_value.bias[:A][part], attention.key_value.bias[A:][part]
        weights = softmax([q @ (w_k @ region + b_k) / size**0.5 for region in memory])
        heads.append(torch.stack([w * (w_v @ region + b_v) for w, region in zip(weights, memory, strict=True)]).sum(0))
        all_weights.append(weights)
    return attention.merge.weight @ torch.cat(heads) + attention.merge.bias, torch.stack(all_weights).mean(0)


MASK = torch.tensor([[True] * 5, [True, False, True, True, False], [False, False, True, False, False]])


def regions_of(attention: Attention, memory: Tensor, mask: Tensor | None = None, queries: int = 1) -> Regions:
    """The regions (B, N, D) of images with as many queries each."""
    return Regions(*attention.prepare(memory), mask, RegularIndex.regular(len(memory), queries, memory.device))


@pytest.mark.parametrize("score", SCORES)
def test_attention_equals_the_formula_with_and_without_a_mask(score: str) -> None:
    attention = build(score)
    query, memory = torch.randn(3, Q, dtype=torch.float64), torch.randn(3, N, D, dtype=torch.float64)
    for memory_mask in (None, MASK):
        regions = regions_of(attention, memory, memory_mask)
        context, weights = attention(query, regions)
        torch.testing.assert_close(weights, attention.weigh(query, regions))
        for row in range(3):
            real = torch.ones(N, dtype=torch.bool) if memory_mask is None else memory_mask[row]
            wanted, share = reference(attention, query[row], memory[row][real])
            torch.testing.assert_close(context[row], wanted, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(weights[row][real], share, rtol=1e-10, atol=1e-10)
            assert not weights[row][~real].any()


@pytest.mark.parametrize("score", SCORES)
def test_queries_of_an_image_are_attended_as_one_alone(score: str) -> None:
    """As many for each image, as in decoding, or another number for each, as in training."""
    attention = build(score)
    memory = torch.randn(3, N, D, dtype=torch.float64)
    image = torch.tensor([2, 0, 2, 1, 2, 0])
    for given in (None, MASK):
        packed = pack_captions(torch.tensor([[[1, 2, 0], [1, 4, 2]], [[1, 2, 0], [0, 0, 0]], [[1, 5, 2], [1, 5, 2]]]))
        for index in (RegularIndex.regular(3, 7, memory.device), packed.rows_by_image(3), PackingIndex.of(image, 3)):
            query = torch.randn(len(index.row), Q, dtype=torch.float64)
            regions = Regions(*attention.prepare(memory), given, index)
            for count in (len(query), 2):
                found = attention(query[:count], regions.first(count))
                for row in range(count):
                    place = index.row[row : row + 1]
                    alone = regions_of(attention, memory[place], None if given is None else given[place])
                    for left, right in zip(found, attention(query[row : row + 1], alone), strict=True):
                        torch.testing.assert_close(left[row], right[0], rtol=1e-10, atol=1e-12)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the largest result of any operation, in bytes; a view counts as its base."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        found = [each for each in (result if isinstance(result, tuple | list) else [result]) if torch.is_tensor(each)]
        self.bytes = max(self.bytes, *(each.untyped_storage().nbytes() for each in found), 0)
        return result


@pytest.mark.parametrize("score", ["dot", "general", "multihead"])
def test_search_copies_neither_keys_nor_memory_for_each_hypothesis(score: str) -> None:
    # Bug: all attentions except the additive one broadcast keys and memory to (B, K, N, A), and matmul copied them.
    images, beams, regions, width = 4, 6, 40, 32
    config = ModelConfig(
        projection_size=width,
        hidden_size=width,
        attention_size=width,
        num_heads=4,
        attention_score=score,  # type: ignore[arg-type]
    )
    attention = build_attention(config, width).eval()
    query, memory = torch.randn(images, beams, width), torch.randn(images, regions, width)
    mask = torch.ones(images, regions, dtype=torch.bool)
    with torch.no_grad():  # inference mode would hide what matmul does inside
        shared = regions_of(attention, memory, mask, beams)
        with Largest() as broadcast:
            torch.matmul(query[:, :, None], memory[:, None].transpose(-1, -2))
        with Largest() as search:
            attention(query.flatten(0, 1), shared)
    assert broadcast.bytes >= 4 * images * beams * regions * width  # so that the measure would see it
    assert search.bytes <= max(shared.keys.untyped_storage().nbytes(), memory.untyped_storage().nbytes())


def test_multihead_equals_torch() -> None:
    attention = build("multihead")
    assert isinstance(attention, MultiHeadAttention)
    torchs = nn.MultiheadAttention(A, 2, kdim=D, vdim=D, batch_first=True).double()
    with torch.no_grad():
        assert torchs.q_proj_weight is not None
        assert torchs.k_proj_weight is not None
        assert torchs.v_proj_weight is not None
        torchs.q_proj_weight.copy_(torch.eye(A))
        torchs.k_proj_weight.copy_(attention.key_value.weight[:A])
        torchs.v_proj_weight.copy_(attention.key_value.weight[A:])
        torchs.in_proj_bias.copy_(torch.cat([torch.zeros(A, dtype=torch.float64), attention.key_value.bias]))
        torchs.out_proj.weight.copy_(torch.eye(A))
        torchs.out_proj.bias.zero_()
    query, memory = torch.randn(3, Q, dtype=torch.float64), torch.randn(3, N, D, dtype=torch.float64)
    mask = torch.tensor([[True] * 5, [True, False, True, True, False], [False, False, True, False, False]])
    context, weights = attention(query, regions_of(attention, memory, mask))
    wanted, share = torchs(attention.query(query)[:, None], memory, memory, key_padding_mask=~mask)
    torch.testing.assert_close(context, attention.merge(wanted[:, 0]))
    torch.testing.assert_close(weights, share[:, 0])


@pytest.mark.parametrize("score", SCORES)
def test_dropped_weights_change_the_context_in_training_only(score: str) -> None:
    attention = build(score, dropout=0.5)
    query, memory = torch.randn(4, Q, dtype=torch.float64), torch.randn(4, N, D, dtype=torch.float64)
    whole = attention(query, regions_of(attention, memory))
    torch.testing.assert_close(whole[0], build(score)(query, regions_of(attention, memory))[0])
    attention.train()
    dropped = attention(query, regions_of(attention, memory))
    assert not torch.allclose(dropped[0], whole[0])
    torch.testing.assert_close(dropped[1], whole[1])  # what is shown and penalised is whole


def test_doubly_stochastic_penalty_equals_the_formula_per_token() -> None:
    tokens = torch.tensor([[[1, 4, 5, 2], [1, 6, 2, 0]], [[1, 2, 0, 0], [0, 0, 0, 0]]])
    packed = pack_captions(tokens)
    attention = torch.rand(6, 3, dtype=torch.float64)
    rows = packed.row_of_token()
    mask = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])  # one row per caption
    for memory_mask in (None, mask):
        total = 0.0
        for row in range(3):
            for region in range(3):
                if memory_mask is None or memory_mask[row, region]:
                    total += (1 - sum(float(a[region]) for a, r in zip(attention, rows, strict=True) if r == row)) ** 2
        assert float(doubly_stochastic_penalty(attention, packed, memory_mask)) == pytest.approx(total / 6)
