"""Linear layers that pack their weight once for inference."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from seesay.kernels.packed_linear import pack_linear, packed_linear


class Prepackable(nn.Module):
    """A module with a form for inference with constant weights.

    Attributes:
        fixed: the weights are constant.
    """

    fixed = False

    def prepack(self) -> None:
        """Treat the weights as constant until the module is put into training mode."""
        self.fixed = True

    def unpack(self) -> None:
        """Discard values derived from the weights, because the weights may change from now on."""
        self.fixed = False

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; training mode unpacks the weights."""
        if mode:
            self.unpack()
        return super().train(mode)


class Linear(Prepackable, nn.Linear):
    """`torch.nn.Linear` with a packed copy of its weight while that is fixed; see `seesay.kernels.packed_linear`."""

    packed: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.register_buffer("packed", None, persistent=False)

    @property
    def matrix(self) -> Tensor:
        """W, (O, I)."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return W x + b, (..., O), of x (..., I)."""
        if self.fixed and x.device.type == "cpu" and x.dtype == torch.float32 and not is_traced():
            packed = self.pack()
            if packed is not None:
                return packed_linear(x, packed, self.bias, self.out_features)
        return nn.functional.linear(x, self.matrix, self.bias)

    def pack(self) -> Tensor | None:
        """Return the packed weight; None if the native library does not support it."""
        if self.packed is None:
            self.packed = pack_linear(self.matrix)
        return self.packed

    def unpack(self) -> None:
        """Discard the packed weight."""
        super().unpack()
        self.packed = None

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self.packed = None  # belongs to the replaced weights
        super()._load_from_state_dict(*arguments)


def prepack_weights(network: nn.Module) -> None:
    """Prepare a network for inference; its weights must not change afterwards.

    It must be in evaluation mode and on its final device, and must not be used concurrently.
    """
    for module in network.modules():
        if isinstance(module, Prepackable):
            module.prepack()


def is_traced() -> bool:
    """Return whether the computation is differentiated, autocast or exported."""
    return torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
