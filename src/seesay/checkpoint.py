"""Run folders: weights, readable metadata, and a check on loading that they agree.

config.yaml         the resolved configuration
captioner.json      shapes, encoder, preprocessing, state of the training
images.json         ids of the training and validation images
tokenizer.json      vocabulary and cleaning rules
model.safetensors   the best weights, with the encoder's if it was trained or loaded from a file
checkpoints/        last.ckpt (to resume) and the best ones
retrieval.*         index of the training images, built by `seesay train --retrieve` or `seesay evaluate --tune-rerank`

A fine-tuned pretrained model has, instead of tokenizer.json and model.safetensors:

adapter/            the adapters of the best validation, as peft writes them (LoRA), or
model/              the whole model with its processor in the format of the Hugging Face hub
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from seesay.config import Config, resolve_config, save_config
from seesay.errors import CheckpointError, ConfigError
from seesay.files import check_readable, replacing, sha256, write_atomically
from seesay.outputs import FolderKind
from seesay.tokenizer import Tokenizer

if TYPE_CHECKING:  # torch is loaded with the weights, since most commands look for runs only
    from torch import Tensor, nn

CONFIG_FILE = "config.yaml"
INFO_FILE = "captioner.json"
TOKENIZER_FILE = "tokenizer.json"
IMAGES_FILE = "images.json"
MODEL_FILE = "model.safetensors"
LAST_FILE = "checkpoints/last.ckpt"
ADAPTER_FOLDER = "adapter"
PRETRAINED_FOLDER = "model"
_FORMAT = 1
_EVALUATION = (
    *("predictions.jsonl", "per_image.parquet", "scores.json", "report.html"),
    *("captions.jsonl", "captions.jsonl.recipe.json", "captions.errors.jsonl"),  # of one that was interrupted
)
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
_EXPORT = ("encoder.onnx", "decoder.onnx", "tokenizer.json", "README.txt", "export.json")

RUN = FolderKind(
    "run",
    (
        CONFIG_FILE,
        TOKENIZER_FILE,
        IMAGES_FILE,
        MODEL_FILE,
        "metrics.csv",
        "curves.png",
        "checkpoints/epoch*.ckpt",
        "checkpoints/epoch*.ckpt.tmp",
        LAST_FILE,
        f"{LAST_FILE}.tmp",
        "tensorboard/events.out.tfevents.*",
        "tensorboard/hparams.yaml",
        "retrieval.json",
        "retrieval.safetensors",
        *(f"predictions/*/{name}" for name in _EVALUATION),
        *(f"{folder}/{name}" for folder in ("onnx", "onnx-int8") for name in _EXPORT),
        *(f"{folder}/{name}" for folder in (ADAPTER_FOLDER, PRETRAINED_FOLDER, "merged") for name in _HUB_FILES),
        INFO_FILE,
    ),
    signature=(INFO_FILE, b'"seesay": "'),
)
"""A run folder, with the files that evaluations and exports write into it."""


@dataclass(frozen=True)
class RunInfo:
    """Metadata of a run beside its configuration.

    Attributes:
        vocabulary_size: V.
        feature_size: feature width F.
        grid: (rows, columns) of the regions; None = no grid.
        max_length: length of the longest training caption in words.
        features: identity of the encoder (`Encoder.identity`).
        encoder_stored: whether model.safetensors contains the encoder.
        data: path of the training data.
        progress: state of the training: finished, epochs, best, stopped_by, seconds.
        source_sizes: feature widths of the joined stores, which sum to F; empty = a single store.
        captions: sizes and digests of the training and validation captions; empty = not recorded.
        pretrained: of a fine-tuned model: `model`, the name of the pretrained one, `revision`, its commit or the digest
            of its folder, `family`, its model type, and `lora`; None = a network of seesay's own. Then `feature_size`
            is 0, `features` is empty, and `vocabulary_size` and `max_length` count tokens.
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
    pretrained: dict[str, Any] | None = None


@dataclass(frozen=True)
class RunRecord:
    """The configuration and metadata of a run folder."""

    folder: Path
    config: Config
    info: RunInfo


@dataclass(frozen=True)
class Run(RunRecord):
    """A loaded and checked run folder of a network of seesay's own."""

    tokenizer: Tokenizer


