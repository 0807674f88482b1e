"""Training from the feature store against the same steps on features already in memory.

python benchmarks/store.py [--store features/NAME.safetensors --data data/flickr8k] [--quick]

Both sides run the same batches through the same model in turn, store first in one round and last in the next, and
the medians of the rounds are compared. Without a store, random features of Flickr8k's shape and captions of its
lengths stand in.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from seesay.config import resolve_config
from seesay.data import load_dataset
from seesay.data.batches import CaptionBatches, Example, make_examples
from seesay.features import FeatureStore
from seesay.features.store import create_store
from seesay.models.captioning import CaptionModel, build_model
from seesay.tokenizer import Tokenizer
from seesay.training.objectives import cross_entropy

VOCABULARY = 5000


class InMemory:
    """Features of a store read once and kept."""

    def __init__(self, store: FeatureStore, ids: Sequence[str]) -> None:
        self.features, mask = store.read(ids)
        assert mask is None
        self.rows = {name: row for row, name in enumerate(ids)}

    def read(self, ids: Sequence[str]) -> tuple[NDArray[np.float16], None]:
        """Returns features (B, N, F)."""
        return self.features[[self.rows[name] for name in ids]], None


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
        model = build_model(resolve_config("attention-gru").model, VOCABULARY + 4, store.feature_size)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        kept = InMemory(store, [example.id for example in examples])
        sides: dict[str, FeatureStore | InMemory] = {"store": store, "memory": kept}
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(rounds + 1):
            order = list(sides) if number % 2 == 0 else list(reversed(sides))
            for name in order:
                rate = captions_per_second(CaptionBatches(examples, sides[name], None, 64), model, optimizer)
                if number:  # the first round warms up
                    rates[name].append(rate)
    ratios = [a / b for a, b in zip(rates["store"], rates["memory"], strict=True)]
    table = Table("features from", "captions/s, median", "of memory's")
    table.add_row("store", f"{statistics.median(rates['store']):.0f}", f"{statistics.median(ratios):.3f}")
    table.add_row("memory", f"{statistics.median(rates['memory']):.0f}", "1")
    Console().print(table)
    print(json.dumps({"ratio": statistics.median(ratios), "ratios": ratios, "captions_per_second": rates}))


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
    config = resolve_config("attention-gru")
    train = load_dataset(arguments.data, config.data).split("train")
    tokenizer = Tokenizer.build((text for item in train for text in item.captions), config.text)
    return FeatureStore(arguments.store), make_examples(train.items, tokenizer.encode)


def synthetic(folder: Path, images: int) -> tuple[FeatureStore, list[Example]]:
    """Returns a store of random features, 64x1280, and five captions a picture with lengths like Flickr8k's."""
    random = np.random.default_rng(0)
    ids = [str(number) for number in range(images)]
    create_store(folder / "store.safetensors", ids, 64, 1280, (8, 8), {"imported": "random"})
    with FeatureStore(folder / "store.safetensors", writable=True) as store:
        for row in range(images):
            store.write([row], random.random((1, 64, 1280), np.float32).astype(np.float16))
    lengths = np.clip(np.round(random.lognormal(2.3, 0.35, (images, 5))), 3, 30).astype(int)
    examples = [
        Example(name, "", tuple((1, *random.integers(4, VOCABULARY, length).tolist(), 2) for length in row))
        for name, row in zip(ids, lengths.tolist(), strict=True)
    ]
    return FeatureStore(folder / "store.safetensors"), examples


if __name__ == "__main__":
    main()
