"""The model card of a run: metadata for the hub and a page for people, from the run's own files."""

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seesay import __version__
from seesay.formatting import format_duration
from seesay.hub.facts import RunFacts, is_local_path, public_name

_SNIPPET = """from seesay import load_captioner

with load_captioner({model}) as captioner:
    print(captioner.caption({image}).text)
"""
_TAGS = ("seesay", "image-captioning")
_TASK = "image-to-text"
_LIMITS = (
    "Captions are generated and may be wrong: they may name objects, colours, numbers or relations that are not in the "
    "image. Check them before they are published, in particular as alternative text.",
    "The model knows the kind of images and the style of captions that it was trained on. The scores above hold for "
    "that data, not for other images.",
    "Biases of the training captions, for example in the description of people, are reproduced.",
)


@dataclass(frozen=True)
class CardOptions:
    """What the user adds to a model card.

    Attributes:
        license: identifier of a licence as the hub lists them, such as `mit`; empty: none is stated.
        tags: further tags.
        example: image of the usage example; empty: a drawn scene. Only the caption is published.
    """

    license: str = ""
    tags: tuple[str, ...] = ()
    example: str = ""


def _snippet(model: str, image: str) -> str:
    """Return the usage snippet; JSON texts are Python texts."""
    return _SNIPPET.format(model=json.dumps(model), image=json.dumps(image))


def run_snippet(model: Path, image: str) -> str:
    """Run the usage snippet of the card on a model and an image; return what it prints.

    Raises:
        SeesayError: the model cannot be loaded, or cannot caption the image.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(_snippet(str(model), image), "<usage snippet>", "exec"), {})
    return printed.getvalue().strip()


def build_card(facts: RunFacts, name: str, options: CardOptions, printed: str) -> str:
    """Return the model card of a run as Markdown with metadata in YAML.

    Args:
        facts: the run.
        name: name of the repository.
        options: what the user adds.
        printed: what the usage snippet printed.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("seesay.hub"), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    extra = "[hub]" if facts.pretrained else ""
    body = environment.get_template("card.md").render(
        title=name.partition("/")[2],
        name=name,
        version=facts.info.get("seesay", __version__),
        summary=_summary(facts),
        requirement=f"'seesay{extra} @ git+https://github.com/seesay/seesay'",
        snippet=_snippet(name, "photo.jpg"),
        image="an image of the publisher" if options.example else "a drawn image of coloured shapes",
        printed=printed,
        scores=facts.scores,
        data=facts.data,
        data_rows=_data_rows(facts),
        recipe=_recipe(facts),
        limits=_limits(facts),
    )
    return f"---\n{_metadata(facts, name, options)}\n---\n\n{body}"


def _metadata(facts: RunFacts, name: str, options: CardOptions) -> str:
    """Return the metadata of the hub as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=_TASK,
            dataset_type=facts.data.removeprefix("hf:"),
            dataset_name=facts.data,
            dataset_split=split.split,
            metric_type=metric.lower(),
            metric_name=f"{metric} (times 100)",
            metric_value=round(value, 2),
        )
        for split in facts.scores
        for metric, value, _ in split.rows
    ]
    base = facts.pretrained
    public = base["model"] if base and not is_local_path(base["model"]) else None
    data = ModelCardData(
        library_name="seesay",
        pipeline_tag=_TASK,
        license=options.license or None,
        tags=list(dict.fromkeys([*_TAGS, *options.tags])),
        base_model=public,
        base_model_relation=("adapter" if base.get("lora") else "finetune") if public else None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _summary(facts: RunFacts) -> str:
    base = facts.pretrained
    if base:
        kind = "a LoRA adapter of" if base.get("lora") else "a fine-tuned copy of"
        return f"{kind} `{public_name(base['model'])}` at revision `{base.get('revision', 'unknown')}`"
    config = facts.config
    return f"decoder `{config.model.decoder}`, image encoder `{config.encoder.encoder}`"


def _data_rows(facts: RunFacts) -> list[tuple[str, str]]:
    """Return facts about the training data."""
    rows = [("name", facts.data)]
    rows += [(f"{split} split", text) for split, text in dict(facts.info.get("captions") or {}).items()]
    own = "characters" if facts.config.text.level == "character" else "words"
    words = "tokens" if facts.pretrained else own
    if size := facts.info.get("vocabulary_size"):
        rows.append(("vocabulary", f"{size:,} {words}, special tokens included"))
    if length := facts.info.get("max_length"):
        rows.append(("longest training caption", f"{length} {words}"))
    return rows


def _recipe(facts: RunFacts) -> list[tuple[str, str]]:
    """Return the main settings and the course of the training."""
    config, progress, base = facts.config, facts.info["progress"], facts.pretrained
    training, features = config.training, dict(facts.info.get("features") or {})
    rows: list[tuple[str, Any]] = []
    if base:
        rows += [
            ("base model", public_name(base["model"])),
            ("base model revision", base.get("revision", "unknown")),
            ("fine-tuning", "LoRA" if base.get("lora") else "full"),
        ]
    else:
        weights = f"{features['weights']}, digest {features['digest']}" if "digest" in features else "unknown"
        rows += [
            ("decoder", config.model.decoder),
            ("encoder", config.encoder.encoder),
            ("encoder weights before training", weights),
            ("encoder training", config.encoder.encoder_training),
        ]
        if size := dict(features.get("preprocessing") or {}).get("size"):
            rows.append(("image size", f"{size} x {size} pixels, {config.encoder.resize}"))
    best = f"{progress['best']:.1f}" if "best" in progress else "unknown"
    rows += [
        ("stored parameters", f"{facts.parameters:,}"),
        ("optimizer, learning rate", f"{training.optimizer}, {training.learning_rate:g}"),
        ("captions per batch", training.batch_captions),
        ("epochs", f"{progress.get('epochs', 'unknown')}, best: {progress.get('best_epoch', 'unknown')}"),
        (f"best {training.monitor}", best),
        ("ended by", progress.get("stopped_by", "unknown")),
        ("time in training steps", format_duration(float(progress.get("seconds", 0)))),
        ("self-critical stage", "yes" if training.second_stage else "no"),
        ("seed", training.seed),
        ("default decoding", config.decoding.strategy),
    ]
    return [(name, str(value)) for name, value in rows]


def _limits(facts: RunFacts) -> list[str]:
    limits = list(_LIMITS)
    if not facts.pretrained and (size := facts.info.get("vocabulary_size")):
        limits.insert(1, f"Captions consist of the {size:,} tokens of the vocabulary; other words cannot be generated.")
    if not facts.scores:
        limits.append("Its quality is unknown: no evaluation was published with it.")
    return limits
