"""Speed of feature extraction, from image files to a finished store, compared with the encoder alone and a plain loop.

Run `python benchmarks/extraction.py [--data data/flickr8k/images --coco data/coco/images]`; without folders JPEGs of
the same sizes are generated. `--encoder NAME --encoder-weights FILE --image-size N` selects another encoder instead of
the two default ones (which have random weights; these do not affect the speed). `--quick` measures less. Prints a
table, then one line of JSON.

The encoder alone runs on resized images in batches of 32: in torch, and in ONNX Runtime, as in the extraction. The
plain loop opens an image with PIL, resizes it, runs torch's network and saves a .npy file, one image after the other.
"""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.images import (
    COCO,
    SQUARE,
    Kind,
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
from seesay.allocation import keep_freed_memory
from seesay.features import extract_features
from seesay.models.encoders import Encoder

HEADS = ("", "files", "KB", "ours/s", "encoder/s", "of encoder", "ONNX/s", "of ONNX", "plain/s", "times plain")


def main() -> None:
    """Run the benchmark."""
    keep_freed_memory()  # as the command line does
    options = parse()
    rows = []
    with tempfile.TemporaryDirectory() as folder, busy_neighbours(options.neighbours):
        scratch = Path(folder)
        for config in encoder_configs(options.encoder, options.encoder_weights, options.image_size)[: options.encoders]:
            encoder = random_encoder(config)
            for kind, images in ((SQUARE, options.data), (COCO, options.coco)):
                files = image_files(images, kind, options.images, scratch)
                rows.append(measure(encoder, kind, files, options, scratch))
    show_table(HEADS, [cells(row) for row in rows])
    print_result("extraction", neighbours=options.neighbours, rounds=options.rounds, rows=rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 45 s: one encoder, few images")
    parser.add_argument("--data", type=Path, help="folder of images like Flickr8k's squares")
    parser.add_argument("--coco", type=Path, help="folder of images like COCO's")
    parser.add_argument("--encoder", default="", help="timm name; empty = the two default ones")
    parser.add_argument("--encoder-weights", default="", help="safetensors file; empty = random weights")
    parser.add_argument("--image-size", type=int, default=0, help="0 = the default of the weights")
    parser.add_argument(
        "--images", type=int, default=256, help="images of each kind; a multiple of 32 fills all batches"
    )
    parser.add_argument("--plain-images", type=int, default=32, help="images for the plain loop")
    parser.add_argument("--workers", type=int, default=2, help="threads that read images")
    parser.add_argument("--rounds", type=int, default=5)
    add_neighbours_option(parser)
    options = parser.parse_args()
    options.encoders = None
    if options.quick:
        options.encoders, options.images, options.plain_images, options.rounds = 1, 64, 8, 1
    return options


def measure(
    encoder: Encoder, kind: Kind, files: Sequence[str], options: argparse.Namespace, scratch: Path
) -> dict[str, Any]:
    """Return the rates of all variants on some files, alternating."""
    stores: Iterator[Path] = (scratch / f"{number}.safetensors" for number in itertools.count())

    def ours() -> float:
        path = next(stores)
        report = extract_features({file: file for file in files}, encoder, path, workers=options.workers)
        if report.unreadable:
            raise SystemExit(f"an image cannot be read: {report.unreadable[0]}")
        path.unlink()
        return report.rate

    def plain() -> float:
        chosen = files[: options.plain_images]
        return len(chosen) / seconds(lambda: plain_loop(encoder, chosen, scratch))

    batches = preprocessed_batches(encoder, files)
    alone, onnx = (network_rate(network(encoder), batches) for network in (plain_network, onnx_network))
    rates = alternate({"ours": ours, "encoder": alone, "onnx": onnx, "plain": plain}, options.rounds)
    return {
        "encoder": encoder.config.encoder,
        "size": encoder.preprocessing.size,
        "kind": kind.name,
        "files": len(files),
        "kilobytes": statistics.mean(Path(file).stat().st_size for file in files) / 1000,
        **{f"{name}_per_s": statistics.median(values) for name, values in rates.items()},
        "of_encoder": median_ratio(rates["ours"], rates["encoder"]),
        "of_onnx": median_ratio(rates["ours"], rates["onnx"]),
        "times_plain": median_ratio(rates["ours"], rates["plain"]),
    }


@torch.inference_mode()
def plain_loop(encoder: Encoder, files: Sequence[str], folder: Path) -> None:
    """Encode images one by one, like tutorials, and save the features of each as float32."""
    size = (encoder.preprocessing.size, encoder.preprocessing.size)
    network = plain_network(encoder)
    for number, file in enumerate(files):
        image = Image.open(file).convert("RGB").resize(size, Image.Resampling.BILINEAR)
        np.save(folder / f"{number}.npy", network(torch.from_numpy(np.array(image)[None]))[0].numpy())


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row of the table."""
    return [
        f"{row['encoder']} at {row['size']}, {row['kind']}",
        str(row["files"]),
        f"{row['kilobytes']:.0f}",
        f"{row['ours_per_s']:.1f}",
        f"{row['encoder_per_s']:.1f}",
        f"{row['of_encoder']:.3f}",
        f"{row['onnx_per_s']:.1f}",
        f"{row['of_onnx']:.3f}",
        f"{row['plain_per_s']:.1f}",
        f"{row['times_plain']:.2f}",
    ]


if __name__ == "__main__":
    main()
