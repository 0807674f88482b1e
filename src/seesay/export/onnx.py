"""`export_onnx`: write a run as two ONNX graphs, with everything else that inference needs."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from seesay.captioners.onnx.graphs import Graphs
from seesay.captioners.onnx.manifest import (
    DECODER_FILE,
    ENCODER_FILE,
    MANIFEST_FILE,
    README_FILE,
    REQUIREMENTS,
    TOKENIZER_FILE,
    Manifest,
)
from seesay.captioners.trained import TrainedCaptioner
from seesay.errors import ConfigError, MissingDependencyError, SeesayError
from seesay.export.folder import atomic_folder, check_target
from seesay.export.graphs import EncoderGraph, write_decoder, write_encoder
from seesay.export.quantise import calibration_pixels, quantise_encoder
from seesay.files import write_atomically
from seesay.models.encoders import Encoder
from seesay.onnx_sessions import load_onnxruntime
from seesay.tokenizer import START_ID

log = logging.getLogger("seesay")

_MAX_DIFFERENCE = 0.05  # nats; rounding gives about 0.0001, and 0.001 with features rounded to float16
_README = """This folder contains an image captioner: decoder {decoder}, encoder {encoder}, exported from the run
{source}.

It needs no torch. To install seesay and only the libraries that captioning with this folder needs:

    pip install --no-deps seesay
    pip install {requirements}

Usage:

    seesay caption --model {folder} photo.jpg

    from seesay.captioners.onnx import OnnxCaptioner
    print(OnnxCaptioner.load("{folder}").caption("photo.jpg").text)

encoder.onnx    inputs: pixels uint8 (B, {size}, {size}, 3), RGB; outputs: the decoder's constant inputs per image
                (image.*) and its initial state (row.*); {precision}
decoder.onnx    inputs: tokens int64 (B, K), image.*, row.*; outputs: logits (B, K, V), attention (B, K, N) if
                available, and the next state (next.*, fed back as row.*); the first token is <start>
tokenizer.json  vocabulary and cleaning rules, in the format of the tokenizers library
export.json     preprocessing, decoding options, names of encoder, decoder and run
"""


@dataclass(frozen=True)
class ExportReport:
    """Result of an export.

    Attributes:
        folder: the written folder.
        encoder_bytes: size of the encoder's graph.
        decoder_bytes: size of the decoder's graph.
        difference: largest difference of a first token's log-probability from the run's, in nats, on noise images.
    """

    folder: Path
    encoder_bytes: int
    decoder_bytes: int
    difference: float


def export_onnx(run: str | Path, out: str | Path | None = None, calibration: Sequence[str] = ()) -> ExportReport:
    """Export a run to a folder for `seesay.captioners.onnx`.

    Args:
        run: the run folder.
        out: the folder to write; None = `onnx` or `onnx-int8` in the run folder. An earlier export is replaced.
        calibration: representative images to calibrate the 8-bit activations of the encoder; empty = keep the encoder
            in float32.

    Raises:
        CheckpointError: `run` is not a run or is damaged.
        ConfigError: the run has no encoder, or operations that ONNX does not support.
        DataError: `out` is something else.
        ImageError: a calibration image cannot be read.
        MissingDependencyError: onnx, onnxscript or onnxruntime is not installed.
        SeesayError: the folder cannot be written, or the graphs' scores differ from the run's.
    """
    _require_libraries()
    source = Path(run)
    target = Path(out) if out is not None else source / ("onnx-int8" if calibration else "onnx")
    check_target(target, [source, *calibration])
    captioner = TrainedCaptioner.load(source, "cpu")
    encoder = captioner.model.encoder
    if encoder is None:
        raise ConfigError(
            f"{source} was trained on imported or joined features and has no encoder, which an export needs; train on "
            "features of one encoder that seesay extracts"
        )
    if captioner.model.retrieved is not None:
        raise ConfigError(
            f"{source} was trained with model.retrieve, so that each image needs a search in the index of training "
            "images, which an ONNX graph cannot do; train without --retrieve to export"
        )
    graph = EncoderGraph(captioner.model, captioner.config.encoder.encoder_training == "cached")
    with atomic_folder(target) as part:
        log.info("exporting the encoder %s", encoder.config.encoder)
        first = write_encoder(graph, encoder.preprocessing.size, part / ENCODER_FILE)
        log.info("exporting the decoder %s", captioner.config.model.decoder)
        write_decoder(captioner.model.decoder, first, part / DECODER_FILE)
        log.info("comparing the scores of the graphs with those of the run")
        difference = _check(graph, encoder, part)
        if calibration:
            log.info("quantising the encoder to 8 bits")
            pixels = calibration_pixels(calibration, encoder.preprocessing)
            quantise_encoder(part / ENCODER_FILE, pixels)
            difference = _difference(graph, encoder, part)
        _write_texts(part, target, captioner, encoder, "int8" if calibration else "float32")
        encoder_bytes, decoder_bytes = ((part / name).stat().st_size for name in (ENCODER_FILE, DECODER_FILE))
    return ExportReport(target, encoder_bytes, decoder_bytes, difference)


def _require_libraries() -> None:
    """Check that all libraries are installed before any work."""
    load_onnxruntime()
    for library in ("onnx", "onnxscript"):
        try:
            __import__(library)
        except ImportError as error:
            raise MissingDependencyError(library, "onnx", "seesay export") from error


def _write_texts(part: Path, target: Path, captioner: TrainedCaptioner, encoder: Encoder, precision: str) -> None:
    run = captioner.run
    manifest = Manifest(
        vocabulary_size=run.info.vocabulary_size,
        grid=run.info.grid,
        max_length=run.info.max_length,
        preprocessing=encoder.preprocessing,
        decoding=run.config.decoding.model_dump(),
        decoder=run.config.model.decoder,
        encoder=run.info.features,
        encoder_precision=precision,
        source=run.folder.resolve().name,
    )
    captioner.tokenizer.save(part / TOKENIZER_FILE)
    write_atomically(part / MANIFEST_FILE, manifest.to_json().encode())
    readme = _README.format(
        decoder=manifest.decoder,
        encoder=encoder.config.encoder,
        source=manifest.source,
        folder=target,
        requirements=" ".join(REQUIREMENTS),
        size=encoder.preprocessing.size,
        precision="convolutions and matrix products in 8 bits" if precision == "int8" else "float32",
    )
    write_atomically(part / README_FILE, readme.encode())


def _check(graph: EncoderGraph, encoder: Encoder, folder: Path) -> float:
    """Return `_difference`; raise if it exceeds rounding."""
    difference = _difference(graph, encoder, folder)
    if not difference <= _MAX_DIFFERENCE:
        raise SeesayError(
            f"the scores of the ONNX graphs differ from the run's (by up to {difference:.2g} nats); "
            "this decoder or encoder cannot be exported with this version of torch"
        )
    return difference


@torch.no_grad()
def _difference(graph: EncoderGraph, encoder: Encoder, folder: Path) -> float:
    """Return the largest difference of the first token's log-probabilities on two noise images, in nats."""
    size = encoder.preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    tokens = np.full((2, 1), START_ID)
    state = graph.state(torch.from_numpy(pixels))
    expected = graph.model.step_decoder.step(torch.from_numpy(tokens), state).logits.log_softmax(-1)
    graphs = Graphs(folder)
    actual = torch.from_numpy(graphs.step(tokens, graphs.encode(pixels)).logits).log_softmax(-1)
    return float((actual - expected).abs().max())
