"""Time from an image file to its caption with beam 5, per stage, and of a folder of images.

Run `python benchmarks/inference.py [--run RUN] [--images-in FOLDER]`. The default captioners have random weights of
attention-gru's sizes with realistic caption lengths, on two encoders; the default images are generated JPEGs of COCO's
size. `--quick` measures less. Prints tables, then one line of JSON.

The time of an image is compared with that of the encoder's network alone on a resized image, in the same
precision, alternating: in torch, and as the captioner runs it (float32 in ONNX Runtime, bfloat16 by torch's autocast).
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import seesay.captioners.search
import seesay.images.loading
from bench.ending import LENGTH, EndingDecoder
from bench.images import (
    COCO,
    encoder_configs,
    image_files,
    network_rate,
    onnx_network,
    plain_network,
    preprocessed_batches,
    random_encoder,
)
from bench.measuring import (
    add_neighbours_option,
    alternate,
    busy_neighbours,
    median_ratio,
    print_result,
    seconds,
    show_table,
)
from bench.training_data import VOCABULARY, synthetic_tokenizer
from seesay.allocation import keep_freed_memory
from seesay.bulk import Destination, caption_collection
from seesay.captioners.trained import TrainedCaptioner
from seesay.checkpoint import Run, RunInfo
from seesay.config import DecodingOptions, EncoderConfig, resolve_config
from seesay.models.captioning import build_model
from seesay.models.encoders import Encoder
from seesay.models.products import prepack_weights
from seesay.models.protocol import Decoder

BEAM = DecodingOptions(strategy="beam", beam_size=5)
STAGES = ("read and decode", "resize", "encode", "project", "search", "other")


def main() -> None:
    """Run the benchmark."""
    keep_freed_memory()  # as the command line does
    options = parse()
    rows = []
    with tempfile.TemporaryDirectory() as folder, busy_neighbours(options.neighbours):
        files = image_files(options.images_in, COCO, options.images, Path(folder))
        for captioner in captioners(options):
            for precision in ("float32", "bfloat16"):
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                    rows.append({**describe(captioner), "precision": precision, **measure(captioner, files, options)})
    show(rows)
    print_result("inference", neighbours=options.neighbours, run=bool(options.run), beam=BEAM.beam_size, rows=rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 45 s: one encoder, few images")
    parser.add_argument("--run", type=Path, help="run folder; default: random weights")
    parser.add_argument("--images-in", type=Path, help="folder of images")
    parser.add_argument("--encoder", default="", help="timm name of a random encoder; empty = the two default ones")
    parser.add_argument("--image-size", type=int, default=0, help="0 = the encoder's default")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the folder")
    add_neighbours_option(parser)
    options = parser.parse_args()
    options.encoders = None
    if options.quick:
        options.encoders, options.images, options.rounds = 1, 16, 1
    return options


class RandomCaptioner(TrainedCaptioner):
    """A captioner of attention-gru's sizes with random weights and realistic caption lengths."""

    def __init__(self, encoder: Encoder) -> None:
        config = resolve_config("attention-gru")
        model = build_model(config.model, VOCABULARY, encoder.feature_size, encoder).eval()
        prepack_weights(model)  # like loaded weights
        info = RunInfo(VOCABULARY, encoder.feature_size, encoder.grid, LENGTH, encoder.identity, encoder_stored=True)
        super().__init__(Run(Path("random"), config, info, synthetic_tokenizer()), model, torch.device("cpu"))
        size = encoder.preprocessing.size
        with torch.inference_mode():
            noise = torch.randint(0, 256, (16, size, size, 3), dtype=torch.uint8)
            self._ending = EndingDecoder(model.step_decoder, VOCABULARY, model.project(model.encode(noise)))

    @property
    def decoder(self) -> Decoder:
        """The decoder with realistic caption lengths."""
        return self._ending


def captioners(options: argparse.Namespace) -> Iterator[TrainedCaptioner]:
    """Yield the run's captioner, or random ones."""
    if options.run:
        yield TrainedCaptioner.load(options.run, "cpu")
        return
    configs: list[EncoderConfig] = encoder_configs(options.encoder, "", options.image_size)
    for config in configs[: options.encoders]:
        yield RandomCaptioner(random_encoder(config))


def encoder_of(captioner: TrainedCaptioner) -> Encoder:
    encoder = captioner.model.encoder
    if encoder is None:
        raise SystemExit(f"{captioner.run.folder} was trained on imported features and has no encoder")
    return encoder


def describe(captioner: TrainedCaptioner) -> dict[str, Any]:
    encoder = encoder_of(captioner)
    return {"encoder": encoder.config.encoder, "size": encoder.preprocessing.size}


