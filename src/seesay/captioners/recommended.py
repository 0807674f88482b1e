"""Recommended models of the hub, and which models this machine has."""

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from seesay.checkpoint import is_run
from seesay.errors import MissingDependencyError

_OVERHEAD = 1.0  # gigabytes beside the weights: the library, an image's activations, the cache of the decoder
_RUN_WEIGHTS = ("model.safetensors", "adapter/*.safetensors", "model/*.safetensors")
_CAPTIONING = re.compile(r"(?:ForConditionalGeneration|VisionEncoderDecoderModel|GitForCausalLM)$")


@dataclass(frozen=True)
class RecommendedModel:
    """A model of the Hugging Face hub.

    Attributes:
        name: its name on the hub.
        parameters: number of parameters, in billions.
        download: size of its weights as published, in gigabytes.
        license: its licence.
        purpose: what it is good for.
    """

    name: str
    parameters: float
    download: float
    license: str
    purpose: str

    @property
    def memory(self) -> float:
        """Estimated memory in gigabytes with weights in bfloat16."""
        return 2 * self.parameters + _OVERHEAD


@dataclass(frozen=True)
class CachedModel:
    """An image captioning model in the cache of the hub.

    Attributes:
        name: its name on the hub.
        revision: the commit.
        size: size on disk, in gigabytes.
    """

    name: str
    revision: str
    size: float


@cache
def recommended_models() -> tuple[str, tuple[RecommendedModel, ...]]:
    """Return the date of the list, as in 2026-11, and the models; the first one is the default."""
    import yaml

    text = resources.files("seesay.captioners").joinpath("recommended.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return str(content["date"]), tuple(RecommendedModel(**entry) for entry in content["models"])


def default_model() -> RecommendedModel:
    """Return the model that `seesay caption` uses if none is named and there is no run."""
    return recommended_models()[1][0]


def is_cached(name: str) -> bool:
    """Return whether a model of the hub is in the cache: its configuration and weights.

    Raises:
        MissingDependencyError: huggingface_hub is not installed.
    """
    return any(model.name == name for model in cached_models())


def cached_models() -> list[CachedModel]:
    """Return the captioners in the cache of the hub, runs included, by name; interrupted downloads are left out.

    Raises:
        MissingDependencyError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import scan_cache_dir
        from huggingface_hub.errors import CacheNotFound
    except ImportError as error:
        raise MissingDependencyError("huggingface_hub", "hub", "listing the models of the hub") from error
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    found = [
        CachedModel(repository.repo_id, revision.commit_hash, revision.size_on_disk / 1e9)
        for repository in repositories
        for revision in repository.revisions
        if repository.repo_type == "model"
        and (_is_complete_run(revision.snapshot_path) or _captions_images(revision.snapshot_path))
    ]
    return sorted(found, key=lambda model: (model.name, model.revision))


def _is_complete_run(folder: Path) -> bool:
    """Return whether a folder is a run with weights (`seesay push`)."""
    return is_run(folder) and any(any(folder.glob(pattern)) for pattern in _RUN_WEIGHTS)


def _captions_images(folder: Path) -> bool:
    """Return whether a folder has the weights and the configuration of an image captioning model."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        architectures = [str(name) for name in config.get("architectures") or ()]
    except (OSError, ValueError, AttributeError, TypeError):
        return False
    vision = "vision_config" in config or config.get("model_type") == "vision-encoder-decoder"
    weights = any(path.suffix in (".safetensors", ".bin") for path in folder.iterdir())
    return vision and weights and any(map(_CAPTIONING.search, architectures))
