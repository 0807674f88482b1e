"""The encoder's network in 8 bits: scales of its activations are measured on images, weights have one a channel."""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seesay.bulk import find_images
from seesay.images import Preprocessing, load_pixels
from seesay.onnx_runtime.graphs import PIXELS, load_onnxruntime

_MOST_IMAGES = 128  # to calibrate with; scales hardly move beyond a hundred
# With the activations, so that scales are those of what they leave: clipped to 0..6, a convolution's output keeps few
# of 256 steps if these reach over all that it was before.
_OPERATIONS = ("Conv", "MatMul", "Gemm", "Clip", "Relu")
_ENCODER = "model.encoder"
_SCOPES = "pkg.torch.onnx.name_scopes"  # where torch's exporter notes the modules that a node comes from


def calibration_pixels(sources: Sequence[str], preprocessing: Preprocessing) -> list[NDArray[np.uint8]]:
    """Returns at most `_MOST_IMAGES` of the images that sources name, evenly chosen, as the encoder sees them.

    Raises:
        DataError: a source names nothing.
        ImageError: an image cannot be read.
    """
    images = find_images(sources).images
    places = np.unique(np.linspace(0, len(images) - 1, min(_MOST_IMAGES, len(images))).astype(int))
    return [load_pixels(images[place], preprocessing) for place in places]


def quantise_encoder(path: Path, pixels: Sequence[NDArray[np.uint8]]) -> None:
    """Replaces the graph of an encoder by one whose network computes in 8 bits; what comes after it stays exact.

    Scales are static and go around each operation (QDQ). Activations and weights are unsigned: onnxruntime's kernels
    for unsigned activations and signed weights add pairs of products in 16 bits on a CPU without VNNI instructions,
    which saturates. Depthwise convolutions have a kernel without that fault for signed weights, and none that is fast
    for unsigned ones.

    Args:
        path: the graph.
        pixels: images (size, size, 3) to measure the activations on.
    """
    import onnx

    load_onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]  # a class of an untyped library
        """Gives one image at a time."""

        def __init__(self) -> None:
            self.left: Iterator[NDArray[np.uint8]] = iter(pixels)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.left, None)
            return None if image is None else {PIXELS: image[None]}

    model = onnx.load(str(path))
    nodes = [node.name for node in model.graph.node if node.op_type in _OPERATIONS and _of_encoder(node)]
    # Torch's exporter has folded batch norms and constants, for which another program would have to be run before;
    # without this note onnxruntime warns that it was not.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    depthwise = [node.input[1] for node in model.graph.node if node.name in nodes and _is_depthwise(node, model.graph)]
    made = path.with_name(f"{path.stem}.int8{path.suffix}")
    quantize_static(
        model,
        str(made),
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
    made.replace(path)


def _is_depthwise(node: Any, graph: Any) -> bool:
    """Returns whether a node is a convolution of one input channel per group."""
    groups = next((each.i for each in node.attribute if each.name == "group"), 1)
    if node.op_type != "Conv" or groups == 1:
        return False
    return any(each.name == node.input[1] and each.dims[1] == 1 for each in graph.initializer)


def _of_encoder(node: Any) -> bool:
    """Tells whether a node comes from the encoder's network."""
    scopes = next((each.value for each in node.metadata_props if each.key == _SCOPES), "[]")
    return any(scope.startswith(_ENCODER) for scope in ast.literal_eval(scopes))
