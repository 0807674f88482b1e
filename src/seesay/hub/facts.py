"""What a run's files say about it: metadata, configuration and scores, for the model card."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seesay.checkpoint import CONFIG_FILE, INFO_FILE, is_run
from seesay.config import Config, resolve_config
from seesay.errors import CheckpointError

_WEIGHTS = ("model.safetensors", "adapter/adapter_model.safetensors", "model/*.safetensors")
_DATA_SOURCE = "hf:"


@dataclass(frozen=True)
class SplitScores:
    """The scores of a run on one split, as `seesay evaluate` wrote them.

    Attributes:
        split: name of the split.
        images: number of scored images.
        references: number of references per image, or their range.
        rows: name, value and 95 % interval (low, high) of each score, all times 100; None: no interval.
        signature: everything the numbers depend on.
        diagnosis: the most serious defect of the captions; empty: none.
    """

    split: str
    images: int
    references: str
    rows: tuple[tuple[str, float, tuple[float, float] | None], ...]
    signature: str
    diagnosis: str


@dataclass(frozen=True)
class RunFacts:
    """A finished run, read from its files without loading its weights.

    Attributes:
        folder: the run folder.
        info: content of `captioner.json`.
        config: the configuration.
        weights: the files of weights.
        scores: the evaluations in the run folder, by split.
    """

    folder: Path
    info: dict[str, Any]
    config: Config
    weights: tuple[Path, ...]
    scores: tuple[SplitScores, ...]

    @property
    def data(self) -> str:
        """Name of the training data, without its path."""
        name = name_only(str(self.info.get("data") or ""))
        return "unnamed data" if name in ("", ".", "..") else name

    @property
    def pretrained(self) -> dict[str, Any]:
        """The pretrained model that was fine-tuned: model, revision, family, lora; empty for other runs."""
        return dict(self.info.get("pretrained") or {})

    @property
    def parameters(self) -> int:
        """Number of parameters in the files of weights, frozen ones of a base model not included."""
        from safetensors import safe_open

        total = 0
        for path in self.weights:
            with safe_open(path, framework="np") as file:
                shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (not a mapping)
            for shape in shapes:
                size = 1
                for length in shape:
                    size *= length
                total += size
        return total


def read_facts(run: str | Path) -> RunFacts:
    """Return the facts of a finished run.

    Raises:
        CheckpointError: not a run, an unfinished or damaged one, or one without weights.
    """
    folder = Path(run)
    if not is_run(folder):
        raise CheckpointError(f"{folder} is not a run folder: it has no {INFO_FILE}; train one with: seesay train DATA")
    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        progress = dict(info.get("progress") or {})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / INFO_FILE} is damaged: {error}") from error
    if not progress.get("finished"):
        raise CheckpointError(
            f"{folder} is not finished ({progress.get('epochs', 0)} epochs); finish it with seesay train DATA "
            f"--out {folder} --resume, then push it"
        )
    weights = tuple(path for pattern in _WEIGHTS for path in sorted(folder.glob(pattern)))
    if not weights:
        raise CheckpointError(f"{folder} has no weights ({', '.join(_WEIGHTS)}); train it again")
    return RunFacts(folder, info, resolve_config(file=folder / CONFIG_FILE), weights, _read_scores(folder))


def _read_scores(folder: Path) -> tuple[SplitScores, ...]:
    """Return the evaluations of a run; other files of the name are ignored."""
    found = []
    for path in sorted(folder.glob("predictions/*/scores.json")):
        try:
            content = json.loads(path.read_bytes())
            intervals = content["intervals_95"]
            rows = []
            for name, value in content["scores"].items():
                low, high = intervals.get(name, (None, None))
                span = None if low is None else (100 * float(low), 100 * float(high))
                rows.append((str(name), 100 * float(value), span))
            found.append(
                SplitScores(
                    str(content["split"]),
                    int(content["images"]),
                    str(content["references"]),
                    tuple(rows),
                    str(content["signature"]),
                    str(content["diagnosis"]),
                )
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not written by `seesay evaluate`
            continue
    return tuple(found)


def name_only(path: str) -> str:
    """Return the last part of a path of any system; a data set of the hub (`hf:NAME`) unchanged."""
    return path if path.startswith(_DATA_SOURCE) else re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def is_local_path(text: str) -> bool:
    """Return whether a text is an absolute path of some system, or an existing file or folder here."""
    return text.startswith(("/", "~", "\\\\")) or bool(re.match(r"[A-Za-z]:[\\/]", text)) or os.path.exists(text)  # noqa: PTH110


def public_name(model: str) -> str:
    """Return the name of a model of the hub unchanged, and the last part of a local path."""
    return name_only(model) if is_local_path(model) else model