def measure(captioner: TrainedCaptioner, files: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Return a captioner's times of one image and of a folder."""
    return {**one_by_one(captioner, files), **folder_rates(captioner, files, options.rounds)}


def one_by_one(captioner: TrainedCaptioner, files: Sequence[str]) -> dict[str, Any]:
    """Return percentiles of an image's time in ms, its ratio to the network's, and the mean of each stage."""
    encoder = encoder_of(captioner)
    batches = preprocessed_batches(encoder, files, batch=1) * 2
    images = iter([*files, *files])
    spent: dict[str, float] = dict.fromkeys(STAGES, 0.0)
    # Before `stages_timed`, which would count them as a stage of a caption.
    networks = {"network": plain_network(encoder), "onnx": onnx_network(encoder)}

    @torch.inference_mode()
    def alone(name: str, images: Iterator[torch.Tensor]) -> float:
        pixels = next(images)
        return seconds(lambda: networks[name](pixels))

    def caption() -> float:
        image = next(images)
        return seconds(lambda: captioner.caption(image, BEAM, guard=False))

    variants: dict[str, Callable[[], float]] = {
        "image": caption,
        **{name: partial(alone, name, iter(batches)) for name in networks},
    }
    warm_up = min(5, len(files))
    with stages_timed(captioner, spent):
        alternate(variants, 0, warm_up)
        spent.update(dict.fromkeys(STAGES, 0.0))
        taken = alternate(variants, len(files), warm_up=0)
    spent["other"] = sum(taken["image"]) - sum(spent.values())
    milliseconds = {name: 1000 * np.array(values) for name, values in taken.items()}
    return {
        "p50_ms": float(np.percentile(milliseconds["image"], 50)),
        "p95_ms": float(np.percentile(milliseconds["image"], 95)),
        "network_p50_ms": float(np.percentile(milliseconds["network"], 50)),
        "of_network": median_ratio(taken["image"], taken["network"]),
        "onnx_p50_ms": float(np.percentile(milliseconds["onnx"], 50)),
        "of_onnx": median_ratio(taken["image"], taken["onnx"]),
        "stages_ms": {name: 1000 * spent[name] / len(files) for name in STAGES},
    }


@contextmanager
def stages_timed(captioner: TrainedCaptioner, spent: dict[str, float]) -> Iterator[None]:
    """Add up the seconds of each stage of a caption, measured inside its functions."""
    functions = {
        "read and decode": (seesay.images.loading, "_read"),
        "resize": (seesay.images.loading, "resize_image"),
        "encode": (encoder_of(captioner), "forward"),
        "project": (captioner.model, "project"),
        "search": (seesay.captioners.search, "generate"),
    }

    def timed(stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            results: list[Any] = []
            spent[stage] += seconds(lambda: results.append(work(*args, **kwargs)))
            return results[0]

        return wrapped

    with ExitStack() as stack:
        for stage, (owner, name) in functions.items():
            stack.enter_context(patch.object(owner, name, timed(stage, getattr(owner, name))))
        yield


def folder_rates(captioner: TrainedCaptioner, files: Sequence[str], rounds: int) -> dict[str, float]:
    """Return the images per second from a folder to a file of captions, absolute and relative to the network alone."""
    encoder = encoder_of(captioner)

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            destination = Destination(Path(folder) / "captions.jsonl")
            taken = seconds(lambda: caption_collection(captioner, files, destination, BEAM, guard=False))
        return len(files) / taken

    rates = alternate(
        {"ours": ours, "network": network_rate(plain_network(encoder), preprocessed_batches(encoder, files))}, rounds
    )
    return {
        "folder_per_s": statistics.median(rates["ours"]),
        "network_per_s": statistics.median(rates["network"]),
        "folder_of_network": median_ratio(rates["ours"], rates["network"]),
    }


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the tables."""
    names = [f"{row['encoder']} at {row['size']}, {row['precision']}" for row in rows]
    heads = ("one image", "p50 ms", "p95 ms", "network ms", "times", "ONNX ms", "times", "folder/s", "of network")
    one = ("p50_ms", "p95_ms", "network_p50_ms", "of_network", "onnx_p50_ms", "of_onnx")
    figures = (*one, "folder_per_s", "folder_of_network")
    pairs = list(zip(names, rows, strict=True))
    show_table(heads, [[name, *(f"{row[figure]:.2f}" for figure in figures)] for name, row in pairs])
    print()
    show_table(
        ("mean ms in", *STAGES),
        [[name, *(f"{row['stages_ms'][stage]:.2f}" for stage in STAGES)] for name, row in pairs],
    )


if __name__ == "__main__":
    main()
