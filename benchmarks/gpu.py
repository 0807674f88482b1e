"""Training steps on a GPU: with and without CUDA graphs, at several batch sizes, and an epoch of COCO's size.

Run `python benchmarks/gpu.py`. Captions have Flickr8k's lengths; features are random, of InceptionV3's shape (64 x
2048), and in host memory, as in training. The roofline is the step's necessary arithmetic (docs/performance.md) at the
device's best measured rates. Prints tables, then one line of JSON.
"""

import argparse
import statistics
from functools import partial
from typing import Any

import torch

from bench.entry import Entry, Precision
from bench.floor import MachineRates, finish, floor_of
from bench.measuring import alternate, median_ratio, print_result, seconds, show_table
from bench.our_training import OurSteps, our_module
from bench.training_data import (
    GRID,
    InMemoryFeatures,
    TrainingData,
    random_features,
    synthetic_examples,
    synthetic_tokenizer,
)
from seesay.devices import choose_device

COCO_IMAGES = 82_783
"""Training images of COCO 2014, with five captions each (a few have six or seven)."""
_NUM_FEATURES = 4_096  # distinct feature maps, reused cyclically: 1 GB, more than any cache


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure less, without the epoch of COCO's size")
    parser.add_argument("--device", default=choose_device(), help="default: the best available")
    parser.add_argument("--preset", default="attention-gru")
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 1024], help="captions per batch")
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--images", type=int, default=1_024, help="images per epoch, with five captions each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--coco-batch", type=int, default=1024, help="captions per batch in the epoch of COCO's size")
    options = parser.parse_args()
    if options.quick:
        options.images, options.rounds = min(options.images, 39), 1
        options.batches, options.precisions = [64], ["float32"]
    data = make_training_data(options.images)
    rows: list[dict[str, Any]] = []
    for precision in options.precisions:
        for captions in options.batches:
            measured = measure(options, data, precision, captions)
            show_table(("", "captions/s", "ms per step", "of roofline", "times"), [cells(row) for row in measured])
            rows += measured
    coco = {} if options.quick else coco_epoch(options)
    if coco:
        print(f"\n{coco['captions']:,} captions of {COCO_IMAGES:,} images: {coco['seconds']:.1f} s per epoch")
    print()
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device
    print_result("gpu", gpu=name, preset=options.preset, rows=rows, coco=coco)


def make_training_data(images: int) -> TrainingData:
    """Return synthetic data; images may share features."""
    examples = synthetic_examples(images)
    features = random_features(min(images, _NUM_FEATURES), *GRID)
    return TrainingData(
        examples, InMemoryFeatures([example.id for example in examples], features), synthetic_tokenizer()
    )


def steps_of(
    options: argparse.Namespace,
    data: TrainingData,
    precision: Precision,
    captions: int,
    graphs: bool,
) -> OurSteps:
    """Return a preset's training steps with `captions` captions per batch."""
    entry = Entry("ours", options.preset, precision, 1, 0, 0, None, None, options.images)
    overrides = {"device": options.device, "batch_captions": captions, "cuda_graphs": graphs}
    return OurSteps(our_module(entry, data, **overrides), precision == "bfloat16")


def measure(
    options: argparse.Namespace, data: TrainingData, precision: Precision, captions: int
) -> list[dict[str, Any]]:
    """Return a row without graphs and one with them."""
    variants = {graphs: steps_of(options, data, precision, captions, graphs) for graphs in (False, True)}

    def taken(graphs: bool) -> float:
        def epoch() -> None:
            variants[graphs].epoch(order=0)  # always the same shapes, whose graphs the first epoch captures
            finish(options.device)

        return seconds(epoch)

    epochs = {str(graphs): partial(taken, graphs) for graphs in variants}
    times = alternate(epochs, options.rounds, warm_up=2)
    works = variants[True].works
    rates = MachineRates(works[0].products, variants[True].dtype, options.device)
    matrix = rates.matrix()
    floor = floor_of(works, matrix, rates.tanh())
    return [
        {
            "precision": precision,
            "batch": captions,
            "graphs": variants[graphs].module.steps is not None,
            "captions_per_s": data.captions / statistics.median(times[str(graphs)]),
            "step_ms": 1e3 * statistics.median(times[str(graphs)]) / len(works),
            "of_roofline": floor.seconds / statistics.median(times[str(graphs)]),
            "times": median_ratio(times["False"], times[str(graphs)]),
            "matrix_tflops": 2e-12 * matrix,
        }
        for graphs in variants
    ]


def coco_epoch(options: argparse.Namespace) -> dict[str, Any]:
    """Return the time of an epoch of COCO's size in bfloat16 with graphs; the first epoch captures them."""
    data = make_training_data(COCO_IMAGES)
    steps = steps_of(options, data, "bfloat16", options.coco_batch, graphs=True)

    def epoch() -> None:
        steps.epoch(order=0)
        finish(options.device)

    first, second = seconds(epoch), seconds(epoch)
    return {"captions": data.captions, "first_seconds": first, "seconds": second, "batch": options.coco_batch}


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row of the table."""
    name = f"{row['precision']}, {row['batch']} captions" + (", graphs" if row["graphs"] else "")
    return [
        name,
        f"{row['captions_per_s']:.0f}",
        f"{row['step_ms']:.2f}",
        f"{100 * row['of_roofline']:.1f} %",
        f"{row['times']:.2f}",
    ]


if __name__ == "__main__":
    main()
