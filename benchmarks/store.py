"""Speed of training from feature stores, in float16 and in 8 bits, compared with features in memory.

python benchmarks/store.py [--store features/NAME.safetensors --data data/flickr8k] [--quick]

All variants run the same batches through the same model, alternating, in reverse order in every other round; the
medians of the rounds are compared, and the time to read one batch. The default is random features of Flickr8k's shape
and captions of its lengths.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.measuring import alternate, median_ratio, print_result, seconds, show_table
from bench.training_data import (
    VOCABULARY,
    InMemoryFeatures,
    random_features,
    read_examples,
    read_features,
    synthetic_examples,
)
from seesay.config import resolve_config
from seesay.data.batches import CaptionBatches, Example
from seesay.data.feature_reader import FeatureReader
from seesay.features import FeatureDtype, FeatureStore
from seesay.features.creation import create_store
from seesay.models.captioning import CaptionModel, build_model
from seesay.training.losses import cross_entropy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="under 45 s, on synthetic data")
    arguments = parser.parse_args()
    steps, rounds = (8, 3) if arguments.quick else (arguments.steps, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        store, examples = real(arguments) if arguments.store else synthetic(Path(folder), 60 * steps // 5)
        examples = examples[: steps * 13]
        model = build_model(resolve_config("attention-gru").model, VOCABULARY, store.feature_size)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        ids = [example.id for example in examples]
        features = read_features(store, ids)
        int8 = write_store(Path(folder) / "int8.safetensors", ids, features, "int8")
        sources: dict[str, FeatureReader] = {
            "store": store,
            "int8 store": int8,
            "memory": InMemoryFeatures(ids, features),
        }

        def rate(source: FeatureReader) -> float:
            return captions_per_second(CaptionBatches(examples, source, None, 64), model, optimizer)

        rates = alternate({name: lambda source=source: rate(source) for name, source in sources.items()}, rounds)  # type: ignore[misc]
        reading = {name: milliseconds_per_batch(source, ids) for name, source in sources.items()}
    ratios = {name: median_ratio(rates[name], rates["memory"]) for name in sources}
    show_table(
        ("features from", "captions/s, median", "relative to memory", "reading, ms per batch"),
        [
            (name, f"{statistics.median(rates[name]):.0f}", f"{ratios[name]:.3f}", f"{reading[name]:.2f}")
            for name in sources
        ],
    )
    print_result("store", ratio=ratios["store"], ratios=ratios, captions_per_second=rates, reading_ms=reading)


def milliseconds_per_batch(source: FeatureReader, ids: Sequence[str]) -> float:
    """Return the median time to read 13 images, about a batch of 64 captions, without the first batch."""
    taken = []
    for begin in range(0, len(ids) - 12, 13):
        batch = ids[begin : begin + 13]
        taken.append(1000 * seconds(lambda batch=batch: source.read(batch)))  # type: ignore[misc]
    return statistics.median(taken[1:] or taken)


def captions_per_second(batches: CaptionBatches, model: CaptionModel, optimizer: torch.optim.Optimizer) -> float:
    """Return the rate over one epoch of batches, in float32."""
    captions, started = 0, time.perf_counter()
    for batch in batches:
        assert batch.features is not None
        optimizer.zero_grad()
        logits = model(batch.features, batch.memory_mask, batch.captions)
        cross_entropy(logits, batch.captions.targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        captions += batch.captions.rows
    return captions / (time.perf_counter() - started)


def real(arguments: argparse.Namespace) -> tuple[FeatureStore, list[Example]]:
    """Return the given store and the training images of the given data."""
    return FeatureStore(arguments.store), read_examples(arguments.data, VOCABULARY)[0]


def synthetic(folder: Path, images: int) -> tuple[FeatureStore, list[Example]]:
    """Return a store of random features, 64x1280, and synthetic captions."""
    examples = synthetic_examples(images)
    ids = [each.id for each in examples]
    return write_store(folder / "store.safetensors", ids, random_features(images, 64, 1280), "float16"), examples


def write_store(path: Path, ids: Sequence[str], features: NDArray[np.float16], dtype: FeatureDtype) -> FeatureStore:
    """Return a new store of features (I, N, F)."""
    create_store(path, ids, features.shape[1], features.shape[2], None, {"imported": "benchmark"}, dtype)
    with FeatureStore(path, writable=True) as store:
        for row in range(len(ids)):  # one at a time: quantising all at once would need several times their memory
            store.write([row], features[row : row + 1])
    return FeatureStore(path)


if __name__ == "__main__":
    main()
