"""Configuration and results of a contestant of the training benchmark."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Precision = Literal["float32", "bfloat16"]
Round = dict[str, float]


@dataclass(frozen=True)
class Entry:
    """Configuration of a contestant.

    Attributes:
        system: ours, or the tutorial in torch or tensorflow.
        preset: preset of ours.
        precision: of the arithmetic; always float32 in TensorFlow, as in the tutorial.
        threads: number of threads.
        padding: number of tokens to which the tutorial pads or truncates every caption; 0 = longest of the data.
        steps: steps per round of the tutorial.
        data: data set; None = synthetic captions.
        store: its feature store; None = random features.
        images: number of images.
    """

    system: Literal["ours", "torch", "tensorflow"]
    preset: str
    precision: Precision
    threads: int
    padding: int
    steps: int
    data: Path | None
    store: Path | None
    images: int
