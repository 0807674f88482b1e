"""Captions without a model, and outputs read back."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from seesay.captioner import Caption


def caption(text: str, *others: str, score: float = -1.5) -> Caption:
    """Returns a caption of a text, with alternatives."""
    words = tuple(text.split())
    log_probs = tuple(-0.25 for _ in words)
    return Caption(text, words, log_probs, -0.125, score, True, alternatives=tuple(map(caption, others)))


def lines(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a file of JSON lines, each of which must be whole."""
    content = path.read_bytes().decode()
    assert content.endswith("\n") or not content
    return [json.loads(line) for line in content.split("\n")[:-1]]


def parts(folder: Path) -> list[dict[str, Any]]:
    """Returns the rows of the parts of a folder, in their order."""
    return [row for part in sorted(folder.glob("*.parquet")) for row in pq.read_table(part).to_pylist()]
