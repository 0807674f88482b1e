"""The tutorial's side of the training benchmark: its batches, and its step in torch or TensorFlow."""

import itertools
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.entry import Entry, Round
from bench.measuring import seconds
from bench.training_data import VOCABULARY, TrainingData
from bench.tutorial_tensorflow import TrainStep, load_tensorflow, tensorflow_step
from bench.tutorial_torch import TorchTutorial

_BATCH = 64
"""Pairs of an image and a caption."""


def tutorial(entry: Entry, data: TrainingData) -> Callable[[], Round]:
    """Return a function that runs a round: `entry.steps` steps, continuing through the pairs of image and caption.

    Features are float32, like the tutorial's files, and in memory.
    """
    pairs = [(row, caption) for row, example in enumerate(data.examples) for caption in example.tokens]
    random.Random(0).shuffle(pairs)
    stream = itertools.cycle(pairs)
    longest = entry.padding or data.longest
    features = data.features.features.astype(np.float32)
    tensorflow = load_tensorflow(entry.threads) if entry.system == "tensorflow" else None
    steps: list[TrainStep] = []

    def step() -> None:
        batch = list(itertools.islice(stream, _BATCH))
        steps[0](features[[row for row, _ in batch]], _padded([caption for _, caption in batch], longest))

    def work() -> Round:
        if not steps:
            steps.append(tensorflow_step(tensorflow, VOCABULARY) if tensorflow else torch_step(entry, data))
        taken = sum(seconds(step) for _ in range(entry.steps))
        return {"captions": entry.steps * _BATCH, "seconds": taken}

    return work


def _padded(captions: Sequence[Sequence[int]], longest: int) -> NDArray[np.int64]:
    """Return captions (R, T), truncated or padded to T tokens."""
    tokens = np.zeros((len(captions), longest), np.int64)
    for row, caption in zip(tokens, captions, strict=True):
        row[: len(caption)] = caption[:longest]
    return tokens


def torch_step(entry: Entry, data: TrainingData) -> TrainStep:
    """Return the training step of the tutorial in PyTorch."""
    torch.manual_seed(0)
    model = TorchTutorial(data.features.features.shape[2], VOCABULARY)
    optimizer = torch.optim.Adam(model.parameters(), eps=1e-7)

    def step(features: NDArray[np.float32], tokens: NDArray[np.int64]) -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=entry.precision == "bfloat16"):
            loss: Tensor = model(torch.from_numpy(features), torch.from_numpy(tokens))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return step
