"""A network's convolutions on a processor, each with its normalisation and activation in one pass."""

import math
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from seesay.models.products import library_has

_AGREES = 1e-3
"""Largest difference to the network as it was, of its largest feature; rounding alone gives some 1e-5."""
_TOGETHER = 8
"""Images that a weight is ordered for where there is more than one."""

_OPERATIONS = ("_convolution_pointwise", "_reorder_convolution_weight")
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d)  # outside training


class _Activation(NamedTuple):
    """An activation as torch's library is told of it."""

    name: str = "none"
    scalars: tuple[float, ...] = ()
    algorithm: str = ""


_NO_ACTIVATION = _Activation()
_ACTIVATIONS: dict[type[nn.Module], Callable[[Any], _Activation]] = {
    nn.ReLU: lambda module: _Activation("relu"),
    nn.ReLU6: lambda module: _Activation("hardtanh", (0.0, 6.0)),
    nn.Hardtanh: lambda module: _Activation("hardtanh", (module.min_val, module.max_val)),
    nn.LeakyReLU: lambda module: _Activation("leaky_relu", (module.negative_slope,)),
    nn.SiLU: lambda module: _Activation("swish"),
    nn.Hardswish: lambda module: _Activation("hardswish"),
    nn.Sigmoid: lambda module: _Activation("sigmoid"),
    nn.Hardsigmoid: lambda module: _Activation("hardsigmoid"),
    nn.Tanh: lambda module: _Activation("tanh"),
    nn.GELU: lambda module: _Activation("gelu", (), module.approximate),
}


def fuse_convolutions(network: nn.Module, forward: str, image: Tensor) -> fx.GraphModule | None:
    """Returns a network, for use on a processor, whose convolutions do what follows them as well.

    A normalisation goes into the weights before it (Jacob et al. 2018, "Quantization and training of neural networks
    for efficient integer-arithmetic-only inference", section 3.2), and the activation is done while a result is at
    hand: two passes less over each map, which take up to half of the time. Where TensorFlow pads two sides only, the
    kernel gets a row and a column of zeros instead of the map, which would be copied. What an image gives does not
    depend on those beside it, to the last bit, as far as convolutions go.

    While this goes on, the network must not be used by another thread.

    Args:
        network: in evaluation mode, in float32, on a processor, its weights as they will be.
        forward: the name of the method to take, of one tensor.
        image: what that is called with, (1, 3, height, width); all others must be as high and as wide.

    Returns:
        The network, which shares all other layers with the given one; None where torch lacks the library for it,
        where the way through the network cannot be followed, or where it does not lead to the same on `image`.
    """
    if not library_has(*_OPERATIONS):
        return None
    try:
        with torch.no_grad():
            fused = fx.GraphModule(network, _Follower(network).follow(forward)).eval()
            with _inputs_seen(network) as sizes:
                wanted = getattr(network, forward)(image)
            _fuse(fused, sizes)
            found = fused(image)
            same = bool((wanted - found).abs().max() <= _AGREES * wanted.abs().max())
    except Exception:  # noqa: BLE001 - whatever a network does that cannot be followed: it has its own way still
        return None
    return fused if same else None


def _of_timm(package: str, name: str) -> Any:
    """Returns something of timm's, None where nobody has imported it, which takes a second."""
    return getattr(sys.modules.get(f"timm.{package}"), name, None)


def _convolutions() -> tuple[type[nn.Module], ...]:
    return (nn.Conv2d, _of_timm("layers", "Conv2dSame"))


def _normalisations() -> tuple[type[nn.Module], ...]:
    return (nn.BatchNorm2d, _of_timm("layers", "BatchNormAct2d"))


class _Follower(fx.Tracer):
    """Writes down what a method of a network does.

    `fx.Tracer.trace` would take calls of all modules there are for the network's, those in other threads too; here
    only the network's own write down that they are called. Those that have hooks, or a `forward` that somebody gave
    them, are looked into, since nothing would call these else.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.root = network
        self.graph = fx.Graph()
        self.tensor_attrs = {}
        of_timm = _of_timm("models", "get_notrace_modules")
        self._whole = (nn.BatchNorm2d, *(of_timm() if of_timm else ()))

    def follow(self, forward: str) -> fx.Graph:
        """Returns the steps of a method of one tensor."""
        images = self.create_proxy("placeholder", "images", (), {})
        with ExitStack() as stack:
            for name, module in self.root.named_modules():
                if self.is_leaf_module(module, name):
                    module.__dict__["forward"] = self._noting(name)
                    stack.callback(module.__dict__.pop, "forward")
            result = getattr(self.root, forward)(images)
        self.create_node("output", "output", (self.create_arg(result),), {})
        return self.graph

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tells whether a module is one step."""
        if m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__:
            return False
        return isinstance(m, self._whole) or super().is_leaf_module(m, module_qualified_name)

    def _noting(self, name: str) -> Callable[..., fx.Proxy]:
        return lambda *args, **kwargs: self.create_proxy("call_module", name, args, kwargs)