def save_run(folder: Path, config: Config, info: RunInfo, tokenizer: Tokenizer | None) -> None:
    """Write everything but the weights; each file is written atomically.

    Args:
        folder: the run folder.
        config: the configuration.
        info: the metadata.
        tokenizer: the vocabulary; None for a fine-tuned model, which has its own files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_config(config, folder / CONFIG_FILE)
    if tokenizer is not None:
        tokenizer.save(folder / TOKENIZER_FILE)
    save_info(folder, info)


def save_info(folder: Path, info: RunInfo) -> None:
    """Write `captioner.json` atomically."""
    from seesay import __version__

    content = {"format": _FORMAT, "seesay": __version__, **asdict(info)}
    write_atomically(folder / INFO_FILE, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def save_used_images(folder: Path, images: Mapping[str, Sequence[str]]) -> None:
    """Write the ids of the images that a run uses, by split (`train` and `val`), atomically."""
    write_atomically(folder / IMAGES_FILE, f"{json.dumps(images)}\n".encode())


def used_images(folders: Iterable[Path]) -> dict[str, str]:
    """Return the split, `train` or `val`, of the images that runs used, by id; empty if it is not recorded.

    An image that one run trained on and another validated on is in `train`.

    Raises:
        CheckpointError: a file is damaged.
    """
    found: dict[str, str] = {}
    for path in (folder / IMAGES_FILE for folder in folders):
        if not path.is_file():
            continue
        try:
            images = json.loads(path.read_text(encoding="utf-8"))
            by_split = {name: [str(image) for image in images[name]] for name in ("val", "train")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); restore or delete it") from error
        for image in by_split["val"]:
            found.setdefault(image, "val")
        found |= dict.fromkeys(by_split["train"], "train")
    return found


def update_progress(folder: Path | None, info: RunInfo, **progress: Any) -> RunInfo:
    """Return `info` with updated progress, after writing it if `folder` is given."""
    info = replace(info, progress={**info.progress, **progress})
    if folder is not None:
        save_info(folder, info)
    return info


def save_weights(folder: Path, weights: "Mapping[str, Tensor]") -> None:
    """Write `model.safetensors` atomically.

    Raises:
        CheckpointError: the disk is full or cannot be written.
    """
    from safetensors.torch import save_file

    path = folder / MODEL_FILE
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with replacing(path, durable=True) as part:
        try:
            save_file(tensors, part, metadata={"format": "pt"})
        except (safetensors.SafetensorError, OSError) as error:
            raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> CheckpointError:
    """Return the error for a file that could not be written."""
    reason = " ".join(str(error).split())
    return CheckpointError(f"cannot write {path} ({reason}); make room and run the same command to resume")


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """Return the error for a file without read permission."""
    return CheckpointError(f"{path} cannot be read ({error.strerror}); allow this user to read it (chmod a+r)")


def is_run(folder: str | Path) -> bool:
    """Return whether a folder is a run."""
    return (Path(folder) / INFO_FILE).is_file()


def is_pretrained_run(folder: str | Path) -> bool:
    """Return whether a folder is a run of a fine-tuned pretrained model; False if its metadata cannot be read."""
    try:
        content = json.loads((Path(folder) / INFO_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and bool(content.get("pretrained"))


def read_run(folder: str | Path) -> RunRecord:
    """Return the configuration and metadata of a run, of a network of seesay's own or of a fine-tuned model.

    Raises:
        CheckpointError: not a run, or a missing or damaged file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"no run folder at {folder}; `seesay models` lists runs and models, names of the hub are OWNER/NAME, and "
            "models of a server need --endpoint URL"
        )
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
    return RunRecord(folder, config, info)


def load_run(folder: str | Path) -> Run:
    """Load a run of a network of seesay's own without its weights.

    Raises:
        CheckpointError: not such a run, a missing or damaged file, or files of different runs.
    """
    record = read_run(folder)
    folder, config, info = record.folder, record.config, record.info
    if info.pretrained is not None:
        raise CheckpointError(
            f"{folder} is a fine-tuned {info.pretrained['model']}, not a network of seesay's own, which is needed here"
        )
    tokenizer = Tokenizer.load(folder / TOKENIZER_FILE)
    if len(tokenizer) != info.vocabulary_size:
        raise CheckpointError(
            f"{folder / TOKENIZER_FILE} has {len(tokenizer)} words but the model {info.vocabulary_size}; "
            "they belong to different runs"
        )
    return Run(folder, config, info, tokenizer)


def _require_every_section(path: Path) -> None:
    """Check that a run's configuration has every section: a truncated file may still be valid YAML.

    Raises:
        CheckpointError: a section is missing, whose settings would silently be the defaults.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    for section in Config.model_fields:
        # Runs before fine-tuning existed have no such section; it is not the last one of the file.
        if section != "finetuning" and f"{section}:" not in lines:
            raise CheckpointError(f"{path} is truncated: it has no section {section}")


def read_weights(run: Run) -> "dict[str, Tensor]":
    """Return the tensors of `model.safetensors`.

    Raises:
        CheckpointError: the file is missing or truncated.
    """
    from safetensors.torch import load_file

    path = run.folder / MODEL_FILE
    if not path.exists():
        raise CheckpointError(
            f"the run {run.folder} has no {MODEL_FILE} yet: its first epoch is not finished; "
            "resume it with seesay train --out"
        )
    try:
        check_readable(path)
        return load_file(path)
    except PermissionError as error:
        raise unreadable(path, error) from error
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or cut short: {error}") from error


def trained_weights(run: Run) -> str:
    """Return the SHA-256 of a run's weights if they include a trained encoder, which its identity does not describe."""
    return sha256(run.folder / MODEL_FILE) if run.config.encoder.encoder_training == "full" else ""


def load_weights(run: Run, model: "nn.Module") -> None:
    """Load `model.safetensors` into the model, strictly.

    Raises:
        CheckpointError: the file is missing, truncated, or does not match the model.
    """
    weights = read_weights(run)
    expected = model.state_dict()
    mismatched = sorted(set(expected) ^ set(weights)) or [
        name for name in expected if expected[name].shape != weights[name].shape
    ]
    if mismatched:
        raise CheckpointError(
            f"{run.folder / MODEL_FILE} does not match the run's configuration: "
            f"{len(mismatched)} tensors, such as {mismatched[0]}"
        )
    model.load_state_dict(weights)
