"""Frozen encoders in ONNX Runtime, which runs image networks on a CPU faster than torch does.

The graph of an encoder is written once and kept in the user's cache folder.
"""

import hashlib
import io
import json
import logging
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from seesay.errors import SeesayError
from seesay.files import cache_folder, write_atomically
from seesay.models.networks import weights_digest
from seesay.onnx_sessions import open_session

log = logging.getLogger("seesay")

TOLERANCE = 1e-3
"""Largest difference from torch's features of a noise image, relative to the largest feature; rounding gives 1e-5."""

_FORMAT = 1  # of the graphs: counted up when they are written in another way, so that old files are not read
_OPSET = 17  # the first with layer normalisation as one operator
_PIXELS = "pixels"
_EXAMPLES = 2  # images that a graph is traced with; it is checked with one, which tells whether the batch is free
_lock = threading.Lock()  # tracing is global in torch, and one encoder per process is exported once


class EncoderParts(NamedTuple):
    """An encoder in torch.

    Attributes:
        network: Holds the weights.
        encode: Returns features (B, N, F) of uint8 pixels (B, height, width, 3).
        identity: What else decides the features: layer, pooling, preprocessing.
    """

    network: nn.Module
    encode: Callable[[Tensor], Tensor]
    identity: Mapping[str, Any]


class OnnxEncoder:
    """The ONNX Runtime session of an encoder whose weights do not change, opened by the first call.

    Copies and pickles start without a session.
    """

    def __init__(self) -> None:
        self._session: Any = None
        self._is_open = False

    def __reduce__(self) -> tuple[type["OnnxEncoder"], tuple[()]]:
        """Leave out the session, which cannot be copied."""
        return OnnxEncoder, ()

    def close(self) -> None:
        """Drop the session, because the weights are going to change."""
        self._session, self._is_open = None, False

    def __call__(self, pixels: Tensor, encoder: EncoderParts) -> Tensor | None:
        """Return the features (B, N, F) of uint8 pixels (B, size, size, 3) on the CPU.

        Args:
            pixels: The images, which all calls give in one size.
            encoder: The encoder in torch, the same at each call.

        Returns:
            The features; None where the encoder cannot be exported or its graph's features are not those of torch.
        """
        with _lock:
            if not self._is_open:
                self._session, self._is_open = _open_session(encoder, pixels.shape[1]), True
        return None if self._session is None else _run(self._session, pixels)


def _open_session(encoder: EncoderParts, size: int) -> Any:
    """Return the session of an encoder; None and one line in the log where there is none that is equal to torch."""
    name = encoder.identity["encoder"]
    try:
        with torch.inference_mode(False), torch.no_grad():
            return _checked_session(_Graph(encoder).eval(), _cache_file(encoder), size, name)
    except Exception as error:  # noqa: BLE001 - whatever the exporter cannot follow, torch still runs
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        log.warning("the encoder %s runs in torch, which is slower than ONNX Runtime: %s", name, reason)
        return None


class _Graph(nn.Module):
    """The module that is exported."""

    def __init__(self, encoder: EncoderParts) -> None:
        super().__init__()
        self.network = encoder.network
        self.encode = encoder.encode

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encode(pixels)


def _checked_session(graph: _Graph, file: Path | None, size: int, name: str) -> Any:
    """Return a session whose features of a noise image are those of torch.

    Raises:
        SeesayError: A new graph gives other features.
        Exception: The graph cannot be exported.
    """
    random = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (1 + _EXAMPLES, size, size, 3), generator=random, dtype=torch.uint8)
    wanted = graph(noise[:1])
    with suppress(Exception):  # no such file, or a damaged one
        kept = _open(cast("Path", file).read_bytes())
        if _difference(_run(kept, noise[:1]), wanted) <= TOLERANCE:
            return kept
    log.info("exporting the encoder %s to ONNX Runtime%s", name, f", once, into {file}" if file else "")
    written = _export(graph, noise[1:])
    session = _open(written)
    difference = _difference(_run(session, noise[:1]), wanted)
    if not difference <= TOLERANCE:
        raise SeesayError(f"its features differ by {difference:.2g} of the largest")
    if file is not None:
        with suppress(SeesayError):  # a folder that cannot be written: the next process exports again
            write_atomically(file, written)
    return session


def _open(graph: bytes) -> Any:
    # A thread of onnxruntime that spins after its work slows the torch code between two calls: the decoder's steps
    # on one image, the conversion of features in an extraction.
    return open_session(graph, torch.get_num_threads(), spinning=False)


def _run(session: Any, pixels: Tensor) -> Tensor:
    return torch.from_numpy(session.run(None, {_PIXELS: pixels.contiguous().numpy()})[0])


def _difference(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference relative to the largest wanted feature; infinity for other shapes."""
    if found.shape != wanted.shape:
        return float("inf")
    return float((found - wanted).abs().max() / wanted.abs().max())


def _export(graph: _Graph, pixels: Tensor) -> bytes:
    """Return the ONNX file of a graph.

    By the exporter that traces: the one on `torch.export` takes ten to twenty times as long (15 s of CPU time for
    EfficientNet-Lite0 with torch 2.14, instead of 1 s) and needs onnxscript.
    """
    stream, batch = io.BytesIO(), {0: "batch"}
    with warnings.catch_warnings():
        # Of the exporter's age, and of sizes that become constants: that the graph is right is checked.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            (pixels,),
            cast("Any", stream),
            dynamo=False,
            opset_version=_OPSET,
            input_names=[_PIXELS],
            output_names=["features"],
            dynamic_axes={_PIXELS: batch, "features": batch},
        )
    return stream.getvalue()


def _cache_file(encoder: EncoderParts) -> Path | None:
    """Return where the graph of an encoder is kept; None where there is no cache folder."""
    # The weights are read: the identity's digest is of those before fine-tuning.
    recipe = {**encoder.identity, "weights": weights_digest(encoder.network), "digest": ""}
    text = json.dumps([_FORMAT, recipe, str(encoder.network)], sort_keys=True)
    try:
        return cache_folder("encoders") / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.onnx"
    except (OSError, RuntimeError):
        return None
