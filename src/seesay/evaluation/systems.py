"""Scores of a whole split: of a run, of a file of predictions, or of one human caption against the others."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from seesay.captioner import Caption, Captioner
from seesay.checkpoint import is_run
from seesay.config import DataConfig, DecodingOptions
from seesay.data.annotations import load_annotations, load_dataset, split_annotations
from seesay.data.records import Annotation, Annotations
from seesay.data.scenes import names_only_scenes, unfounded_mentions
from seesay.errors import DataError
from seesay.evaluation.captioning import caption_split, feature_source
from seesay.evaluation.predictions import match_predictions, read_predictions
from seesay.evaluation.result import Evaluation
from seesay.evaluation.scoring import DEFAULT_SCORES, check_scores, score_captions
from seesay.features.extraction import Progress
from seesay.metrics import absent_objects, bootstrap_intervals, measure_diversity, tokenize


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: str = "test",
    options: DecodingOptions | None = None,
    tokenization: str = "ptb",
    metrics: Sequence[str] = DEFAULT_SCORES,
    features: str | Path = "features",
    stores: Sequence[str | Path] = (),
    device: str = "auto",
    progress: Progress | None = None,
) -> Evaluation:
    """Returns the scores of a run, or of a file of predictions, on a split of a data set.

    Args:
        model: a run folder, or predictions as JSON (COCO results), JSONL or CSV.
        data: anything `load_annotations` reads.
        split: which pictures.
        options: how a run searches; None = as it says itself.
        tokenization: ptb, whitespace or characters.
        metrics: which scores; see `score_captions`.
        features: folder of feature stores; the encoder's for this data is filled where pictures are missing.
        stores: given stores to use instead.
        device: where a run computes.
        progress: told of pictures encoded, if any have to be.

    Raises:
        DataError: the split is empty, predictions are missing or doubled.
        CheckpointError: the run cannot be used.
        ConfigError: there is no such score or tokenization.
    """
    check_scores(metrics)
    captions: Mapping[str, Caption] = {}
    if is_run(model) or Path(model).is_dir():
        captioner = Captioner.load(model, device)
        annotations = load_dataset(data, captioner.run.config.data)
        items = _pictures(annotations, split)
        options = captioner.options(options)
        source = feature_source(captioner, items, data, features, stores, progress)
        usable = [item for item in items if item.id in source] if source else items
        captions, unread = caption_split(captioner, usable, source, options)
        left_out = [item.id for item in items if item.id not in captions]
        problems = [*unread, *([_left_out(left_out)] if left_out else [])]
        predictions = {image_id: caption.text for image_id, caption in captions.items()}
    else:
        annotations, options = _references(data), None
        items = _pictures(annotations, split)
        predictions, problems = match_predictions(read_predictions(Path(model)), items, Path(model))
    return evaluate_captions(
        [item for item in items if item.id in predictions],
        predictions,
        system=str(model),
        split=split,
        training=_training_captions(annotations, split),
        tokenization=tokenization,
        metrics=metrics,
        decoding=options,
        captions=captions,
        problems=problems,
    )


def evaluate_human(
    data: str | Path,
    *,
    split: str = "test",
    which: str = "1",
    tokenization: str = "ptb",
    metrics: Sequence[str] = DEFAULT_SCORES,
) -> Evaluation:
    """Returns the scores of one human caption of each picture against its others.

    Args:
        data: anything `load_annotations` reads.
        split: which pictures.
        which: the caption that is scored: its number from 1, or `longest` (most characters of its tokens; the
            first of several).
        tokenization: ptb, whitespace or characters.
        metrics: which scores; see `score_captions`.

    Raises:
        DataError: a picture has no such caption, or no other one.
    """
    check_scores(metrics)
    annotations = _references(data)
    items, predictions = [], {}
    for item in _pictures(annotations, split):
        place = _chosen(item, which, tokenization)
        predictions[item.id] = item.captions[place]
        items.append(replace(item, captions=item.captions[:place] + item.captions[place + 1 :]))
    return evaluate_captions(
        items,
        predictions,
        system=f"human caption ({which})",
        split=split,
        training=_training_captions(annotations, split),
        tokenization=tokenization,
        metrics=metrics,
        origin=f"human({which})",
    )


def evaluate_captions(
    items: Sequence[Annotation],
    predictions: Mapping[str, str],
    *,
    system: str,
    split: str,
    training: Sequence[str] | None = None,
    tokenization: str = "ptb",
    metrics: Sequence[str] = DEFAULT_SCORES,
    decoding: DecodingOptions | None = None,
    origin: str = "file",
    captions: Mapping[str, Caption] | None = None,
    problems: Sequence[str] = (),
) -> Evaluation:
    """Returns the evaluation of captions that are there already.

    Args:
        items: the pictures with their references.
        predictions: a caption of each of them by id.
        system: what said them.
        split: the split's name.
        training: the captions that the system was trained on, if they are known.
        tokenization: ptb, whitespace or characters.
        metrics: which scores; see `score_captions`.
        decoding: how they were searched for.
        origin: where they come from if they were not.
        captions: the captions with their evidence.
        problems: what was wrong so far.
    """
    texts = [predictions[item.id] for item in items]
    scores, missing = score_captions(items, texts, tokenization=tokenization, metrics=metrics)
    told = list(problems)
    if scores.empty:
        told.append(f"{len(scores.empty)} captions are empty and score 0, such as that of {scores.empty[0]}")
    return Evaluation(
        system=system,
        items=tuple(items),
        predictions={item.id: text for item, text in zip(items, texts, strict=True)},
        scores=scores,
        intervals=bootstrap_intervals(scores),
        diversity=measure_diversity(texts, training, tokenization=tokenization),
        split=split,
        decoding=decoding,
        origin=origin,
        captions=captions or {},
        absent_objects=_absent_share(items, texts),
        problems=(*told, *missing.values()),
        missing_scores=missing,
    )


def _pictures(annotations: Annotations, split: str) -> Sequence[Annotation]:
    items = annotations.split(split).items
    if not items:
        raise DataError(
            f"{annotations.source} has no picture in split {split!r}; it has {', '.join(annotations.splits) or 'none'}"
        )
    return items


def _references(data: str | Path) -> Annotations:
    """Returns the captions that predictions are compared with, for which no picture has to be there."""
    annotations = load_annotations(data, require_images=False)
    if annotations.splits:
        return annotations
    settings = DataConfig()
    return split_annotations(annotations, settings.split_fractions, settings.split_seed)


def _training_captions(annotations: Annotations, split: str) -> list[str] | None:
    """Returns the captions of the training split; None where there is none, or where it is what is scored."""
    items = [item for item in annotations if item.split in ("train", "restval")]
    if not items or split in ("train", "training", "restval"):
        return None
    return [caption for item in items for caption in item.captions]


def _chosen(item: Annotation, which: str, tokenization: str) -> int:
    """Returns the place of the human caption that is scored."""
    if len(item.captions) < 2:
        raise DataError(f"picture {item.id} has only one caption, and none to compare it with; leave it out")
    if which == "longest":
        lengths = [len(text) for text in tokenize(item.captions, tokenization)]
        return lengths.index(max(lengths))
    if not which.isdecimal() or not 1 <= int(which) <= len(item.captions):
        raise DataError(
            f"picture {item.id} has no caption {which!r}; name one from 1 to {len(item.captions)}, or longest"
        )
    return int(which) - 1


def _absent_share(items: Sequence[Annotation], texts: Sequence[str]) -> float | None:
    """Returns the share of captions that name an object which is not there; None where no boxes are known."""
    if not all(item.boxes for item in items):
        return None
    if names_only_scenes(items):
        wrong = [bool(unfounded_mentions(text, item)) for item, text in zip(items, texts, strict=True)]
    else:
        labels = [{box.label for box in item.boxes} for item in items]
        wrong = [bool(names) for names in absent_objects(texts, labels)]
    return sum(wrong) / len(wrong)


def _left_out(ids: Sequence[str]) -> str:
    return f"{len(ids)} pictures could not be read and are not in the scores: {', '.join(ids[:5])}"
