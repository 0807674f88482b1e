"""Encoding of each image of a forward pass once, whatever its number of captions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

IMAGE_OF_ROW = "image_of_row"
"""Name of the image number of each row of a pass, beside the arguments of the model."""


@contextmanager
def encode_once(encoders: Sequence[nn.Module], image_of_row: Sequence[int]) -> Iterator[None]:
    """Let the image encoders of a model receive one row per image, and repeat their outputs for its other rows.

    An encoder whose batch is not one image per row, such as one of patches or tiles, is left as it is.

    Args:
        encoders: the modules that encode images.
        image_of_row: number of the image of each row, (R,).
    """
    images = list(dict.fromkeys(image_of_row))
    if len(images) == len(image_of_row):
        yield
        return
    first = torch.tensor([image_of_row.index(image) for image in images])
    repeated = torch.tensor([images.index(image) for image in image_of_row])
    reduced: set[nn.Module] = set()

    def reduce(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        found = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if {value.shape[:1] for value in found} != {(len(image_of_row),)}:
            return args, kwargs
        reduced.add(module)
        return _map(args, lambda value: value[first]), _map(kwargs, lambda value: value[first])

    def repeat(module: nn.Module, args: Any, output: Any) -> Any:
        if module not in reduced:
            return output
        reduced.remove(module)
        return _map(output, lambda value: value[repeated])

    with ExitStack() as stack:
        for encoder in encoders:
            stack.callback(encoder.register_forward_pre_hook(reduce, with_kwargs=True).remove)
            stack.callback(encoder.register_forward_hook(repeat).remove)
        yield


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a value with each of its tensors changed, in tuples, dictionaries and outputs of transformers."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        changed = {name: _map(each, change) for name, each in value.items()}
        return changed if type(value) is dict else type(value)(**changed)
    if isinstance(value, tuple):
        return tuple(_map(each, change) for each in value)
    return value
