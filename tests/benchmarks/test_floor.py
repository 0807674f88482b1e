"""The floor's count compared with torch's count for the same decoder run step by step, with autograd."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bench.floor import Counts, Floor, NecessaryWork, Product, floor_of, necessary_work
from seesay.config import ModelConfig, preset_names, resolve_config
from seesay.data.batches import pad_captions
from seesay.kernels.additive_attention import reference
from seesay.models import attention
from seesay.models.captioning import CaptionModel, build_model
from seesay.models.packing import pack_captions
from seesay.models.protocol import DecoderState
from tests import tiny

V, F, N, WORDS, ROWS = 13, 10, 6, 5, 3
PRESETS = [name for name in preset_names() if name != "scenes" and not name.endswith("-tutorial")]
SMALL = {"projection_size": 8, "embedding_size": 16, "hidden_size": 16, "attention_size": 12, "num_heads": 4}


@pytest.fixture(autouse=True)
def plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have autograd follow additive attention, whose operator the counter does not look into."""
    monkeypatch.setattr(attention, "additive_attention", reference)


class VectorProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the multiply-adds of matrix-vector products, which torch's counter ignores."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.multiply_adds = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.mv.default, torch.ops.aten.mv.out, torch.ops.aten.dot.default):
            self.multiply_adds += args[0].numel()
        return func(*args, **(kwargs or {}))


@contextmanager
def counting() -> Iterator[list[int]]:
    """Yield a list that receives the number of multiply-adds when the block ends."""
    result: list[int] = []
    with VectorProducts() as vectors, FlopCounterMode(display=False) as matrices:
        yield result
    result.append(matrices.get_total_flops() // 2 + vectors.multiply_adds)


def captioner(preset: str) -> tuple[CaptionModel, ModelConfig, int]:
    """Return a small captioner of a preset without dropout, its configuration, and its number of regions."""
    config = resolve_config(preset)
    pooled = config.encoder.pool == "pooled"
    output = 0 if config.model.output_size == 0 else 14
    sizes: dict[str, Any] = {**SMALL, "output_size": output, "feedforward_size": 20}
    sizes |= {"projection_size": 16} if pooled else {}
    model = config.model.replace(**tiny.what_is_read(config.model.decoder, sizes))
    torch.manual_seed(0)
    return build_model(model, V, F).eval(), model, 1 if pooled else N


def step_by_step(model: CaptionModel, regions: int) -> Tensor:
    """Return the sum of log-normalisers over captions of one image with `WORDS` words, one step per word."""
    decoder = model.step_decoder
    state = decoder.init_state(model.project(torch.randn(1, regions, F)), None)
    state = state.pick(torch.zeros(1, ROWS, dtype=torch.int64))
    # Otherwise autograd omits the gradients of an initial state of zeros.
    rows = {
        name: value if value.requires_grad else value.clone().requires_grad_() for name, value in state.per_row.items()
    }
    state, total = DecoderState(state.per_image, rows), torch.zeros(())
    for _ in range(WORDS):
        output = decoder.step(torch.randint(4, V, (1, ROWS)), state)
        state = output.state
        total = total + output.logits.logsumexp(-1).sum()
    return total


@pytest.mark.parametrize("preset", PRESETS)
def test_multiply_adds_of_every_preset_equal_torchs_count(preset: str) -> None:
    model, config, regions = captioner(preset)
    counts = Counts(1, regions, ROWS * WORDS, ROWS * WORDS * (WORDS + 1) // 2)
    work = necessary_work(model, config, counts)
    with counting() as forward:
        total = step_by_step(model, regions)
    assert sum(product.multiply_adds for product in work.products) == forward[0]
    with counting() as backward:
        total.backward()  # type: ignore[no-untyped-call]
    assert work.multiply_adds == forward[0] + backward[0]


def test_the_training_step_does_only_the_necessary_products() -> None:
    model, config, regions = captioner("attention-gru")
    captions = pack_captions(torch.randint(4, V, (2, ROWS, WORDS + 1)))
    counts = Counts.of(captions, 2, regions)
    assert counts == Counts(2, regions, 2 * ROWS * WORDS, 2 * ROWS * WORDS * (WORDS + 1) // 2)
    with counting() as count:
        model(torch.randn(2, regions, F), None, captions).logsumexp(-1).sum().backward()
    # The floor also counts the gradient of the constant initial state.
    less = 2 * ROWS * config.hidden_size * (3 * config.hidden_size + config.attention_size)
    assert count[0] == necessary_work(model, config, counts).multiply_adds - less


def test_counts_include_only_real_tokens() -> None:
    captions = pack_captions(pad_captions([((1, 4, 5, 2), (1, 6, 2)), ((1, 7, 8, 9, 2),)]))
    assert Counts.of(captions, 2, 7) == Counts(2, 7, 3 + 2 + 4, (1 + 2 + 3) + (1 + 2) + (1 + 2 + 3 + 4))


def test_the_floor_adds_the_time_of_products_and_of_tanh() -> None:
    work = NecessaryWork((Product("a", 2, 3, 5, backward=1), Product("b", 1, 2, 2)), tanh=40)
    assert work.multiply_adds == 2 * 30 + 3 * 4
    assert floor_of([work, work], matrix_rate=36.0, tanh_rate=20.0) == Floor(4.0, 4.0)
    assert floor_of([work], matrix_rate=36.0, tanh_rate=20.0).seconds == 4.0
