"""Record of the models and decoding options that made an output: a JSON file beside it.

    captions.jsonl
    captions.jsonl.recipe.json    {"seesay_recipes": [{"models": [{"name": ..., "digest": ...}], "decoding": {...}}]}

If jobs with different recipes wrote to an output, all are listed in order.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seesay.captioners.alt_text import Style
from seesay.captioners.identity import ModelIdentity
from seesay.config import DecodingOptions
from seesay.errors import DataError
from seesay.files import text_bytes, write_atomically

log = logging.getLogger("seesay")

_KEY = "seesay_recipes"
_UNKNOWN: dict[str, Any] = {"models": [], "decoding": {}}


@dataclass(frozen=True)
class Recipe:
    """What determines the captions of a job.

    Attributes:
        models: the models.
        options: decoding options, with the maximum length filled in.
        style: plain captions or alt text.
        prompt: of models with a prompt; empty: none.
    """

    models: tuple[ModelIdentity, ...]
    options: DecodingOptions
    style: Style = "plain"
    prompt: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the models, the options, and the style and the prompt if there are any."""
        models = [asdict(model) for model in self.models]
        content: dict[str, Any] = json.loads(json.dumps({"models": models, "decoding": self.options.model_dump()}))
        style = {} if self.style == "plain" else {"style": self.style}
        return {**content, **style, **({"prompt": self.prompt} if self.prompt else {})}


def recipe_path(output: Path) -> Path:
    """Return where the recipes of an output are recorded."""
    return output.with_name(f"{output.name}.recipe.json")


def record_recipe(output: Path, recipe: Recipe, present: int, todo: int, *, strict: bool) -> None:
    """Record the recipe of a job that adds to an output, and compare it with those of earlier jobs.

    Args:
        output: the file or folder of captions.
        recipe: of this job.
        present: number of captions in the output.
        todo: number of images that are still to be captioned.
        strict: fail on another recipe instead of warning.

    Raises:
        DataError: `strict`, and an earlier job had another recipe or recorded none; or the record is another file.
    """
    path, now = recipe_path(output), recipe.to_json()
    recorded = _read(path) if path.exists() else [_UNKNOWN]
    earlier = recorded if present else []
    differences = [difference for each in earlier if (difference := _difference(each, now))]
    if differences:
        line = f"{output} contains captions of another model or other options ({differences[-1]})"
        if strict:
            raise DataError(f"{line}; choose another --out, or delete it to start again")
        log.warning("%s; captions of %d more images are added to them", line, todo)
    if todo and len(differences) == len(earlier):
        write_atomically(path, text_bytes(f"{json.dumps({_KEY: [*earlier, now]}, indent=2, ensure_ascii=False)}\n"))


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        recipes: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))[_KEY]
        for each in recipes:
            _named(each["models"])
            dict(each["decoding"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a recipe file of seesay; move it or choose another --out") from error
    return recipes


def _difference(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    """Return how two recipes differ, or an empty string; a model's name does not count."""
    if earlier == _UNKNOWN:
        return "not recorded"
    found = []
    if [model["digest"] for model in earlier["models"]] != [model["digest"] for model in now["models"]]:
        found.append(f"model {_named(earlier['models'])}, now {_named(now['models'])}")
    defaults = json.loads(DecodingOptions().model_dump_json())  # of options that an earlier version did not have
    old, new = (
        {**defaults, "style": each.get("style", "plain"), "prompt": each.get("prompt", ""), **each["decoding"]}
        for each in (earlier, now)
    )
    names = (name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name))
    found += [f"{name} {old.get(name)}, now {new.get(name)}" for name in names]
    return "; ".join(found)


def _named(models: Sequence[dict[str, str]]) -> str:
    return " + ".join(f"{model['name']} ({_brief(model['digest'])})" for model in models) or "unknown"


def _brief(digest: str) -> str:
    return digest if "/" in digest else digest[:8]  # the address of a server's model is shown whole
