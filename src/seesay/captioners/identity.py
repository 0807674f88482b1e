"""What identifies the model of a captioner."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

_WEIGHTS = ("model.safetensors", "encoder.onnx", "decoder.onnx", "tokenizer.json")


@dataclass(frozen=True)
class ModelIdentity:
    """The name of a model, and a digest or revision of what determines its captions."""

    name: str
    digest: str


def repository_of(folder: Path) -> str:
    """Return the name on the hub of a folder of its cache, as in models--OWNER--NAME/snapshots/COMMIT; else empty."""
    repository, snapshots = folder.parts[-3:-1] if folder.parts[3:] else ("", "")
    if snapshots != "snapshots" or not repository.startswith("models--"):
        return ""
    return repository.removeprefix("models--").replace("--", "/", 1)


def system_name(folder: Path) -> str:
    """Return how outputs name the model of a folder: its name on the hub, or its path."""
    return repository_of(folder) or str(folder)


def identify_folder(folder: Path) -> ModelIdentity:
    """Return the identity of a run or an export.

    The digest has 16 hex digits and is over the weights, the vocabulary and the identity of the encoder or of the
    pretrained model.
    """
    digest = hashlib.sha256()
    finetuned = (path for name in ("adapter", "model") for path in sorted((folder / name).glob("*.safetensors")))
    for path in (*(folder / name for name in _WEIGHTS), *finetuned):
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    info = folder / "captioner.json"
    if info.is_file():  # the weights of an encoder from the hub are not in the folder
        found = json.loads(info.read_text(encoding="utf-8"))
        for outside in filter(None, (found.get("features"), found.get("pretrained"))):
            digest.update(json.dumps(outside, sort_keys=True).encode())
    return ModelIdentity(system_name(folder), digest.hexdigest()[:16])
