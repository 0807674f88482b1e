"""Files of a model: a local folder, or a download of the Hugging Face hub into its cache."""

import hashlib
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from seesay.captioners.identity import ModelIdentity
from seesay.errors import CheckpointError, ConfigError, DownloadError, SeesayError
from seesay.files import sha256
from seesay.models.hub import hub_answers

logger = logging.getLogger(__name__)

_TEXT_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
_WEIGHT_SUFFIXES = (".safetensors", ".bin")
_OTHER_FRAMEWORKS = ["onnx/*", "openvino/*", "original/*", "*.onnx", "flax_*", "tf_*", "rust_*"]
_HASHED_BYTES = 2**20
_SHA256_DIGITS = 64


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model on this machine, with what identifies it."""

    folder: Path
    identity: ModelIdentity


def find_files(model: str) -> ModelFiles:
    """Return the files of a model; those of a model of the hub are downloaded, or resumed, if they are not cached.

    Args:
        model: a folder in the hub's format, `name` or `name@revision`.

    Raises:
        ConfigError: the hub has no such model or revision.
        CheckpointError: the folder has no model, or files are missing.
        DownloadError: the hub does not answer or refuses access, or a file was damaged on the way.
    """
    folder = Path(model)
    if folder.is_dir():
        check_folder(folder)
        return ModelFiles(folder, ModelIdentity(str(folder), digest_of(folder)))
    name, _, revision = _native_name(model).partition("@")
    folder = _snapshot(name, revision or None)
    check_folder(folder)
    return ModelFiles(folder, ModelIdentity(name, folder.name))  # the hub's cache names folders by commit


def _native_name(model: str) -> str:
    """Return the name of the repository whose files transformers loads without code from the hub."""
    native = re.sub(r"^microsoft/(Florence-2-(base|large)(-ft)?)", r"florence-community/\1", model)
    if native != model:
        logger.info("%s needs code from the hub; %s, a conversion of it, is used instead", model, native)
    return native


def _snapshot(name: str, revision: str | None) -> Path:
    """Return the folder of a model in the hub's cache.

    The hub is asked once, so that a machine without a network uses its cache at once.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    shown = f"{name}@{revision}" if revision else name
    if constants.HF_HUB_OFFLINE or not hub_answers():
        try:
            return Path(snapshot_download(name, revision=revision, local_files_only=True))
        except LocalEntryNotFoundError:
            reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} does not answer"
            raise DownloadError(
                f"{shown} is not in the cache and cannot be downloaded ({reason}); "
                "connect once, or pass the path of a folder with the model"
            ) from None
    blobs = Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}", "blobs")
    cached = set(blobs.glob("*"))
    try:
        info = HfApi().model_info(name, revision=revision)
        files = [file.rfilename for file in info.siblings or ()]
        folder = Path(
            snapshot_download(
                name,
                revision=revision,  # not the commit: the cache stores which commit a revision was, for use offline
                allow_patterns=[*_TEXT_FILES, _weight_pattern(files)],
                ignore_patterns=_OTHER_FRAMEWORKS,
            )
        )
    except Exception as error:  # of the HTTP library, which depends on the version
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            raise _hub_error(shown, error, error.response.status_code) from error
        raise DownloadError(f"{shown} was not downloaded completely ({_line(error)}); run the command again") from error
    _check_digests(shown, set(blobs.glob("*")) - cached)
    return folder


def _check_digests(shown: str, blobs: set[Path]) -> None:
    """Check new files of the cache, which names large ones by their SHA-256; the hub's library checks sizes only.

    Raises:
        DownloadError: a file is damaged; it is deleted.
    """
    damaged = [path for path in sorted(blobs) if len(path.name) == _SHA256_DIGITS and sha256(path) != path.name]
    for path in damaged:
        path.unlink()
    if damaged:
        raise DownloadError(f"{shown} was damaged on the way ({len(damaged)} files); run the command again")


def _weight_pattern(files: list[str]) -> str:
    return next((f"*{suffix}" for suffix in _WEIGHT_SUFFIXES if any(name.endswith(suffix) for name in files)), "*.bin")


def _hub_error(shown: str, error: Exception, status: int) -> SeesayError:
    """Return the error for an answer of the hub."""
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return DownloadError(f"{shown} is gated: accept its licence on its page of the hub, then run: hf auth login")
    if isinstance(error, RevisionNotFoundError):
        return ConfigError(f"{shown}: the hub has no such revision of the model; check the part after @")
    if status in (401, 403):
        return DownloadError(
            f"{shown}: the hub refuses access ({status}): the name is wrong or the model is private; "
            "check the name, or run: hf auth login"
        )
    if status == 404:
        return ConfigError(f"{shown}: the hub has no model of this name; check the name, as in organisation/model")
    return DownloadError(f"{shown}: the hub answered {status}; try again later")


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


def _line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
