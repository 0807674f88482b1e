"""Speed and memory of the aliases of encoders with random weights, and of attention over grids of their sizes.

Run `python benchmarks/encoders.py [ALIAS ...] [--images N] [--rounds N]`, or with `--grids` for attention. Encoders and
grids are measured in processes of their own with one thread. Times are CPU times, so that other work on the machine
disturbs them less. Prints a table, then one line of JSON.

An encoder runs on batches of N images in torch and in ONNX Runtime, alternating with EfficientNet-Lite0 at 256 px in
ONNX Runtime: `times Lite0` is how many images of Lite0 take the time of one. Memory is the peak growth of a process
from before the encoder is built: in torch, and in ONNX Runtime with a graph that an earlier process exported.

A grid is the input of training steps of `attention-gru`: 13 images with 5 captions of 12 words, F = 768.
"""

import argparse
import logging
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from statistics import median

import torch
from torch import Tensor

from bench.images import onnx_network, plain_network, random_encoder
from bench.measuring import alternate, median_ratio, peak_memory, print_result, show_table
from seesay.config import EncoderConfig, resolve_config
from seesay.config.encoder_aliases import encoder_aliases
from seesay.models.captioning import build_model
from seesay.models.encoders import Encoder
from seesay.models.packing import pack_captions
from seesay.training.losses import cross_entropy

GRIDS = (7, 14, 16, 24, 27, 37)
WIDTH, VOCABULARY = 768, 3000
ENCODER_HEADS = ("alias", "torch images/s", "ONNX images/s", "ONNX/torch", "times Lite0", "torch MB", "ONNX MB")
GRID_HEADS = ("grid", "seconds per step", "times 7x7", "MB")

Row = dict[str, float]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("aliases", nargs="*", default=list(encoder_aliases()))
    parser.add_argument("--images", type=int, default=2, help="images per batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--grids", action="store_true", help="measure attention over grids instead")
    options = parser.parse_args()
    if options.grids:
        steps = {f"{side}x{side}": alone(grid_step, side, options.rounds) for side in GRIDS}
        smallest = next(iter(steps.values()))["seconds"]
        show_table(
            GRID_HEADS,
            [
                (name, f"{row['seconds']:.2f}", f"{row['seconds'] / smallest:.1f}", f"{row['MB']:.0f}")
                for name, row in steps.items()
            ],
        )
        print_result("encoders-grids", steps=steps)
        return
    rows = {name: measure(name, options.images, options.rounds) for name in options.aliases}
    show_table(ENCODER_HEADS, [(name, *(f"{value:.3g}" for value in row.values())) for name, row in rows.items()])
    print_result("encoders", images=options.images, rounds=options.rounds, encoders=rows)


def measure(alias: str, images: int, rounds: int) -> Row:
    """Return speed and memory of an encoder; the first process exports its graph."""
    first = alone(encoder_speed, alias, images, rounds)
    return first | alone(encoder_memory, alias, images)


def alone(work: Callable[..., Row], *arguments: object) -> Row:
    """Return the result of a function in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def encoder_speed(alias: str, images: int, rounds: int) -> Row:
    """Return the images per second of CPU time in torch and ONNX Runtime, and the memory of torch."""
    torch.set_num_threads(1)
    build("test_resnet")  # imports timm
    memory = peak_memory(lambda: seconds_per_image(build(alias), images, onnx=False)())
    encoder, reference = build(alias), build("tf_efficientnet_lite0", 256)
    variants = {
        "torch": seconds_per_image(encoder, images, onnx=False),
        "ONNX": seconds_per_image(encoder, images, onnx=True),
        "Lite0": seconds_per_image(reference, images, onnx=True),
    }
    taken = alternate(variants, rounds)
    return {
        "torch": 1 / median(taken["torch"]),
        "ONNX": 1 / median(taken["ONNX"]),
        "ONNX/torch": median_ratio(taken["torch"], taken["ONNX"]),
        "times Lite0": median_ratio(taken["ONNX"], taken["Lite0"]),
        "torch MB": memory.growth,
    }


def encoder_memory(alias: str, images: int) -> Row:
    """Return the peak growth in MB while an encoder is built and runs on a batch in ONNX Runtime."""
    torch.set_num_threads(1)
    seconds_per_image(build("test_resnet"), images, onnx=True)()  # imports timm and ONNX Runtime
    return {"ONNX MB": peak_memory(lambda: seconds_per_image(build(alias), images, onnx=True)()).growth}


def build(name: str, size: int = 0) -> Encoder:
    """Return an encoder with random weights."""
    logging.getLogger("seesay").setLevel(logging.ERROR)  # a warning states that the weights are random
    return random_encoder(EncoderConfig(encoder=name, encoder_weights="none", image_size=size))


def seconds_per_image(encoder: Encoder, images: int, onnx: bool) -> Callable[[], float]:
    """Return a function that measures the CPU time per image of a batch."""
    network = onnx_network(encoder) if onnx else plain_network(encoder)
    size = encoder.preprocessing.size
    pixels = torch.randint(0, 256, (images, size, size, 3), dtype=torch.uint8)

    @torch.inference_mode()
    def measured() -> float:
        begun = time.process_time()
        network(pixels)
        return (time.process_time() - begun) / images

    return measured


def grid_step(side: int, rounds: int) -> Row:
    """Return the CPU time and the peak growth of a training step over side * side regions."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model(resolve_config("attention-gru").model, VOCABULARY, WIDTH).train()
    captions = pack_captions(torch.randint(4, VOCABULARY, (13, 5, 13)))
    optimizer = torch.optim.Adam(model.parameters())
    taken: list[float] = []

    def step(features: Tensor) -> None:
        begun = time.process_time()
        cross_entropy(model(features, None, captions), captions.targets, 0.1).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        taken.append(time.process_time() - begun)

    def steps() -> None:
        for _ in range(rounds):
            step(torch.rand(13, side * side, WIDTH))

    step(torch.rand(13, 4, WIDTH))  # allocates the optimizer's state
    memory = peak_memory(steps)
    return {"seconds": median(taken[1:]), "MB": memory.growth}


if __name__ == "__main__":
    main()
