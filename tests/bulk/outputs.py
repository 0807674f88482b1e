"""Captions without a model, and readers of outputs."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from seesay.captioners.caption import Caption


def caption(text: str, *others: str, score: float = -1.5) -> Caption:
    """Return a caption with a text and alternatives."""
    words = tuple(text.split())
    log_probs = tuple(-0.25 for _ in words)
    return Caption(text, words, log_probs, -0.125, score, True, alternatives=tuple(map(caption, others)))


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines, all of which must be complete."""
    content = path.read_bytes().decode()
    assert content.endswith("\n") or not content
    return [json.loads(line) for line in content.split("\n")[:-1]]


def parts(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the parts of a folder, in order."""
    return [row for part in sorted(folder.glob("*.parquet")) for row in pq.read_table(part).to_pylist()]
