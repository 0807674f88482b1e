"""Frozen encoders in ONNX Runtime, which is faster than torch on a CPU.

The graph of an encoder is exported once and stored in the user's cache folder.
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

_FORMAT = 1  # version of the graphs; increase it when the export changes, so that old files are not read
_OPSET = 17  # the first with layer normalisation as one operator
_PIXELS = "pixels"
_EXAMPLES = 2  # batch size of tracing; the check uses another one, to detect a graph with a constant batch size
_lock = threading.Lock()  # torch's tracing state is global


class EncoderParts(NamedTuple):
    """An encoder in torch.

    Attributes:
        network: The network with the weights.
        encode: Function from uint8 pixels (B, height, width, 3) to features (B, N, F).
        identity: What else determines the features: layer, pooling, preprocessing.
    """

    network: nn.Module
    encode: Callable[[Tensor], Tensor]
    identity: Mapping[str, Any]


class OnnxEncoder:
    """The ONNX Runtime session of an encoder with constant weights, opened by the first call.

    Copies and pickles start without a session.
    """

    def __init__(self) -> None:
        self._session: Any = None
        self._is_open = False

    def __reduce__(self) -> tuple[type["OnnxEncoder"], tuple[()]]:
        """Leave out the session, which cannot be copied."""
        return OnnxEncoder, ()

    def close(self) -> None:
        """Close the session, because the weights may change from now on."""
        self._session, self._is_open = None, False

    def __call__(self, pixels: Tensor, encoder: EncoderParts) -> Tensor | None:
        """Return the features (B, N, F) of uint8 pixels (B, size, size, 3) on the CPU.

        Args:
            pixels: The images, of the same size in all calls.
            encoder: The encoder in torch, the same in all calls.

        Returns:
            The features; None if the encoder cannot be exported or the features of its graph differ from torch's.
        """
        with _lock:
            if not self._is_open:
                self._session, self._is_open = _open_session(encoder, pixels.shape[1]), True
        return None if self._session is None else _run(self._session, pixels)


def _open_session(encoder: EncoderParts, size: int) -> Any:
    """Return the session of an encoder; None, with one line in the log, if it fails or differs from torch."""
    name = encoder.identity["encoder"]
    try:
        with torch.inference_mode(False), torch.no_grad():
            return _checked_session(_Graph(encoder).eval(), _cache_file(encoder), size, name)
    except Exception as error:  # noqa: BLE001 - the exporter raises many kinds of errors; torch is used instead
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        log.warning("the encoder %s runs in torch, which is slower than ONNX Runtime: %s", name, reason)
        return None


class _Graph(nn.Module):
    """The module to export."""

    def __init__(self, encoder: EncoderParts) -> None:
        super().__init__()
        self.network = encoder.network
        self.encode = encoder.encode

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encode(pixels)


def _checked_session(graph: _Graph, file: Path | None, size: int, name: str) -> Any:
    """Return a session whose features of a noise image equal torch's within `TOLERANCE`.

    Raises:
        SeesayError: The features of a new graph differ.
        Exception: The graph cannot be exported.
    """
    random = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (1 + _EXAMPLES, size, size, 3), generator=random, dtype=torch.uint8)
    expected = graph(noise[:1])
    if file is not None and file.is_file():
        with suppress(Exception):  # a damaged file
            stored = _open(file)
            if _difference(_run(stored, noise[:1]), expected) <= TOLERANCE:
                return stored
    log.info("exporting the encoder %s to ONNX Runtime%s", name, f", once, into {file}" if file else "")
    written = _export(graph, noise[1:])
    session = _open(written)
    difference = _difference(_run(session, noise[:1]), expected)
    if not difference <= TOLERANCE:
        raise SeesayError(f"its features differ by {difference:.2g} of the largest")
    if file is not None:
        with suppress(SeesayError):  # the folder cannot be written: the next process exports again
            write_atomically(file, written)
    return session


def _open(graph: Path | bytes) -> Any:
    # Threads of onnxruntime that spin after their work slow down torch between two calls: the decoder's steps for one
    # image, or the conversion of features in an extraction.
    return open_session(graph, torch.get_num_threads(), spinning=False)


def _run(session: Any, pixels: Tensor) -> Tensor:
    return torch.from_numpy(session.run(None, {_PIXELS: pixels.contiguous().numpy()})[0])


def _difference(features: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest expected feature; infinity if the shapes differ."""
    if features.shape != expected.shape:
        return float("inf")
    return float((features - expected).abs().max() / expected.abs().max())


def _export(graph: _Graph, pixels: Tensor) -> bytes:
    """Return the ONNX file of a graph.

    Uses the exporter based on tracing: the one based on `torch.export` takes ten to twenty times as long (15 s of CPU
    time for EfficientNet-Lite0 with torch 2.14, instead of 1 s) and needs onnxscript.
    """
    stream, batch = io.BytesIO(), {0: "batch"}
    with warnings.catch_warnings():
        # Warnings of deprecation, and of sizes that become constants; the graph is checked afterwards.
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
    """Return the file of an encoder's graph; None if there is no cache folder."""
    # Computed from the weights, because the identity has the digest of the weights before fine-tuning.
    recipe = {**encoder.identity, "weights": weights_digest(encoder.network), "digest": ""}
    text = json.dumps([_FORMAT, recipe, str(encoder.network)], sort_keys=True)
    try:
        return cache_folder("encoders") / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.onnx"
    except (OSError, RuntimeError):
        return None
