"""Times training steps on a GPU: with CUDA graphs and without, at several batch sizes, and an epoch the size of COCO.

Run `python benchmarks/gpu.py`. Captions have Flickr8k's lengths, features are random, of InceptionV3's shape (64 x
2048) and on the host, as they are in training. The roofline is the step's necessary arithmetic (docs/performance.md)
at the best rates that the device shows. Prints tables, then one line of JSON.
"""

import argparse
import statistics
from functools import partial
from typing import Any

import torch

from bench.contestants import Entry, Precision
from bench.floor import MachineRates, finish, floor_of
from bench.material import GRID, KeptFeatures, TrainingData, made_up_examples, made_up_tokenizer, random_features
from bench.measuring import alternate, median_ratio, print_result, seconds, show_table
from bench.our_training import OurSteps, our_module
from seesay.devices import choose_device

COCO_IMAGES = 82_783
"""Training images of COCO 2014, with five captions each (a few have six or seven)."""
_DIFFERENT = 4_096  # feature maps, which images share: 1 GB of them is more than any cache holds


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a little of it, without the epoch of COCO's size")
    parser.add_argument("--device", default=choose_device(), help="the best there is")
    parser.add_argument("--preset", default="attention-gru")
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 1024], help="captions a batch")
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--images", type=int, default=1_024, help="with five captions each, in an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--coco-batch", type=int, default=1024, help="captions a batch of the epoch of COCO's size")
    options = parser.parse_args()
    if options.quick:
        options.images, options.rounds = min(options.images, 39), 1
        options.batches, options.precisions = [64], ["float32"]
    material = make_material(options.images)
    rows: list[dict[str, Any]] = []
    for precision in options.precisions:
        for captions in options.batches:
            found = measure(options, material, precision, captions)
            show_table(("", "captions/s", "ms a step", "of roofline", "times"), [cells(row) for row in found])
            rows += found
    coco = {} if options.quick else coco_epoch(options)
    if coco:
        print(f"\n{coco['captions']:,} captions of {COCO_IMAGES:,} images: {coco['seconds']:.1f} s an epoch")
    print()
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device
    print_result("gpu", gpu=name, preset=options.preset, rows=rows, coco=coco)


def make_material(images: int) -> TrainingData:
    """Returns images of which many may share their features."""
    examples = made_up_examples(images)
    features = random_features(min(images, _DIFFERENT), *GRID)
    return TrainingData(examples, KeptFeatures([example.id for example in examples], features), made_up_tokenizer())


def steps_of(
    options: argparse.Namespace,
    material: TrainingData,
    precision: Precision,
    captions: int,
    graphs: bool,
) -> OurSteps:
    """Returns our steps, a preset's with so many captions a batch."""
    entry = Entry("ours", options.preset, precision, 1, 0, 0, None, None, options.images)
    more = {"device": options.device, "batch_captions": captions, "cuda_graphs": graphs}
    return OurSteps(our_module(entry, material, **more), precision == "bfloat16")


def measure(
    options: argparse.Namespace, material: TrainingData, precision: Precision, captions: int
) -> list[dict[str, Any]]:
    """Returns a row without graphs and one with them."""
    ways = {graphs: steps_of(options, material, precision, captions, graphs) for graphs in (False, True)}

    def taken(graphs: bool) -> float:
        def epoch() -> None:
            ways[graphs].epoch(order=0)  # the shapes, whose graphs the first of them captures, are always the same
            finish(options.device)

        return seconds(epoch)

    asked = {str(graphs): partial(taken, graphs) for graphs in ways}
    times = alternate(asked, options.rounds, warm_up=2)
    works = ways[True].works
    rates = MachineRates(works[0].products, ways[True].dtype, options.device)
    matrix = rates.matrix()
    floor = floor_of(works, matrix, rates.tanh())
    return [
        {
            "precision": precision,
            "batch": captions,
            "graphs": ways[graphs].module.steps is not None,
            "captions_per_s": material.captions / statistics.median(times[str(graphs)]),
            "step_ms": 1e3 * statistics.median(times[str(graphs)]) / len(works),
            "of_roofline": floor.seconds / statistics.median(times[str(graphs)]),
            "times": median_ratio(times["False"], times[str(graphs)]),
            "matrix_tflops": 2e-12 * matrix,
        }
        for graphs in ways
    ]


def coco_epoch(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the time of an epoch as large as COCO's, in bfloat16 and graphs, all of whose shapes the first met."""
    material = make_material(COCO_IMAGES)
    steps = steps_of(options, material, "bfloat16", options.coco_batch, graphs=True)

    def epoch() -> None:
        steps.epoch(order=0)
        finish(options.device)

    first, second = seconds(epoch), seconds(epoch)
    return {"captions": material.captions, "first_seconds": first, "seconds": second, "batch": options.coco_batch}


def cells(row: dict[str, Any]) -> list[str]:
    """Returns a row of the table."""
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
