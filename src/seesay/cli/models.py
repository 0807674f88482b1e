"""`seesay models`, and the choice of a model if none is named."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import util
from json import loads
from pathlib import Path
from typing import Any

from seesay.captioners.recommended import RecommendedModel, cached_models, default_model, is_cached, recommended_models
from seesay.cli.console import (
    choose_run,
    print_error,
    print_json,
    print_line,
    print_note,
    show_table,
    status,
    trained_runs,
)
from seesay.cli.options import Json
from seesay.errors import ConfigError, DownloadError, MissingDependencyError

_NO_MODEL = "no --model and no run under runs/"


def models(*, json: Json = False) -> None:
    """List the runs in runs/, the models in the cache of the Hugging Face hub, and recommended ones."""
    if json:
        print_json(_document())
        return
    runs = [(str(run), _format_cider(_cider(run))) for run in trained_runs()]
    if runs:
        show_table("trained runs", ("run", "CIDEr"), runs)
    else:
        print_line("no trained run under runs/; train one with: seesay train DATA")
    try:
        cached = cached_models()
    except MissingDependencyError as error:
        print_error(str(error))
    else:
        rows = [(model.name, model.revision[:8], f"{model.size:.2f} GB") for model in cached]
        if rows:
            show_table("models in the cache of the hub", ("model", "revision", "size"), rows)
        else:
            print_line("no image captioning model in the cache of the hub")
    date, recommended = recommended_models()
    print_line(f"recommended models of the hub ({date}); larger ones run on a server: seesay caption --endpoint URL")
    for model in recommended:  # lines instead of a table, which would be too wide for most terminals
        print_line(f"  {model.name}: {model.purpose}\n      {_sizes(model)}")


def _document() -> dict[str, Any]:
    """Return the lists for --json; `cached` is None without the library that reads the cache."""
    try:
        cached = [asdict(model) for model in cached_models()]
    except MissingDependencyError as error:
        print_error(str(error))
        cached = None
    _, recommended = recommended_models()
    return {
        "runs": [{"run": run, "CIDEr": _cider(run)} for run in trained_runs()],
        "cached": cached,
        "recommended": [{**asdict(model), "memory": model.memory} for model in recommended],
    }


def choose_models(names: Sequence[str], *, yes: bool | None = None) -> list[str]:
    """Return the named models, else the latest run, else the default model of the hub.

    Args:
        names: values of `--model`.
        yes: download the default model without asking; None: do not use the default model.

    Raises:
        ConfigError: the default model is not cached, and its download was not agreed to.
        DataError: no name and no run, and the default model is not used.
        DownloadError: it is not cached, and the hub cannot be reached.
        MissingDependencyError: a library for it is not installed.
    """
    if names or yes is None or trained_runs():
        return [str(choose_run(name)) for name in names or [""]]
    model = default_model()
    if util.find_spec("transformers") is None:
        raise MissingDependencyError("transformers", "hub", f"{_NO_MODEL}; captioning with {model.name}")
    if is_cached(model.name):
        print_note(f"{_NO_MODEL}: using {model.name}")
    else:
        _agree_to_download(model, yes)
    return [model.name]


def _agree_to_download(model: RecommendedModel, yes: bool) -> None:
    """Print what will be downloaded, and ask on a terminal.

    Raises:
        ConfigError: the answer is no, or there is no terminal and no `--yes`.
        DownloadError: the hub cannot be reached.
    """
    from seesay.models.hub import hub_answers

    what = f"{model.name} ({model.license}, {model.parameters:g} B parameters, {model.download:g} GB)"
    if not hub_answers():
        raise DownloadError(
            f"{_NO_MODEL}; the default, {what}, is not in the cache and the hub cannot be reached: connect once, or "
            "pass --model with a run, a local folder or a cached model (seesay models)"
        )
    if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigError(f"{_NO_MODEL}; add --yes to download the default, {what}, or name a model with --model")
    print_error(f"{_NO_MODEL}: downloading {what} once" if yes else f"{_NO_MODEL}: the default is {what}")
    if not yes:
        status.clear()
        print("Download it? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise ConfigError("nothing was downloaded; name a model with --model (seesay models lists some)")


def _cider(run: Path) -> dict[str, float]:
    """Return the CIDEr of a run's evaluations by split."""
    found = {}
    for path in sorted(run.glob("predictions/*/scores.json")):
        try:
            found[path.parent.name] = float(loads(path.read_bytes())["scores"]["CIDEr"])
        except (OSError, ValueError, KeyError, TypeError):  # not written by `seesay evaluate`
            continue
    return found


def _format_cider(scores: dict[str, float]) -> str:
    return ", ".join(f"{split} {100 * value:.1f}" for split, value in scores.items())


def _sizes(model: RecommendedModel) -> str:
    return (
        f"{model.license}, {model.parameters:g} B parameters, {model.download:g} GB to download, "
        f"about {model.memory:.1f} GB of memory in bfloat16"
    )
