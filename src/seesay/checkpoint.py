"""Run folders: weights, readable metadata, and a load that checks that they agree.

config.yaml         the resolved configuration
captioner.json      shapes, encoder, preprocessing and how training ended
tokenizer.json      the vocabulary and the cleaning rules
model.safetensors   the best weights, the encoder's too where it was trained or came from a file
checkpoints/        last.ckpt (resumable) and the best few
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from seesay.config import Config, resolve_config, save_config
from seesay.errors import CheckpointError, ConfigError
from seesay.files import check_readable, replacing, write_atomically
from seesay.outputs import FolderKind
from seesay.tokenizer import Tokenizer

CONFIG_FILE = "config.yaml"
INFO_FILE = "captioner.json"
TOKENIZER_FILE = "tokenizer.json"
MODEL_FILE = "model.safetensors"
LAST_FILE = "checkpoints/last.ckpt"
_FORMAT = 1
_EVALUATION = ("predictions.jsonl", "per_image.parquet", "scores.json", "report.html")
_EXPORT = ("encoder.onnx", "decoder.onnx", "tokenizer.json", "README.txt", "export.json")

RUN = FolderKind(
    "run",
    (
        CONFIG_FILE,
        TOKENIZER_FILE,
        MODEL_FILE,
        "metrics.csv",
        "curves.png",
        "checkpoints/epoch*.ckpt",
        "checkpoints/epoch*.ckpt.tmp",
        LAST_FILE,
        f"{LAST_FILE}.tmp",
        "tensorboard/events.out.tfevents.*",
        "tensorboard/hparams.yaml",
        *(f"predictions/*/{name}" for name in _EVALUATION),
        *(f"{folder}/{name}" for folder in ("onnx", "onnx-int8") for name in _EXPORT),
        INFO_FILE,
    ),
    signature=(INFO_FILE, b'"seesay": "'),
)
"""A run folder; what an evaluation and an export write there goes with the run."""


@dataclass(frozen=True)
class RunInfo:
    """What a run knows beside its configuration.

    Attributes:
        vocabulary_size: V.
        feature_size: width F of the features it was trained on.
        grid: (rows, columns) of the regions, None where they form no grid.
        max_length: words of the longest training caption.
        features: what made the features (`Encoder.identity`).
        encoder_stored: whether model.safetensors carries the encoder.
        data: the data set it was trained on, as it was named.
        progress: how far training is: finished, epochs, best, stopped_by, seconds.
        source_sizes: widths of the stores that the features are joined of, F in all; empty where they are of one.
        captions: sizes and digests of the training and validation captions; empty where they were not kept.
    """

    vocabulary_size: int
    feature_size: int
    grid: tuple[int, int] | None
    max_length: int
    features: dict[str, Any]
    encoder_stored: bool
    data: str = ""
    progress: dict[str, Any] = field(default_factory=dict)
    source_sizes: list[int] = field(default_factory=list)
    captions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run folder that has been read and checked."""

    folder: Path
    config: Config
    info: RunInfo
    tokenizer: Tokenizer


def save_run(folder: Path, config: Config, info: RunInfo, tokenizer: Tokenizer) -> None:
    """Writes everything but the weights; each file is whole or absent at any moment."""
    folder.mkdir(parents=True, exist_ok=True)
    save_config(config, folder / CONFIG_FILE)
    tokenizer.save(folder / TOKENIZER_FILE)
    save_info(folder, info)


