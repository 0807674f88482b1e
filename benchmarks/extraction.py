"""Times feature extraction, from image files to a finished store, against the encoder alone and a plain loop.

Run `python benchmarks/extraction.py [--data data/flickr8k/images --coco data/coco/images]`; without folders JPEGs of
the same sizes are drawn. `--encoder NAME --encoder-weights FILE --image-size N` takes another encoder than the two
usual ones (with random weights: their values make no difference). `--quick` does a little of it. Prints a table, then
one line of JSON.

The encoder alone is its network on normalised tensors that are ready, 32 at a time, as torch runs it; beside it stands
the form that seesay gives it. The plain loop opens an image with PIL, resizes it, shows it to the former and saves a
.npy file, one after the other.
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
    fused_network,
    image_files,
    network_rate,
    plain_network,
    random_encoder,
    ready_batches,
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

HEADS = ("", "files", "KB", "ours/s", "encoder/s", "of encoder", "fused/s", "of fused", "plain/s", "times plain")


def main() -> None:
    """Runs the benchmark."""
    keep_freed_memory()  # as the command line does
    options = parse()
    rows = []
    with tempfile.TemporaryDirectory() as folder, busy_neighbours(options.neighbours):
        scratch = Path(folder)
        for config in encoder_configs(options.encoder, options.encoder_weights, options.image_size)[: options.encoders]:
            encoder = random_encoder(config)
            for kind, given in ((SQUARE, options.data), (COCO, options.coco)):
                files = image_files(given, kind, options.images, scratch)
                rows.append(measure(encoder, kind, files, options, scratch))
    show_table(HEADS, [cells(row) for row in rows])
    print_result("extraction", neighbours=options.neighbours, rounds=options.rounds, rows=rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 45 s: one encoder, few images")
    parser.add_argument("--data", type=Path, help="folder of images like Flickr8k's squares")
    parser.add_argument("--coco", type=Path, help="folder of images like COCO's")
    parser.add_argument("--encoder", default="", help="timm name; empty = the two usual ones")
    parser.add_argument("--encoder-weights", default="", help="safetensors file; empty = random weights")
    parser.add_argument("--image-size", type=int, default=0, help="0 = what the weights were made for")
    parser.add_argument("--images", type=int, default=256, help="of each kind; a multiple of 32 fills all batches")
    parser.add_argument("--few", type=int, default=32, help="of them for the plain loop")
    parser.add_argument("--workers", type=int, default=2, help="threads that open images")
    parser.add_argument("--rounds", type=int, default=5)
    add_neighbours_option(parser)
    options = parser.parse_args()
    options.encoders = None
    if options.quick:
        options.encoders, options.images, options.few, options.rounds = 1, 64, 8, 1
    return options


def measure(
    encoder: Encoder, kind: Kind, files: Sequence[str], options: argparse.Namespace, scratch: Path
) -> dict[str, Any]:
    """Returns the rates of the three ways on some files, alternating."""
    stores: Iterator[Path] = (scratch / f"{number}.safetensors" for number in itertools.count())

    def ours() -> float:
        path = next(stores)
        report = extract_features({file: file for file in files}, encoder, path, workers=options.workers)
        if report.unreadable:
            raise SystemExit(f"an image cannot be read: {report.unreadable[0]}")
        path.unlink()
        return report.rate

    def plain() -> float:
        few = files[: options.few]
        return len(few) / seconds(lambda: plain_loop(encoder, few, scratch))

    ready = ready_batches(encoder, files)
    alone, fused = (network_rate(network(encoder), ready) for network in (plain_network, fused_network))
    rates = alternate({"ours": ours, "encoder": alone, "fused": fused, "plain": plain}, options.rounds)
    return {
        "encoder": encoder.config.encoder,
        "size": encoder.preprocessing.size,
        "kind": kind.name,
        "files": len(files),
        "kilobytes": statistics.mean(Path(file).stat().st_size for file in files) / 1000,
        **{f"{name}_per_s": statistics.median(values) for name, values in rates.items()},
        "of_encoder": median_ratio(rates["ours"], rates["encoder"]),
        "of_fused": median_ratio(rates["ours"], rates["fused"]),
        "times_plain": median_ratio(rates["ours"], rates["plain"]),
    }


@torch.inference_mode()
def plain_loop(encoder: Encoder, files: Sequence[str], folder: Path) -> None:
    """Encodes images one by one, as tutorials do, and saves each one's features as float32."""
    network, rule = plain_network(encoder), encoder.preprocessing
    mean, std = np.array(rule.mean, np.float32), np.array(rule.std, np.float32)
    for number, file in enumerate(files):
        image = Image.open(file).convert("RGB").resize((rule.size, rule.size), Image.Resampling.BILINEAR)
        pixels = (np.asarray(image, np.float32) / 255 - mean) / std
        images = torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())
        np.save(folder / f"{number}.npy", encoder._regions(network(images))[0].numpy())


def cells(row: dict[str, Any]) -> list[str]:
    """Returns a row of the table."""
    return [
        f"{row['encoder']} at {row['size']}, {row['kind']}",
        str(row["files"]),
        f"{row['kilobytes']:.0f}",
        f"{row['ours_per_s']:.1f}",
        f"{row['encoder_per_s']:.1f}",
        f"{row['of_encoder']:.3f}",
        f"{row['fused_per_s']:.1f}",
        f"{row['of_fused']:.3f}",
        f"{row['plain_per_s']:.1f}",
        f"{row['times_plain']:.2f}",
    ]


if __name__ == "__main__":
    main()
