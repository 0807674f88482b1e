"""Quantise the encoder to 8 bits: activation scales are calibrated on images, weights have one scale per channel."""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seesay.bulk import find_images
from seesay.captioners.onnx.graphs import PIXELS
from seesay.images.loading import Preprocessing, load_pixels
from seesay.onnx_sessions import load_onnxruntime

_MAX_IMAGES = 128  # for calibration; scales hardly change beyond a hundred
# Includes the activation functions, so that scales cover their outputs: if the scale of an output that is clipped to
# 0..6 covered the range before clipping, few of the 256 steps would be used.
_OPERATIONS = ("Conv", "MatMul", "Gemm", "Clip", "Relu")
_ENCODER = "model.encoder"
_SCOPES = "pkg.torch.onnx.name_scopes"  # where torch's exporter stores the modules of a node


def calibration_pixels(sources: Sequence[str], preprocessing: Preprocessing) -> list[NDArray[np.uint8]]:
    """Return at most `_MAX_IMAGES` evenly spaced, preprocessed images of the sources.

    Raises:
        DataError: a source contains no images.
        ImageError: an image cannot be read.
    """
    images = find_images(sources).images
    indices = np.unique(np.linspace(0, len(images) - 1, min(_MAX_IMAGES, len(images))).astype(int))
    return [load_pixels(images[index], preprocessing) for index in indices]


def quantise_encoder(path: Path, pixels: Sequence[NDArray[np.uint8]]) -> None:
    """Quantise the encoder in an ONNX graph to 8 bits in place; the operations after the encoder stay in float32.

    Scales are static, in QDQ format. Activations and weights are unsigned: onnxruntime's kernels for unsigned
    activations and signed weights add pairs of products in 16 bits on a CPU without VNNI instructions, which saturates.
    For depthwise convolutions the kernel for signed weights does not saturate, and there is no fast one for unsigned
    weights.

    Args:
        path: the graph.
        pixels: calibration images (size, size, 3).
    """
    import onnx

    load_onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]  # a class of an untyped library
        """Iterates over the images."""

        def __init__(self) -> None:
            self.remaining: Iterator[NDArray[np.uint8]] = iter(pixels)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.remaining, None)
            return None if image is None else {PIXELS: image[None]}

    model = onnx.load(str(path))
    nodes = [node.name for node in model.graph.node if node.op_type in _OPERATIONS and _in_encoder(node)]
    # onnxruntime warns unless its preprocessing, which folds batch norms and constants, is marked as done; torch's
    # exporter has already folded them.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    depthwise = [node.input[1] for node in model.graph.node if node.name in nodes and _is_depthwise(node, model.graph)]
    quantised = path.with_name(f"{path.stem}.int8{path.suffix}")
    quantize_static(
        model,
        str(quantised),
        Images(),
        quant_format=QuantFormat.QDQ,
        nodes_to_quantize=nodes,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QUInt8,
        extra_options={
            "WeightSymmetric": True,  # one zero point for all channels, which the fast kernels require
            "TensorQuantOverrides": {name: [{"axis": 0, "quant_type": QuantType.QInt8}] for name in depthwise},
        },
    )
    quantised.replace(path)


def _is_depthwise(node: Any, graph: Any) -> bool:
    """Return whether a node is a convolution with one input channel per group."""
    groups = next((each.i for each in node.attribute if each.name == "group"), 1)
    if node.op_type != "Conv" or groups == 1:
        return False
    return any(each.name == node.input[1] and each.dims[1] == 1 for each in graph.initializer)


def _in_encoder(node: Any) -> bool:
    """Return whether a node belongs to the encoder."""
    scopes = next((each.value for each in node.metadata_props if each.key == _SCOPES), "[]")
    return any(scope.startswith(_ENCODER) for scope in ast.literal_eval(scopes))
