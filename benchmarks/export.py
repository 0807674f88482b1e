"""Speed of an exported captioner (onnxruntime) compared with the run (torch), one image at a time.

Run `python benchmarks/export.py --run RUN [--export FOLDER] [--data DATA]` for a trained run; the default is random
weights of attention-gru's sizes on EfficientNet-Lite0. `--quick` measures less. Prints a table, then one line of JSON.
FOLDER is the output of `seesay export RUN`; without it the run is exported to a temporary folder.

Both alternate in one process with the same number of threads. Each figure is the median over rounds, each ratio the
median of the ratios within a round. With --data the captions of its test images are compared, greedy and with a beam of
5; the score differences of unequal captions show whether rounding explains them.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from seesay.captioners.base import Captioner
from seesay.captioners.onnx import OnnxCaptioner
from seesay.captioners.trained import TrainedCaptioner
from seesay.checkpoint import RunInfo, save_run, save_weights
from seesay.config import DecodingOptions, resolve_config
from seesay.data.annotations import load_dataset
from seesay.errors import ImageError
from seesay.export import export_onnx
from seesay.export.graphs import EncoderGraph
from seesay.images.loading import resize_image
from seesay.models.captioning import build_model
from seesay.models.encoders import build_encoder
from seesay.tokenizer import Tokenizer

SEARCHES = {"greedy": DecodingOptions(), "beam 5": DecodingOptions(strategy="beam", beam_size=5)}

Work = Callable[[], object]


def random_run(folder: Path) -> Path:
    """Write a run of attention-gru's sizes on EfficientNet-Lite0 with random weights."""
    config = resolve_config(
        "attention-gru",
        overrides={"encoder": "tf_efficientnet_lite0", "encoder_weights": "none", "image_size": 256, "min_count": 1},
    )
    torch.manual_seed(0)
    encoder = build_encoder(config.encoder)
    words = [f"word{number}" for number in range(5000)]
    tokenizer = Tokenizer.build(words, config.text)
    model = build_model(config.model, len(tokenizer), encoder.feature_size, encoder)
    info = RunInfo(len(tokenizer), encoder.feature_size, encoder.grid, 20, encoder.identity, encoder_stored=True)
    save_run(folder, config, info, tokenizer)
    save_weights(folder, model.state_dict())
    return folder


class Parts:
    """The timed work, with torch and with onnxruntime, on one image."""

    def __init__(self, run: TrainedCaptioner, export: OnnxCaptioner, image: Image.Image) -> None:
        self.run, self.export, self.image = run, export, image
        self.pixels = resize_image(image, export.manifest.preprocessing)[None]
        self.graph = EncoderGraph(run.model, run.config.encoder.encoder_training == "cached")
        rows = np.zeros((1, 5), np.int64)
        self.words = np.full((1, 5), 4)
        self.before = self.graph.state(torch.from_numpy(self.pixels)).pick(torch.from_numpy(rows))
        self.state = export.graphs.encode(self.pixels).pick(rows)

    def variants(self) -> dict[str, tuple[Work, Work]]:
        """Return each part with torch and with onnxruntime."""
        step, pixels, words = (
            self.run.model.step_decoder.step,
            torch.from_numpy(self.pixels),
            torch.from_numpy(self.words),
        )
        variants: dict[str, tuple[Work, Work]] = {
            "encoder": (lambda: self.graph.state(pixels), lambda: self.export.graphs.encode(self.pixels)),
            "step of 5": (
                lambda: step(words, self.before),
                lambda: self.export.graphs.step(self.words, self.state),
            ),
        }
        for name, options in SEARCHES.items():
            variants[name] = (
                lambda options=options: self.run.caption(self.image, options, guard=False),  # type: ignore[misc]
                lambda options=options: self.export.caption(self.image, options, guard=False),  # type: ignore[misc]
            )
        return variants


def milliseconds(work: Work, clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return 1000 * (clock() - start)


def compare_speed(parts: Parts, rounds: int, clock: Callable[[], float]) -> dict[str, dict[str, float]]:
    """Return the median times of each part and the median of the ratios within a round."""
    rows = {}
    for name, variants in parts.variants().items():
        times: list[list[float]] = []
        for number in range(rounds + 2):
            both = [milliseconds(work, clock) for work in variants]
            if number > 1:  # the first rounds prepare kernels and memory
                times.append(both)
        torch_time, onnx_time = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(torch_ms / onnx_ms for torch_ms, onnx_ms in times)
        rows[name] = {"torch_ms": round(torch_time, 2), "onnx_ms": round(onnx_time, 2), "times_faster": round(ratio, 2)}
    return rows


def compare_captions(
    run: Captioner, export: Captioner, images: Sequence[str], options: DecodingOptions
) -> dict[str, float]:
    """Return the number of equal captions, and the largest score differences of equal and of unequal ones."""
    captions = (model.caption_each(images, options, guard=False) for model in (run, export))
    pairs = zip(*captions, strict=True)
    equal, unequal = [0.0], [0.0]
    count = 0
    for (_, one), (_, other) in pairs:
        if isinstance(one, ImageError) or isinstance(other, ImageError):
            continue
        count += 1
        (equal if one.text == other.text else unequal).append(abs(one.score - other.score))
    return {
        "images": count,
        "same_captions": len(equal) - 1,
        "largest_score_difference_of_same": round(max(equal), 6),
        "largest_score_difference_of_others": round(max(unequal), 6),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds and images")
    parser.add_argument("--run", type=Path, help="run folder")
    parser.add_argument("--export", type=Path, help="its exported folder")
    parser.add_argument("--data", type=Path, help="data set, whose test images are captioned with both")
    parser.add_argument("--images", type=int, default=0, help="number of test images; 0 = all, or 20 with --quick")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time, for a shared machine")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.run or random_run(Path(folder) / "run")
        exported = options.export or export_onnx(path, Path(folder) / "onnx").folder
        run, export = TrainedCaptioner.load(path, "cpu"), OnnxCaptioner.load(exported, torch.get_num_threads())
        sizes = {each.name: round(each.stat().st_size / 1e6, 2) for each in sorted(exported.glob("*.onnx"))}
    result: dict[str, object] = {
        "benchmark": "export",
        "trained": bool(options.run),
        "encoder": export.manifest.encoder["encoder"],
        "encoder_precision": export.manifest.encoder_precision,
        "decoder": export.manifest.decoder,
        "threads": torch.get_num_threads(),
        "clock": "cpu" if options.cpu_time else "wall",
        "megabytes": sizes,
    }
    noise = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    with torch.inference_mode():
        clock = time.process_time if options.cpu_time else time.perf_counter
        speed = compare_speed(Parts(run, export, Image.fromarray(noise)), 5 if options.quick else 50, clock)
    print(f"{'one image':12}{'torch ms':>10}{'onnx ms':>10}{'ratio':>8}")
    for name, row in speed.items():
        print(f"{name:12}{row['torch_ms']:10.2f}{row['onnx_ms']:10.2f}{row['times_faster']:8.2f}")
    result["speed"] = speed
    if options.data is not None:
        items = load_dataset(options.data, run.config.data).split("test")
        images = [item.image for item in items][: options.images or (20 if options.quick else None)]
        for name, search in SEARCHES.items():
            comparison = compare_captions(run, export, images, search)
            print(f"{name}: {comparison['same_captions']} of {comparison['images']} captions are equal")
            result[name] = comparison
    print(json.dumps(result))


if __name__ == "__main__":
    main()
