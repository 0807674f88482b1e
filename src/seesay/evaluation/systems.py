"""Scores of a whole split: of a run, of a file of predictions, or of one human caption against the others."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from seesay.captioner import Caption, TrainedCaptioner
from seesay.checkpoint import is_run
from seesay.clipscore import DEFAULT_CLIP
from seesay.config import DecodingOptions
from seesay.data.readers.columns import USUAL_NAMES, ColumnNames
from seesay.data.records import Annotation
from seesay.data.scenes import names_only_scenes, unfounded_mentions
from seesay.errors import DataError
from seesay.evaluation.captioning import caption_split, feature_source
from seesay.evaluation.eval_split import read_eval_split
from seesay.evaluation.predictions import has_predictions, match_predictions, read_predictions, refuse_references
from seesay.evaluation.result import Evaluation
from seesay.evaluation.scoring import DEFAULT_SCORES, check_scores, score_captions
from seesay.features.extraction import Progress
from seesay.metrics import absent_objects, bootstrap_intervals, measure_diversity, tokenize
from seesay.metrics.bootstrap import DRAWS
from seesay.metrics.java import SPICE
from seesay.metrics.tokenize import DEFAULT_TOKENIZATION


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: str | None = None,
    options: DecodingOptions | None = None,
    tokenization: str | None = None,
    metrics: Sequence[str] = DEFAULT_SCORES,
    clip_model: str = DEFAULT_CLIP,
    draws: int = DRAWS,
    columns: ColumnNames = USUAL_NAMES,
    features: str | Path = "features",
    stores: Sequence[str | Path] = (),
    device: str = "auto",
    progress: Progress | None = None,
) -> Evaluation:
    """Returns the scores of a run, or of a file of predictions, on a split of a data set.

    Args:
        model: a run folder, or predictions as JSON (COCO results), JSONL, CSV, TSV or Parquet; see `read_predictions`.
        data: anything `load_annotations` reads.
        split: which images; see `read_eval_split`.
        options: how a run searches; None = as it says itself.
        tokenization: ptb, whitespace or characters; None = characters for a run with a vocabulary of characters, else
            ptb.
        metrics: which scores; see `score_captions`.
        clip_model: hub name or folder of the network of CLIPScore.
        draws: bootstrap draws of the intervals.
        columns: columns of tables with names that are not usual.
        features: folder of feature stores; the encoder's for this data is filled where images are missing.
        stores: given stores to use instead.
        device: where a run computes.
        progress: told of images encoded, if any have to be.

    Raises:
        DataError: the split is empty, predictions are missing or doubled, or are the references themselves.
        CheckpointError: the run cannot be used.
        ConfigError: there is no such score or tokenization.
    """
    check_scores(metrics, draws)
    captions: Mapping[str, Caption] = {}
    path = Path(model)
    if is_run(model) or (path.is_dir() and not has_predictions(path)):
        captioner = TrainedCaptioner.load(model, device)
        subject = read_eval_split(data, split, captioner.run.config.data, columns)
        items, options = subject.items, captioner.options(options)
        tokenization = tokenization or captioner.run.config.text.tokenization
        source = feature_source(captioner, items, data, features, stores, progress)
        usable = [item for item in items if item.id in source] if source else items
        captions, problems = caption_split(captioner, usable, source, options)
        predictions = {image_id: caption.text for image_id, caption in captions.items()}
    else:
        subject, options = read_eval_split(data, split, columns=columns), None
        predictions, problems = match_predictions(read_predictions(path), subject.items, path)
        problems += refuse_references(path, Path(data), predictions, subject.items)
    return evaluate_captions(
        [item for item in subject.items if item.id in predictions],
        predictions,
        system=str(model),
        split=subject.split,
        training=subject.training,
        tokenization=tokenization or DEFAULT_TOKENIZATION,
        metrics=metrics,
        clip_model=clip_model,
        draws=draws,
        decoding=options,
        captions=captions,
        problems=[*subject.problems, *problems],
        left_out=[*subject.silent, *(item.id for item in subject.items if item.id not in predictions)],
    )


def evaluate_human(
    data: str | Path,
    *,
    split: str | None = None,
    which: str = "1",
    tokenization: str | None = None,
    metrics: Sequence[str] = DEFAULT_SCORES,
    clip_model: str = DEFAULT_CLIP,
    draws: int = DRAWS,
    columns: ColumnNames = USUAL_NAMES,
) -> Evaluation:
    """Returns the scores of one human caption of each image against its others.

    Args:
        data: anything `load_annotations` reads.
        split: which images; see `read_eval_split`.
        which: the caption that is scored: its number from 1, or `longest` (most characters of its tokens; the
            first of several).
        tokenization: ptb, whitespace or characters; None = ptb.
        metrics: which scores; see `score_captions`.
        clip_model: hub name or folder of the network of CLIPScore.
        draws: bootstrap draws of the intervals.
        columns: columns of tables with names that are not usual.

    Raises:
        DataError: an image has no such caption, or no other one.
        ConfigError: there is no such score or tokenization.
    """
    check_scores(metrics, draws)
    tokenization = tokenization or DEFAULT_TOKENIZATION
    subject = read_eval_split(data, split, columns=columns)
    items, predictions = [], {}
    for item in subject.items:
        place = _chosen(item, which, tokenization)
        predictions[item.id] = item.captions[place]
        items.append(replace(item, captions=item.captions[:place] + item.captions[place + 1 :]))
    return evaluate_captions(
        items,
        predictions,
        system=f"human caption ({which})",
        split=subject.split,
        training=subject.training,
        tokenization=tokenization,
        metrics=metrics,
        clip_model=clip_model,
        draws=draws,
        origin=f"human({which})",
        problems=subject.problems,
        left_out=subject.silent,
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
    clip_model: str = DEFAULT_CLIP,
    draws: int = DRAWS,
    decoding: DecodingOptions | None = None,
    origin: str = "file",
    captions: Mapping[str, Caption] | None = None,
    problems: Sequence[str] = (),
    left_out: Sequence[str] = (),
) -> Evaluation:
    """Returns the evaluation of captions that are there already.

    Args:
        items: the images with their references.
        predictions: a caption of each of them by id.
        system: what said them.
        split: the split's name.
        training: the captions that the system was trained on, if they are known.
        tokenization: ptb, whitespace or characters.
        metrics: which scores; see `score_captions`.
        clip_model: hub name or folder of the network of CLIPScore.
        draws: bootstrap draws of the intervals.
        decoding: how they were searched for.
        origin: where they come from if they were not.
        captions: the captions with their evidence.
        problems: what was wrong so far.
        left_out: images of the split that are not among `items`.
    """
    texts = [predictions[item.id] for item in items]
    scores, missing = score_captions(items, texts, tokenization=tokenization, metrics=metrics, clip_model=clip_model)
    told = [*problems, *scores.warnings]
    if left_out:
        told.append(f"{len(left_out)} images of the split are not in the scores: {', '.join(left_out[:5])}")
    if scores.empty:
        told.append(f"{len(scores.empty)} captions are empty and score 0: of {', '.join(scores.empty[:5])}")
    if SPICE in scores.corpus:
        told.append("SPICE is what its jar gives; our call of it has not been compared with published values")
    if scores.wordless:
        names = ", ".join(scores.wordless[:5])
        told.append(f"{len(scores.wordless)} images have references without any word: {names}")
    return Evaluation(
        system=system,
        items=tuple(items),
        predictions={item.id: text for item, text in zip(items, texts, strict=True)},
        scores=scores,
        intervals=bootstrap_intervals(scores, draws=draws),
        draws=draws,
        diversity=measure_diversity(
            texts,
            training,
            tokenization=tokenization,
            finished=[captions[item.id].finished for item in items] if captions else None,
        ),
        split=split,
        decoding=decoding,
        origin=origin,
        captions=captions or {},
        absent_objects=_absent_share(items, texts),
        problems=(*told, *missing.values()),
        left_out=tuple(left_out),
        missing_scores=missing,
    )


def _chosen(item: Annotation, which: str, tokenization: str) -> int:
    """Returns the place of the human caption that is scored."""
    if len(item.captions) < 2:
        raise DataError(f"image {item.id} has only one caption, and none to compare it with; leave it out")
    if which == "longest":
        lengths = [len(text) for text in tokenize(item.captions, tokenization)]
        return lengths.index(max(lengths))
    if not which.isdecimal() or not 1 <= int(which) <= len(item.captions):
        raise DataError(
            f"image {item.id} has no caption {which!r}; name one from 1 to {len(item.captions)}, or longest"
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
