"""A captioner's networks as two ONNX graphs: what is computed once an image, and one step of the decoder.

Batch, beam and whatever else grows from word to word are free in them; everything else is fixed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from seesay.errors import ConfigError
from seesay.export.layers import for_graph
from seesay.models.captioning import CaptionModel
from seesay.models.protocol import Decoder, DecoderState
from seesay.onnx_runtime.graphs import ATTENTION, IMAGE, LOGITS, NEXT, PIXELS, ROW, TOKENS

_IMAGES, _ROWS, _WORDS = 3, 2, 2  # of the example; a size of 1 would be taken for one that never changes

Shape = dict[int, Any]


class EncoderGraph(nn.Module):
    """Pixels to the decoder's state before the start token.

    Args:
        model: the captioner, with an encoder.
        rounded: features go through float16, as they did in the store that the decoder was trained on.
    """

    def __init__(self, model: CaptionModel, rounded: bool) -> None:
        super().__init__()
        self.model = model
        self.rounded = rounded
        self.train(False)

    def state(self, pixels: Tensor) -> DecoderState:
        """Returns the state of uint8 pixels (B, height, width, 3), one row an image."""
        features = self.model.encode(pixels)
        return self.model.search.init_state(self.model.project(features.half() if self.rounded else features), None)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Returns the tensors of that state, those of the images first."""
        state = self.state(pixels)
        return (*state.per_image.values(), *state.per_row.values())


class DecoderGraph(nn.Module):
    """One word further.

    Args:
        decoder: a `Decoder`.
        images: names of the tensors of the images.
        rows: names of the tensors of the hypotheses.
    """

    def __init__(self, decoder: nn.Module, images: Sequence[str], rows: Sequence[str]) -> None:
        super().__init__()
        self.decoder = decoder
        self.images, self.rows = list(images), list(rows)
        self.train(False)

    def forward(self, tokens: Tensor, images: tuple[Tensor, ...], rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Returns logits (B, K, V), attention (B, K, N) if there is any, and the next tensors of the hypotheses."""
        state = DecoderState(dict(zip(self.images, images, strict=True)), dict(zip(self.rows, rows, strict=True)))
        output = cast("Decoder", self.decoder).step(tokens, state)
        maps = () if output.attention is None else (output.attention,)
        return (output.logits, *maps, *(output.state.per_row[name] for name in self.rows))


@torch.no_grad()
def write_encoder(graph: EncoderGraph, image_size: int, path: Path) -> DecoderState:
    """Writes the graph of what is computed once an image; returns the state of an example.

    Raises:
        ConfigError: the network has parts that ONNX does not know.
    """
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (_IMAGES, image_size, image_size, 3), generator=random, dtype=torch.uint8)
    state = graph.state(pixels)
    names = [IMAGE + name for name in state.per_image] + [ROW + name for name in state.per_row]
    encoder = graph.model.encoder
    assert encoder is not None, "an export looks at images"
    encoder.runs_through = True
    try:
        _write(graph, (pixels,), {"pixels": {0: torch.export.Dim.DYNAMIC}}, ([PIXELS], names), path)
    finally:
        encoder.runs_through = False
    return state


@torch.no_grad()
def write_decoder(decoder: nn.Module, first: DecoderState, path: Path) -> None:
    """Writes the graph of one step.

    Args:
        decoder: it.
        first: an example of the state before the start token.
        path: where to.

    Raises:
        ConfigError: the decoder has parts that ONNX does not know.
    """
    decoder = for_graph(decoder)
    tokens = torch.full((_IMAGES, _ROWS), 4)
    state = first.pick(torch.zeros((_IMAGES, _ROWS), dtype=torch.int64))
    stepper = cast("Decoder", decoder)
    for _ in range(_WORDS):
        before, output = state, stepper.step(tokens, state)
        state = output.state
    free = torch.export.Dim.DYNAMIC
    grows = tuple(_free_sizes(before.per_row[name], state.per_row[name]) for name in state.per_row)
    shapes = {"tokens": {0: free, 1: free}, "images": tuple({0: free} for _ in state.per_image), "rows": grows}
    arguments = (tokens, tuple(state.per_image.values()), tuple(state.per_row.values()))
    maps = [] if output.attention is None else [ATTENTION]
    given = [TOKENS, *(IMAGE + name for name in state.per_image), *(ROW + name for name in state.per_row)]
    names = (given, [LOGITS, *maps, *(NEXT + name for name in state.per_row)])
    _write(DecoderGraph(decoder, list(state.per_image), list(state.per_row)), arguments, shapes, names, path)


def _free_sizes(before: Tensor, after: Tensor) -> Shape:
    """Returns which sizes of a tensor of the hypotheses are free: batch, beam, and those that a step changes."""
    grown = [place for place, (old, new) in enumerate(zip(before.shape, after.shape, strict=True)) if old != new]
    return dict.fromkeys({0, 1, *grown}, torch.export.Dim.DYNAMIC)


def _write(
    module: nn.Module,
    arguments: tuple[Any, ...],
    shapes: dict[str, Any],
    names: tuple[list[str], list[str]],
    path: Path,
) -> None:
    try:
        program = torch.onnx.export(
            module,
            arguments,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=names[0],
            output_names=names[1],
            verbose=False,
        )
    except Exception as error:
        cause = " ".join(str(error.__cause__ or error).split())[:200]
        raise ConfigError(f"the {path.stem} of this run cannot be written as ONNX: {cause}") from error
    assert program is not None
    program.save(str(path), external_data=False)
