"""Linear layers that lay their weight out once for inference."""

import platform
from typing import Any, Self

import torch
from torch import Tensor, nn

from seesay.kernels.packed_linear import pack_linear, packed_linear


class Prepackable(nn.Module):
    """A module that can prepare itself for being used, not trained.

    Attributes:
        fixed: its weights do not change any more.
    """

    fixed = False

    def fix(self) -> None:
        """Takes the weights for what they will be from now on, until the module is put in training."""
        self.fixed = True

    def unpack(self) -> None:
        """Lets go of what was made of the weights, which are going to change."""
        self.fixed = False

    def train(self, mode: bool = True) -> Self:
        """Puts the module in training or evaluation; in training its weights are no longer fixed."""
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
        """Returns W x + b, (..., O), of x (..., I)."""
        if self.fixed and x.device.type == "cpu" and x.dtype == torch.float32 and not _is_followed():
            if self.packed is None:
                self.packed = pack_linear(self.matrix)
            if self.packed is not None:
                return packed_linear(x, self.packed, self.bias, self.out_features)
        return nn.functional.linear(x, self.matrix, self.bias)

    def unpack(self) -> None:
        """Lets go of the packed weight."""
        super().unpack()
        self.packed = None

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self.packed = None  # of the weights that are replaced
        super()._load_from_state_dict(*arguments)


def prepack_weights(network: nn.Module) -> None:
    """Prepares a network that is only used from now on, not trained: its weights must not change any more.

    It must be in evaluation mode, on the device where it is to be used, and not in use meanwhile.
    """
    for module in network.modules():
        if isinstance(module, Prepackable):
            module.fix()


def _is_followed() -> bool:
    """Tells whether what is computed is differentiated, rounded by autocast or exported."""
    return torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()


def quick(x: Tensor, dtype: torch.dtype) -> bool:
    """Tells whether oneDNN's fused convolutions work on x in a precision."""
    return x.device.type == "cpu" and dtype == torch.float32 and not torch.compiler.is_compiling()


def library_has(*operations: str) -> bool:
    """Tells whether torch's library for processors is there with some operations, on one that it is quick on."""
    here = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")  # type: ignore[no-untyped-call]
    return here and all(hasattr(torch.ops.mkldnn, name) for name in operations)
