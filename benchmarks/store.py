"""Training from the feature store against the same steps on features already in memory.

python benchmarks/store.py [--store features/NAME.safetensors --data data/flickr8k] [--quick]

Both sides run the same batches through the same model in turn, store first in one round and last in the next, and
the medians of the rounds are compared. Without a store, random features of Flickr8k's shape and captions of its
lengths stand in.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from bench.material import VOCABULARY, KeptFeatures, made_up_examples, random_features, read_examples, read_features
from bench.measuring import alternate, median_ratio, print_result, show_table
from seesay.config import resolve_config
from seesay.data.batches import CaptionBatches, Example, FeatureReader
from seesay.features import FeatureStore
from seesay.features.store import create_store
from seesay.models.captioning import CaptionModel, build_model
from seesay.training.objectives import cross_entropy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="under 45 s, nothing from outside")
    arguments = parser.parse_args()
    steps, rounds = (8, 3) if arguments.quick else (arguments.steps, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        store, examples = given(arguments) if arguments.store else synthetic(Path(folder), 60 * steps // 5)
        examples = examples[: steps * 13]
        model = build_model(resolve_config("attention-gru").model, VOCABULARY, store.feature_size)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        ids = [example.id for example in examples]
        sides = {"store": store, "memory": KeptFeatures(ids, read_features(store, ids))}

        def rate(side: FeatureReader) -> float:
            return captions_per_second(CaptionBatches(examples, side, None, 64), model, optimizer)

        rates = alternate({name: lambda side=side: rate(side) for name, side in sides.items()}, rounds)  # type: ignore[misc]
    ratio = median_ratio(rates["store"], rates["memory"])
    show_table(
        ("features from", "captions/s, median", "of memory's"),
        [
            ("store", f"{statistics.median(rates['store']):.0f}", f"{ratio:.3f}"),
            ("memory", f"{statistics.median(rates['memory']):.0f}", "1"),
        ],
    )
    print_result("store", ratio=ratio, captions_per_second=rates)


def captions_per_second(batches: CaptionBatches, model: CaptionModel, optimizer: torch.optim.Optimizer) -> float:
    """Returns the rate over one epoch of batches, in float32."""
    captions, started = 0, time.perf_counter()
    for batch in batches:
        assert batch.features is not None
        optimizer.zero_grad()
        logits = model(batch.features, batch.memory_mask, batch.captions)
        cross_entropy(logits, batch.captions.targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        captions += batch.captions.rows
    return captions / (time.perf_counter() - started)


def given(arguments: argparse.Namespace) -> tuple[FeatureStore, list[Example]]:
    """Returns the named store and the training pictures of the named data."""
    return FeatureStore(arguments.store), read_examples(arguments.data, VOCABULARY)[0]


def synthetic(folder: Path, images: int) -> tuple[FeatureStore, list[Example]]:
    """Returns a store of random features, 64x1280, and made-up captions."""
    examples = made_up_examples(images)
    create_store(folder / "store.safetensors", [each.id for each in examples], 64, 1280, (8, 8), {"imported": "random"})
    with FeatureStore(folder / "store.safetensors", writable=True) as store:
        store.write(list(range(images)), random_features(images, 64, 1280))
    return FeatureStore(folder / "store.safetensors"), examples


if __name__ == "__main__":
    main()
