"""Files of a model: a local folder, or a download of the Hugging Face hub into its cache."""

import hashlib
import importlib.util
import json
import logging
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from seesay.captioners.identity import ModelIdentity
from seesay.checkpoint import INFO_FILE, is_run
from seesay.errors import CheckpointError, MissingDependencyError
from seesay.hub.layout import LOADED
from seesay.hub.pull import download

logger = logging.getLogger(__name__)

_TEXT_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
_WEIGHT_SUFFIXES = (".safetensors", ".bin")
_OTHER_FRAMEWORKS = ["onnx/*", "openvino/*", "original/*", "*.onnx", "flax_*", "tf_*", "rust_*"]
_HASHED_BYTES = 2**20


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model on this machine, with what identifies it."""

    folder: Path
    identity: ModelIdentity

    @property
    def is_run(self) -> bool:
        """Whether they are a run, not a pretrained model."""
        return is_run(self.folder)


def find_files(model: str) -> ModelFiles:
    """Return the files of a model; those of a model of the hub are downloaded, or resumed, if they are not cached.

    A repository with a `captioner.json` is a run (`seesay push`), any other a pretrained model.

    Args:
        model: a folder in the hub's format, `name` or `name@revision`.

    Raises:
        ConfigError: the hub has no such model or revision.
        CheckpointError: the folder or the repository has no model, or files are missing.
        DownloadError: the hub does not answer or refuses access, or a file was damaged on the way.
        MissingDependencyError: the model needs transformers, which is not installed.
    """
    folder = Path(model)
    if folder.is_dir():
        check_folder(folder)
        return ModelFiles(folder, ModelIdentity(str(folder), digest_of(folder)))
    name, _, revision = _native_name(model).partition("@")
    markers = [INFO_FILE, "config.json"]
    folder = download(name, revision or None, partial(_patterns, name), markers, _OTHER_FRAMEWORKS)
    if not is_run(folder):
        check_folder(folder)
    return ModelFiles(folder, ModelIdentity(name, folder.name))  # the hub's cache names folders by commit


def _native_name(model: str) -> str:
    """Return the name of the repository whose files transformers loads without code from the hub."""
    native = re.sub(r"^microsoft/(Florence-2-(base|large)(-ft)?)", r"florence-community/\1", model)
    if native != model:
        logger.info("%s needs code from the hub; %s, a conversion of it, is used instead", model, native)
    return native


def _patterns(name: str, files: list[str]) -> list[str]:
    """Return patterns of the files to download, of all files of a repository.

    Raises:
        CheckpointError: the repository has no captioner.
        MissingDependencyError: the model needs transformers.
    """
    if INFO_FILE in files:
        return list(LOADED)
    if "config.json" not in files:
        raise CheckpointError(
            f"{name} on the hub has neither {INFO_FILE} nor config.json: it is no captioner; check the name"
        )
    require_transformers(name)
    return [*_TEXT_FILES, _weight_pattern(files)]


def require_transformers(model: str) -> None:
    """Check that transformers is installed.

    Raises:
        MissingDependencyError: it is not.
    """
    if importlib.util.find_spec("transformers") is None:
        raise MissingDependencyError("transformers", "hub", f"the model {model}")


def _weight_pattern(files: list[str]) -> str:
    return next((f"*{suffix}" for suffix in _WEIGHT_SUFFIXES if any(name.endswith(suffix) for name in files)), "*.bin")


def check_folder(folder: Path) -> None:
    """Check that a folder has a configuration and all its weights.

    Raises:
        CheckpointError: it does not; the message names what is missing.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json; pass a folder in the format of the Hugging Face hub")
    missing = sorted(_missing_weights(folder))
    if missing:
        raise CheckpointError(
            f"{folder} lacks {missing[0]}{f' and {len(missing) - 1} more files' if missing[1:] else ''}: "
            "the download was interrupted; download it again"
        )


def _missing_weights(folder: Path) -> set[str]:
    for index in sorted(folder.glob("*.index.json")):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError):
            return {f"a readable {index.name}"}
        return {name for name in shards if not (folder / name).is_file()}
    found = any(any(folder.glob(f"*{suffix}")) for suffix in _WEIGHT_SUFFIXES)
    return set() if found else {"model.safetensors"}


def digest_of(folder: Path) -> str:
    """Return a digest of a folder's model, 16 hex digits.

    It is over the text files, and the size and first MiB of the weights, so that large weights are not read twice.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (*_WEIGHT_SUFFIXES, ".json", ".txt", ".model", ".jinja"):
            with path.open("rb") as file:
                content = file.read(_HASHED_BYTES if path.suffix in _WEIGHT_SUFFIXES else -1)
            digest.update(f"{path.name}\n{path.stat().st_size}\n".encode())
            digest.update(content)
    return digest.hexdigest()[:16]
