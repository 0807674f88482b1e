"""`export_onnx`: a run as a folder of two ONNX graphs with everything an image needs beside them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from seesay.captioner import TrainedCaptioner
from seesay.errors import ConfigError, MissingDependencyError, SeesayError
from seesay.export.folder import check_free, whole_folder
from seesay.export.graphs import EncoderGraph, write_decoder, write_encoder
from seesay.export.quantise import calibration_pixels, quantise_encoder
from seesay.files import write_atomically
from seesay.models.encoders import Encoder
from seesay.onnx_runtime.graphs import Graphs, load_onnxruntime
from seesay.onnx_runtime.manifest import (
    DECODER_FILE,
    ENCODER_FILE,
    MANIFEST_FILE,
    README_FILE,
    TOKENIZER_FILE,
    Manifest,
)
from seesay.tokenizer import START_ID

_LARGEST_DIFFERENCE = 0.05  # nats; rounding gives about 0.0001, and 0.001 where features go through float16
_README = """This folder holds an image captioner: {decoder} on {encoder}, of the run {source}.

It needs seesay, numpy, pillow, pyyaml, tokenizers and onnxruntime, for the command line cyclopts and rich too, but no
torch (docs/export.md tells how to install that):

    seesay caption --model {folder} photo.jpg

    from seesay.onnx_runtime import OnnxCaptioner
    print(OnnxCaptioner.load("{folder}").caption("photo.jpg").text)

encoder.onnx    pixels uint8 (B, {size}, {size}, 3), red first, to what the decoder keeps of an image (image.*) and
                to its first state (row.*); {precision}
decoder.onnx    tokens int64 (B, K) and these to logits (B, K, V), attention (B, K, N) if it has any, and the next
                state (next.*, fed back as row.*); the first token is <start>
tokenizer.json  the vocabulary and the cleaning rules, as the tokenizers library reads them
export.json     preprocessing, decoding options, where it all comes from
"""


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        folder: where it is.
        encoder_bytes: size of the encoder's graph.
        decoder_bytes: size of the decoder's graph.
        difference: largest difference of a first word's log-probability from the run's, in nats, on images of
            noise.
    """

    folder: Path
    encoder_bytes: int
    decoder_bytes: int
    difference: float


def export_onnx(run: str | Path, out: str | Path | None = None, calibration: Sequence[str] = ()) -> ExportReport:
    """Returns what was written of a run as a folder for `seesay.onnx_runtime`.

    Args:
        run: the run folder.
        out: the folder to write; None = `onnx`, or `onnx-int8`, in the run's. An earlier export there is replaced.
        calibration: images like those to be captioned, by which the encoder's activations are scaled to 8 bits;
            none = the encoder stays in float32.

    Raises:
        CheckpointError: no run there, or a damaged one.
        ConfigError: the run has no encoder of its own, or parts that ONNX does not know.
        DataError: something else is at `out`.
        ImageError: an image to calibrate with cannot be read.
        MissingDependencyError: onnx, onnxscript or onnxruntime is not installed.
        SeesayError: the folder cannot be written, or the graphs do not give what the run gives.
    """
    _require_libraries()
    source = Path(run)
    target = Path(out) if out is not None else source / ("onnx-int8" if calibration else "onnx")
    check_free(target, [source, *calibration])
    captioner = TrainedCaptioner.load(source, "cpu")
    encoder = captioner.model.encoder
    if encoder is None:
        raise ConfigError(
            f"{source} was trained on imported or joined features and has no encoder of its own; an export must look "
            "at images: train on features of one encoder that seesay extracts"
        )
    graph = EncoderGraph(captioner.model, captioner.config.encoder.encoder_training == "cached")
    with whole_folder(target) as part:
        first = write_encoder(graph, encoder.preprocessing.size, part / ENCODER_FILE)
        write_decoder(captioner.model.decoder, first, part / DECODER_FILE)
        difference = _check(graph, encoder, part)
        if calibration:
            pixels = calibration_pixels(calibration, encoder.preprocessing)
            quantise_encoder(part / ENCODER_FILE, pixels)
            difference = _difference(graph, encoder, part)
        _write_texts(part, target, captioner, encoder, "int8" if calibration else "float32")
        encoder_bytes, decoder_bytes = ((part / name).stat().st_size for name in (ENCODER_FILE, DECODER_FILE))
    return ExportReport(target, encoder_bytes, decoder_bytes, difference)


def _require_libraries() -> None:
    """Refuses to begin without what is needed in the end."""
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
        decoding=dataclasses.asdict(run.config.decoding),
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
        size=encoder.preprocessing.size,
        precision="convolutions and matrices of its network in 8 bits" if precision == "int8" else "float32",
    )
    write_atomically(part / README_FILE, readme.encode())


def _check(graph: EncoderGraph, encoder: Encoder, folder: Path) -> float:
    """Returns `_difference`, which must be no more than rounding."""
    difference = _difference(graph, encoder, folder)
    if not difference <= _LARGEST_DIFFERENCE:
        raise SeesayError(
            f"the ONNX graphs give other scores than the run (by up to {difference:.2g} nats); "
            "this decoder or encoder cannot be exported with this version of torch"
        )
    return difference


@torch.no_grad()
def _difference(graph: EncoderGraph, encoder: Encoder, folder: Path) -> float:
    """Returns by how much the first word's log-probabilities of two images of noise differ at most."""
    size = encoder.preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    tokens = np.full((2, 1), START_ID)
    state = graph.state(torch.from_numpy(pixels))
    wanted = graph.model.search.step(torch.from_numpy(tokens), state).logits.log_softmax(-1)
    graphs = Graphs(folder)
    found = torch.from_numpy(graphs.step(tokens, graphs.encode(pixels)).logits).log_softmax(-1)
    return float((found - wanted).abs().max())
