"""Total time from raw images to a captioner of a given quality.

Run `python benchmarks/time_to_quality.py data/flickr8k --encoder-weights weights/tf_efficientnet_lite0.safetensors`.
The clock starts with the process, before any import, and nothing is cached: features are extracted, the captioner is
trained and validated, and the checkpoint is selected on validation. Prints the validation score over time, then the
score on test, then one line of JSON; the exit code is 1 if the goal is missed.

`--preset`, `--encoder`, `--epochs` and any `--set NAME=VALUE` select other settings. `--quick` runs on a few generated
scenes, without a goal.
"""

import argparse
import logging
import re
import tempfile
from pathlib import Path
from typing import Any

import yaml

from bench.measuring import print_result, seconds_since_start, show_table

GOAL_CIDER, GOAL_MINUTES = 48.1, 15.0
"""CIDEr x 100 of pooled features as initial state (mtanti/where-image2), and the time to exceed it."""
_EPOCH_DONE = re.compile(r"epoch (\d+) done .*val CIDEr ([\d.]+)")


class Curve(logging.Handler):
    """Records the time of each epoch's validation from its log line."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.points: list[tuple[int, float, float]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Record a line."""
        line = record.getMessage()
        print(f"{seconds_since_start():7.1f} s  {line}", flush=True)
        if found := _EPOCH_DONE.match(line):
            self.points.append((int(found[1]), seconds_since_start(), float(found[2])))


def main() -> None:
    """Run the benchmark."""
    options = parse()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        result = run(options, Path(folder))
    curve, best = result["curve"], result["best_epoch"]
    print()
    rows = [[f"{epoch}{' selected' * (epoch == best)}", f"{at:.0f}", f"{cider:.1f}"] for epoch, at, cider in curve]
    show_table(("epoch", "seconds", "CIDEr on validation"), rows)
    print(
        f"\nready after {result['ready_s'] / 60:.1f} min, scored after {result['scored_s'] / 60:.1f} min: "
        f"CIDEr {result['test_cider']:.2f} on test; the goal is {GOAL_CIDER} within {GOAL_MINUTES:.0f} min"
    )
    passed = result["test_cider"] > GOAL_CIDER and result["ready_s"] <= 60 * GOAL_MINUTES
    print_result("time_to_quality", quick=options.quick, passed=None if options.quick else passed, **result)
    if not passed and not options.quick:
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="Flickr8k, or another data set with the three splits")
    parser.add_argument("--quick", action="store_true", help="under 45 s, on generated scenes")
    parser.add_argument("--preset", default="attention-gru")
    parser.add_argument("--encoder", default="tf_efficientnet_lite0")
    parser.add_argument("--encoder-weights", default="pretrained", help="pretrained (from the hub), or a file")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=0, help="0 = the preset's")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any setting, repeatable")
    parser.add_argument("--strategy", default="", help="greedy or beam; empty = the preset's")
    parser.add_argument("--scratch", type=Path, help="folder for the features (2 GB) and the run, deleted at the end")
    options = parser.parse_args()
    if options.data is None and not options.quick:
        parser.error("name the data set, or --quick")
    return options


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the overrides of the preset."""
    overrides: dict[str, Any] = {
        "encoder": options.encoder,
        "encoder_weights": options.encoder_weights,
        "image_size": options.image_size,
    }
    if options.quick:  # features of random weights are cached too, so that every timed step runs
        overrides = {"encoder_training": "cached", "epochs": 2, "log_every": 5}
    if options.epochs:
        overrides["epochs"] = options.epochs
    for each in options.set:
        name, equals, value = each.partition("=")
        if not equals:
            raise SystemExit(f"--set {each}: write NAME=VALUE")
        overrides[name] = yaml.safe_load(value)
    return overrides


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the curve, the test score and the times; `folder` must be empty."""
    # Imported here, so that the help is fast and the imports are timed.
    from seesay.allocation import keep_freed_memory
    from seesay.config import resolve_config
    from seesay.data.synthetic.scenes import make_scenes
    from seesay.decoding import DecodingOptions
    from seesay.errors import SeesayError
    from seesay.evaluation import evaluate
    from seesay.training.train import train

    keep_freed_memory()  # as the command line does
    curve = Curve()
    log = logging.getLogger("seesay")
    log.addHandler(curve)
    log.setLevel(logging.INFO)
    data = options.data
    try:
        config = resolve_config("scenes" if options.quick else options.preset, overrides=settings(options))
        if options.quick:
            data = folder / "scenes"
            make_scenes(data, 200, 20, 20, size=config.encoder.image_size)
        trained = train(config, data, folder / "run", features=folder / "features")
        ready = seconds_since_start()
        decoding = DecodingOptions(strategy=options.strategy) if options.strategy else None
        evaluation = evaluate(
            folder / "run", data, split="test", options=decoding, metrics=("CIDEr",), features=folder / "features"
        )
    except SeesayError as error:
        raise SystemExit(str(error)) from error
    finally:
        log.removeHandler(curve)
    if len(curve.points) != trained.epochs:
        raise SystemExit(f"{trained.epochs} epochs were trained, but the log contains {len(curve.points)}")
    return {
        "config": {"preset": "scenes" if options.quick else options.preset, **settings(options)},
        "ready_s": ready,
        "scored_s": seconds_since_start(),
        "training_s": trained.seconds,
        "best_epoch": trained.best_epoch,
        "test_cider": 100 * evaluation.scores.corpus["CIDEr"],
        "curve": curve.points,
    }


if __name__ == "__main__":
    main()
