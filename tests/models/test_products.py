import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from seesay.kernels.native import native
from seesay.models.products import Linear, prepack_weights

needs_native = pytest.mark.skipif(native(torch.zeros(1)) is None, reason="no native library")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 12), (2, 3, 12), (1, 12), (0, 12), (12,)])
@torch.no_grad()
def test_a_prepacked_layer_is_torchs(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = Linear(12, 5, bias=bias), torch.randn(shape)
    prepack_weights(nn.Sequential(layer))
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    with torch.autocast("cpu", torch.bfloat16):
        rounded, wanted = layer(x), F.linear(x, layer.weight, layer.bias)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded, wanted)


def test_types_that_do_not_fit_are_refused_as_torch_refuses_them() -> None:
    layer = Linear(3, 4)
    prepack_weights(layer)
    with torch.no_grad(), pytest.raises(RuntimeError):
        layer(torch.zeros(2, 3, dtype=torch.bfloat16))


@pytest.mark.parametrize("width", [3, 40])
def test_rows_of_another_width_are_refused_by_a_prepacked_layer_too(width: int) -> None:
    layer = Linear(12, 5)
    prepack_weights(layer)
    with torch.inference_mode(), pytest.raises(RuntimeError):
        layer(torch.zeros(2, width))


def test_gradients_pass_through_a_prepacked_layer() -> None:
    layer = Linear(4, 3).eval()
    prepack_weights(layer)
    layer(torch.randn(2, 4)).sum().backward()
    torch.testing.assert_close(layer.bias.grad, torch.full((3,), 2.0))


def test_training_takes_the_new_weights() -> None:
    layer, x = Linear(20, 33), torch.randn(6, 20)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    for _ in range(2):
        prepack_weights(layer.eval())
        with torch.no_grad():
            torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
        layer.train()(x).sum().backward()
        optimizer.step()


@torch.no_grad()
def test_weights_that_are_loaded_replace_the_packed_ones() -> None:
    layer, other, x = Linear(4, 3), Linear(4, 3), torch.randn(2, 4)
    prepack_weights(layer)
    layer(x)
    layer.load_state_dict(other.state_dict())
    torch.testing.assert_close(layer(x), other(x))


@needs_native
@torch.no_grad()
def test_a_packed_weight_is_copied_and_is_not_saved() -> None:
    layer, x = Linear(4, 3), torch.randn(2, 4)
    prepack_weights(layer)
    wanted = layer(x)
    assert layer.packed is not None
    torch.testing.assert_close(copy.deepcopy(layer)(x), wanted)
    assert set(layer.state_dict()) == {"weight", "bias"}
    assert layer.train().packed is None
