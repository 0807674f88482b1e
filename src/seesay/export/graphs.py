"""A captioner as two ONNX graphs: everything computed once per image, and one decoding step.

Batch, beam and sizes that grow with each step are dynamic; all other sizes are constant.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from seesay.captioners.onnx.graphs import ATTENTION, IMAGE, LOGITS, NEXT, PIXELS, ROW, TOKENS
from seesay.errors import ConfigError
from seesay.export.layers import exportable
from seesay.models.captioning import CaptionModel
from seesay.models.protocol import Decoder, DecoderState

_IMAGES, _ROWS, _STEPS = 3, 2, 2  # of the example; the exporter would treat a size of 1 as constant

Shape = dict[int, Any]


class EncoderGraph(nn.Module):
    """Maps pixels to the decoder's state before the start token.

    Args:
        model: the captioner, with an encoder.
        rounded: round features to float16, like the feature store in training.
    """

    def __init__(self, model: CaptionModel, rounded: bool) -> None:
        super().__init__()
        self.model = model
        self.rounded = rounded
        self.train(False)

    def state(self, pixels: Tensor) -> DecoderState:
        """Return the state for uint8 pixels (B, height, width, 3), with one row per image."""
        features = self.model.encode(pixels)
        return self.model.step_decoder.init_state(
            self.model.project(features.half() if self.rounded else features), None
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors of that state, `per_image` first."""
        state = self.state(pixels)
        return (*state.per_image.values(), *state.per_row.values())


class DecoderGraph(nn.Module):
    """One decoding step.

    Args:
        decoder: a `Decoder`.
        images: names of the tensors in `per_image`.
        rows: names of the tensors in `per_row`.
    """

    def __init__(self, decoder: nn.Module, images: Sequence[str], rows: Sequence[str]) -> None:
        super().__init__()
        self.decoder = decoder
        self.images, self.rows = list(images), list(rows)
        self.train(False)

    def forward(self, tokens: Tensor, images: tuple[Tensor, ...], rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return logits (B, K, V), attention (B, K, N) if available, and the next `per_row` tensors."""
        state = DecoderState(dict(zip(self.images, images, strict=True)), dict(zip(self.rows, rows, strict=True)))
        output = cast("Decoder", self.decoder).step(tokens, state)
        maps = () if output.attention is None else (output.attention,)
        return (output.logits, *maps, *(output.state.per_row[name] for name in self.rows))


@torch.no_grad()
def write_encoder(graph: EncoderGraph, image_size: int, path: Path) -> DecoderState:
    """Write the graph of everything computed once per image; return the state of an example.

    Raises:
        ConfigError: the model has operations that ONNX does not support.
    """
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (_IMAGES, image_size, image_size, 3), generator=random, dtype=torch.uint8)
    state = graph.state(pixels)
    names = [IMAGE + name for name in state.per_image] + [ROW + name for name in state.per_row]
    encoder = graph.model.encoder
    assert encoder is not None, "an export needs an encoder"
    encoder.runs_through = True
    try:
        _write(graph, (pixels,), {"pixels": {0: torch.export.Dim.DYNAMIC}}, ([PIXELS], names), path)
    finally:
        encoder.runs_through = False
    return state


@torch.no_grad()
def write_decoder(decoder: nn.Module, first: DecoderState, path: Path) -> None:
    """Write the graph of one decoding step.

    Args:
        decoder: the decoder.
        first: an example of the state before the start token.
        path: output file.

    Raises:
        ConfigError: the decoder has operations that ONNX does not support.
    """
    decoder = exportable(decoder)
    tokens = torch.full((_IMAGES, _ROWS), 4)
    state = first.pick(torch.zeros((_IMAGES, _ROWS), dtype=torch.int64))
    stepper = cast("Decoder", decoder)
    for _ in range(_STEPS):
        before, output = state, stepper.step(tokens, state)
        state = output.state
    dynamic = torch.export.Dim.DYNAMIC
    row_sizes = tuple(_dynamic_sizes(before.per_row[name], state.per_row[name]) for name in state.per_row)
    shapes = {
        "tokens": {0: dynamic, 1: dynamic},
        "images": tuple({0: dynamic} for _ in state.per_image),
        "rows": row_sizes,
    }
    arguments = (tokens, tuple(state.per_image.values()), tuple(state.per_row.values()))
    maps = [] if output.attention is None else [ATTENTION]
    inputs = [TOKENS, *(IMAGE + name for name in state.per_image), *(ROW + name for name in state.per_row)]
    names = (inputs, [LOGITS, *maps, *(NEXT + name for name in state.per_row)])
    _write(DecoderGraph(decoder, list(state.per_image), list(state.per_row)), arguments, shapes, names, path)


def _dynamic_sizes(before: Tensor, after: Tensor) -> Shape:
    """Return the dynamic axes of a `per_row` tensor: batch, beam, and those that a step changes."""
    grown = [axis for axis, (old, new) in enumerate(zip(before.shape, after.shape, strict=True)) if old != new]
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
        raise ConfigError(f"the {path.stem} of this run cannot be exported to ONNX: {cause}") from error
    assert program is not None
    program.save(str(path), external_data=False)
