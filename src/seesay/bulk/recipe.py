"""Which model and which decoding options made an output: a JSON file beside it, whatever its format.

    captions.jsonl
    captions.jsonl.recipe.json    {"seesay_recipes": [{"models": [{"name": ..., "digest": ...}], "decoding": {...}}]}

An output that jobs of different recipes wrote to lists all of them, in the order in which they came.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seesay.config import DecodingOptions
from seesay.errors import DataError
from seesay.files import text_bytes, write_atomically

log = logging.getLogger("seesay")

_KEY = "seesay_recipes"
_UNKNOWN: dict[str, Any] = {"models": [], "decoding": {}}
_WEIGHTS = ("model.safetensors", "encoder.onnx", "decoder.onnx", "tokenizer.json")


@dataclass(frozen=True)
class Recipe:
    """What decides the captions of a job.

    Attributes:
        folders: of the runs or the export.
        options: how to search, with the maximum length filled in.
    """

    folders: tuple[Path, ...]
    options: DecodingOptions

    def to_json(self) -> dict[str, Any]:
        """Return the names of the models with the digests of their weights, and the options."""
        models = [{"name": str(folder), "digest": model_digest(folder)} for folder in self.folders]
        content: dict[str, Any] = json.loads(json.dumps({"models": models, "decoding": asdict(self.options)}))
        return content


def model_digest(folder: Path) -> str:
    """Return 16 hex digits over the weights, the vocabulary and the encoder's identity of a run or an export."""
    digest = hashlib.sha256()
    for path in (folder / name for name in _WEIGHTS):
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    info = folder / "captioner.json"
    if info.is_file():  # the weights of an encoder from the hub are not in the folder
        features = json.loads(info.read_text(encoding="utf-8")).get("features")
        digest.update(json.dumps(features, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def recipe_path(output: Path) -> Path:
    """Return where the recipes of an output are recorded."""
    return output.with_name(f"{output.name}.recipe.json")


def record_recipe(output: Path, recipe: Recipe, held: int, todo: int, *, strict: bool) -> None:
    """Record the recipe of a job that adds to an output, and compare it with those of earlier jobs.

    Args:
        output: the file or folder of captions.
        recipe: of this job.
        held: number of captions that the output holds.
        todo: number of images that are still to be captioned.
        strict: refuse another recipe instead of warning.

    Raises:
        DataError: `strict`, and an earlier job had another recipe or recorded none; or the record is another file.
    """
    path, now = recipe_path(output), recipe.to_json()
    recorded = _read(path) if path.exists() else [_UNKNOWN]
    earlier = recorded if held else []
    found = [difference for each in earlier if (difference := _difference(each, now))]
    if found:
        line = f"{output} holds captions of another model or other options ({found[-1]})"
        if strict:
            raise DataError(f"{line}; name another --out, or leave --strict to add to it")
        log.warning("%s; they stay, and captions of %d more images are added to it", line, todo)
    if todo and len(found) == len(earlier):
        write_atomically(path, text_bytes(f"{json.dumps({_KEY: [*earlier, now]}, indent=2, ensure_ascii=False)}\n"))


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        recipes: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))[_KEY]
        for each in recipes:
            _named(each["models"])
            dict(each["decoding"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not a record of models and options by seesay; move it or name another --out"
        ) from error
    return recipes


def _difference(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    """Return how two recipes differ, empty where they do not; a model's name does not count."""
    if earlier == _UNKNOWN:
        return "which are not recorded"
    found = []
    if [model["digest"] for model in earlier["models"]] != [model["digest"] for model in now["models"]]:
        found.append(f"model {_named(earlier['models'])}, now {_named(now['models'])}")
    old, new = earlier["decoding"], now["decoding"]
    names = (name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name))
    found += [f"{name} {old.get(name)}, now {new.get(name)}" for name in names]
    return "; ".join(found)


def _named(models: Sequence[dict[str, str]]) -> str:
    return " + ".join(f"{model['name']} ({model['digest'][:8]})" for model in models) or "unknown"