def save_info(folder: Path, info: RunInfo) -> None:
    """Writes `captioner.json` atomically."""
    from seesay import __version__

    content = {"format": _FORMAT, "seesay": __version__, **asdict(info)}
    write_atomically(folder / INFO_FILE, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def update_progress(folder: Path | None, info: RunInfo, **progress: Any) -> RunInfo:
    """Returns `info` with its progress changed, after writing it, unless there is no folder to write to."""
    info = replace(info, progress={**info.progress, **progress})
    if folder is not None:
        save_info(folder, info)
    return info


def save_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes `model.safetensors` atomically.

    Raises:
        CheckpointError: the disk is full or cannot be written.
    """
    path = folder / MODEL_FILE
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with replacing(path, durable=True) as part:
        try:
            safetensors.torch.save_file(tensors, part, metadata={"format": "pt"})
        except (safetensors.SafetensorError, OSError) as error:
            raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> CheckpointError:
    """Returns the error of a file that could not be written."""
    reason = " ".join(str(error).split())
    return CheckpointError(
        f"cannot write {path} ({reason}); make room and run the same command again: it goes on where it stopped"
    )


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """Returns the error of a file that this user may not read."""
    return CheckpointError(f"{path} cannot be read ({error.strerror}); allow this user to read it (chmod a+r)")


def is_run(folder: str | Path) -> bool:
    """Tells whether a folder holds a run."""
    return (Path(folder) / INFO_FILE).is_file()


def load_run(folder: str | Path) -> Run:
    """Returns a run without its weights.

    Raises:
        CheckpointError: no run there, a file missing or damaged, or files of different runs.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"no run folder at {folder}")
    if not is_run(folder):
        raise CheckpointError(f"{folder} is not a run folder: it has no {INFO_FILE}")
    try:
        content = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        if content.pop("format") != _FORMAT:
            raise CheckpointError(f"{folder / INFO_FILE} was written by another version of seesay")
        content.pop("seesay")
        grid = content.pop("grid")
        info = RunInfo(grid=tuple(grid) if grid else None, **content)
    except PermissionError as error:
        raise unreadable(folder / INFO_FILE, error) from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder / INFO_FILE} is damaged: {error}") from error
    try:
        config = resolve_config(file=folder / CONFIG_FILE)
    except ConfigError as error:
        raise CheckpointError(f"the run {folder} cannot be used: {error}") from error
    _require_every_section(folder / CONFIG_FILE)
    tokenizer = Tokenizer.load(folder / TOKENIZER_FILE)
    if len(tokenizer) != info.vocabulary_size:
        raise CheckpointError(
            f"{folder / TOKENIZER_FILE} has {len(tokenizer)} words but the model {info.vocabulary_size}: "
            "they are not of one run"
        )
    return Run(folder, config, info, tokenizer)


def _require_every_section(path: Path) -> None:
    """Refuses a run's configuration that was cut short where what is left is valid YAML by itself.

    Raises:
        CheckpointError: a section is missing, whose settings would silently be the defaults.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    for section in fields(Config):
        if f"{section.name}:" not in lines:
            raise CheckpointError(f"{path} is cut short: it has no section {section.name}")


def read_weights(run: Run) -> dict[str, Tensor]:
    """Returns the tensors of `model.safetensors`.

    Raises:
        CheckpointError: the file is missing or cut short.
    """
    path = run.folder / MODEL_FILE
    if not path.exists():
        raise CheckpointError(
            f"the run {run.folder} has no {MODEL_FILE} yet: its first epoch is not over; go on with seesay train --out"
        )
    try:
        check_readable(path)
        return safetensors.torch.load_file(path)
    except PermissionError as error:
        raise unreadable(path, error) from error
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or cut short: {error}") from error


def load_weights(run: Run, model: torch.nn.Module) -> None:
    """Loads `model.safetensors` into the model, strictly.

    Raises:
        CheckpointError: the file is missing, cut short, or does not fit the model.
    """
    weights = read_weights(run)
    own = model.state_dict()
    wrong = sorted(set(own) ^ set(weights)) or [name for name in own if own[name].shape != weights[name].shape]
    if wrong:
        raise CheckpointError(
            f"{run.folder / MODEL_FILE} does not fit the run's configuration: {len(wrong)} tensors, such as {wrong[0]}"
        )
    model.load_state_dict(weights)