@contextmanager
def _inputs_seen(network: nn.Module) -> Iterator[dict[nn.Module, list[torch.Size]]]:
    """Notes the sizes of what each convolution is given."""
    sizes: dict[nn.Module, list[torch.Size]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes.setdefault(module, []).append(inputs[0].shape)

    with ExitStack() as stack:
        for module in network.modules():
            if type(module) in _convolutions():
                stack.callback(module.register_forward_pre_hook(note).remove)
        yield sizes


def _fuse(network: fx.GraphModule, sizes: Mapping[nn.Module, Sequence[torch.Size]]) -> None:
    """Puts convolutions that do it all in place of a graph's, and of what follows them."""
    modules, graph = dict(network.named_modules()), network.graph
    for node in _calls(graph, modules, _NOTHING):
        node.replace_all_uses_with(cast("fx.Node", node.args[0]))
        graph.erase_node(node)
    for number, node in enumerate(_calls(graph, modules, _convolutions())):
        steps = [node, *_followers(node, modules)]
        parts = [modules[str(step.target)] for step in steps]
        if not _can_be_fused(cast("nn.Conv2d", parts[0]), sizes[parts[0]]):
            continue
        network.add_module(f"fused_{number}", _Convolution(parts, sizes[parts[0]][0]))
        with graph.inserting_after(steps[-1]):
            steps[-1].replace_all_uses_with(graph.call_module(f"fused_{number}", node.args))
        for step in reversed(steps):
            graph.erase_node(step)
    network.delete_all_unused_submodules()
    network.recompile()


def _calls(graph: fx.Graph, modules: Mapping[str, nn.Module], kinds: Container[type[nn.Module]]) -> list[fx.Node]:
    return [node for node in graph.nodes if _is_call(node, modules, kinds)]


def _is_call(node: fx.Node, modules: Mapping[str, nn.Module], kinds: Container[type[nn.Module]]) -> bool:
    return node.op == "call_module" and type(modules[str(node.target)]) in kinds


def _followers(convolution: fx.Node, modules: Mapping[str, nn.Module]) -> list[fx.Node]:
    """Returns the calls of a normalisation and an activation after a convolution that nobody else looks before."""
    found: list[fx.Node] = []
    norm = _only_user(convolution, modules, _normalisations())
    if norm is not None:
        known = _known_activation(modules[str(norm.target)])
        if known is None:
            return []
        found.append(norm)
        if known != _NO_ACTIVATION:
            return found
    activation = _only_user(found[-1] if found else convolution, modules, _ACTIVATIONS)
    return found if activation is None else [*found, activation]


def _only_user(node: fx.Node, modules: Mapping[str, nn.Module], kinds: Container[type[nn.Module]]) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and _is_call(users[0], modules, kinds) else None


def _known_activation(module: nn.Module) -> _Activation | None:
    """Returns which activation one is, or a normalisation has in it; None = one that the library does not have."""
    if isinstance(module, nn.BatchNorm2d):
        inner = [part for part in module.children() if type(part) not in _NOTHING]
        return _NO_ACTIVATION if not inner else _known_activation(inner[0]) if len(inner) == 1 else None
    known = _ACTIVATIONS.get(type(module))
    return known(module) if known else None


def _can_be_fused(convolution: nn.Conv2d, sizes: Sequence[torch.Size]) -> bool:
    """Tells whether a convolution pads with zeros, as a kernel can, and is given maps of one size only."""
    if convolution.padding_mode != "zeros" or len(sizes) != 1:
        return False
    left, right, top, bottom = _padding(convolution, sizes[0])
    return convolution.dilation == (1, 1) or (left == right and top == bottom)


def _padding(convolution: nn.Conv2d, size: torch.Size) -> tuple[int, ...]:
    """Returns the columns and rows of zeros around a map of some size: left, right, top and bottom."""
    if type(convolution) is nn.Conv2d:
        return tuple(convolution._reversed_padding_repeated_twice)
    found: list[int] = []
    for side in (1, 0):  # as many windows as strides, each whole
        stride, reach = convolution.stride[side], (convolution.kernel_size[side] - 1) * convolution.dilation[side] + 1
        total = max((math.ceil(size[2 + side] / stride) - 1) * stride + reach - size[2 + side], 0)
        found += [total // 2, total - total // 2]
    return tuple(found)


class _Convolution(nn.Module):
    """A convolution, a normalisation and an activation by torch's library for processors.

    Args:
        parts: the convolution, and the one, the other or both.
        size: of the one map that it is tried with.
    """

    def __init__(self, parts: Sequence[nn.Module], size: torch.Size) -> None:
        super().__init__()
        convolution = cast("nn.Conv2d", parts[0])
        left, right, top, bottom = _padding(convolution, size)
        rows, columns = max(top, bottom), max(left, right)
        self._parts = tuple(parts)  # not as layers of this one: they are the network's
        self._size = size
        # Zeros above in the kernel stand for those that are not above the map, and so on.
        self._missing = (columns - left, columns - right, rows - top, rows - bottom)
        self._how = ((rows, columns), convolution.stride, convolution.dilation, convolution.groups)
        known = [_known_activation(part) or _NO_ACTIVATION for part in parts[1:]]
        self._activation = next((each for each in known if each != _NO_ACTIVATION), _NO_ACTIVATION)
        self._ordered: dict[bool, tuple[Tensor, Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, O, rows, columns) of x (B, I, height, width)."""
        together = len(x) > 1
        if together not in self._ordered:
            self._ordered[together] = self._order(_TOGETHER if together else 1)
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, *self._ordered[together], *self._how, *self._activation
        )
        return found

    def _order(self, images: int) -> tuple[Tensor, Tensor]:
        """Returns the weight in the order that the library likes best for some images at once, and the bias.

        In another's order it has to be put into the right one at every call, which may take longer than all else.
        """
        convolution = cast("nn.Conv2d", self._parts[0])
        weight, bias = convolution.weight, convolution.bias
        for part in self._parts[1:]:
            if isinstance(part, nn.BatchNorm2d):
                mean, variance = cast("Tensor", part.running_mean), cast("Tensor", part.running_var)
                weight, bias = fuse_conv_bn_weights(weight, bias, mean, variance, part.eps, part.weight, part.bias)
        weight = F.pad(weight.detach(), self._missing).contiguous()
        bias = torch.zeros(len(weight)) if bias is None else bias.detach()
        size = (images, *self._size[1:])
        return torch.ops.mkldnn._reorder_convolution_weight(weight, *self._how, size), bias
