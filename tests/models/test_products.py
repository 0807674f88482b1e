import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seesay.models import products
from seesay.models.products import Linear, pack, prepack_weights, product, quick

needs_quick = pytest.mark.skipif(
    not quick(torch.zeros(1, 1), torch.float32), reason="torch has no oneDNN linear layer here"
)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 12), (2, 3, 12), (1, 12), (0, 12), (12,)])
def test_results_and_gradients_are_those_of_torchs_layer(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = Linear(12, 5, bias=bias), torch.randn(shape)

    def run(ours: bool) -> list[Tensor]:
        given = x.clone().requires_grad_()
        out = layer(given) if ours else F.linear(given, layer.weight, layer.bias)
        return [out, *torch.autograd.grad(out.square().sum(), [given, *layer.parameters()])]

    for found, wanted in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


def test_autocast_computes_in_bfloat16_and_hands_back_float32_gradients() -> None:
    torch.manual_seed(0)
    layer, x = Linear(64, 9), torch.randn(30, 64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
        wanted = F.linear(x, layer.weight, layer.bias)
    assert out.dtype == wanted.dtype == torch.bfloat16
    torch.testing.assert_close(out, wanted)
    given = [x, layer.weight, layer.bias]
    for found, right in zip(
        torch.autograd.grad(out.float().square().sum(), given, retain_graph=True),
        torch.autograd.grad(wanted.float().square().sum(), given),
        strict=True,
    ):
        assert found.dtype == torch.float32
        assert float((found - right).norm()) < 0.01 * float(right.norm())


def test_types_that_do_not_fit_are_refused_as_torch_refuses_them() -> None:
    with pytest.raises(RuntimeError):
        Linear(3, 4)(torch.zeros(2, 3, dtype=torch.bfloat16))


@needs_quick
@pytest.mark.parametrize("width", [3, 40])
def test_rows_of_another_width_are_refused_by_a_fixed_layer_too(width: int) -> None:
    layer = Linear(12, 5)
    prepack_weights(layer)
    with torch.inference_mode(), pytest.raises(RuntimeError):
        layer(torch.zeros(2, width))


@needs_quick
def test_only_gradients_that_are_asked_for_are_computed() -> None:
    layer = Linear(4, 3)
    layer.weight.requires_grad_(False)
    x = torch.randn(2, 4)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((3,), 2.0))


@needs_quick
@pytest.mark.parametrize("rows", [1, 6, 40])
def test_a_packed_weight_gives_the_same_for_any_number_of_rows(rows: int) -> None:
    weight, x, bias = torch.randn(33, 20), torch.randn(rows, 20), torch.randn(33)
    torch.testing.assert_close(product(x, pack(weight, 16), bias), F.linear(x, weight, bias))
    across = torch.randn(20, 33).T
    torch.testing.assert_close(product(x, pack(across, 16)), F.linear(x, across))


def test_a_weight_that_an_optimizer_changes_uncounted_is_the_new_one() -> None:
    """A fused AdamW leaves a tensor's version as it was: nothing could tell that what was packed is out of date."""
    layer, x = Linear(20, 33), torch.randn(6, 20)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(layer.eval()(x), F.linear(x, layer.weight, layer.bias))
        layer.train()(x).sum().backward()
        optimizer.step()


@torch.no_grad()
def test_a_fixed_weight_is_packed_in_the_precision_that_is_asked_for() -> None:
    torch.manual_seed(0)
    layer, x = Linear(20, 33), torch.randn(6, 20)
    prepack_weights(nn.Sequential(layer))
    for _ in range(2):
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
        with torch.autocast("cpu", torch.bfloat16):
            rounded, wanted = layer(x), F.linear(x, layer.weight, layer.bias)
        assert rounded.dtype == torch.bfloat16
        torch.testing.assert_close(rounded, wanted)


@needs_quick
@torch.no_grad()
def test_what_is_packed_goes_with_its_layer_and_is_not_copied() -> None:
    layer, x = Linear(4, 3), torch.randn(2, 4)
    prepack_weights(layer)
    before = len(products._packed)
    wanted = layer(x)
    assert len(products._packed) == before + 1
    twin = copy.deepcopy(layer)
    torch.testing.assert_close(twin(x), wanted)
    assert set(layer.state_dict()) == {"weight", "bias"}
    del layer, twin
    assert len(products._packed) == before


def test_where_torch_has_no_such_product_its_own_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_dtypes", lambda: frozenset())
    layer, x = Linear(4, 3), torch.randn(2, 4)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=0, atol=0)
