"""Evaluation of a split: of a run, of a prediction file, or of one human caption against the others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from seesay.captioners.base import Captioner
from seesay.captioners.caption import Caption
from seesay.captioners.guard import clean, count_rejections
from seesay.captioners.identity import system_name
from seesay.captioners.spec import load_captioner
from seesay.captioners.trained import TrainedCaptioner
from seesay.checkpoint import is_run, read_run, used_images
from seesay.config import DecodingOptions
from seesay.data.readers.columns import USUAL_NAMES, ColumnNames
from seesay.data.records import Annotation
from seesay.data.synthetic.scenes import names_only_scenes, unfounded_mentions
from seesay.errors import ConfigError, DataError
from seesay.evaluation.captioning import caption_images, caption_split, feature_source
from seesay.evaluation.clipscore import DEFAULT_CLIP
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
    model: str | Path | Captioner,
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
    unfinished: Callable[[str], Path] | None = None,
    only_captioned: bool = False,
) -> Evaluation:
    """Returns the evaluation of a captioner, a run or a prediction file on a split of a data set.

    Args:
        model: a captioner, a run folder, or a prediction file; see `read_predictions`.
        data: anything `load_annotations` reads.
        split: see `read_eval_split`.
        options: decoding options of a captioner; None: its defaults.
        tokenization: ptb, whitespace or characters; None: characters for a run with a character vocabulary, else ptb.
        metrics: see `score_captions`.
        clip_model: hub name or folder of the CLIPScore model.
        draws: number of bootstrap draws of the intervals.
        columns: table columns to use instead of the common names.
        features: folder of feature stores; missing images are added to the store of the encoder and data.
        stores: imported feature stores to use instead.
        device: device of a run.
        progress: called with the numbers of finished images and of all images, while images are encoded or captioned.
        unfinished: returns, for the name of the split, the file that keeps the captions of an unfinished evaluation
            (see `caption_images`); None: it starts again. Captions from stored features are not kept.
        only_captioned: score the images that have a caption in a prediction file, instead of refusing a file without
            captions of some images.

    Raises:
        DataError: the split is empty, or predictions are missing, duplicate, or equal to the references.
        CheckpointError: the run cannot be loaded.
        ConfigError: unknown score or tokenization.
    """
    check_scores(metrics, draws)
    captioner = model if isinstance(model, Captioner) else _load(Path(model), device)
    if captioner is None:
        options, eval_split = None, read_eval_split(data, split, columns=columns)
        found = _read(Path(str(model)), data, eval_split.items, only_captioned=only_captioned)
    elif only_captioned:
        raise ConfigError("only_captioned is for files of captions, not for models; drop it")
    else:
        config = captioner.run_config
        used = used_images(captioner.folders)
        eval_split = read_eval_split(data, split, config.data if config else None, columns, used)
        options = captioner.options(options)
        tokenization = tokenization or (config.text.tokenization if config else None)
        source = None
        if type(captioner) is TrainedCaptioner:
            source = feature_source(captioner, eval_split.items, data, features, stores, progress)
        elif stores:
            raise ConfigError("--store has the features of a run; drop it, because this model reads the images")
        if source is None and unfinished is not None:
            kept = unfinished(eval_split.split)
            found = _named(captioner, *caption_images(captioner, eval_split.items, kept, options, progress))
        else:
            usable = [item for item in eval_split.items if source is None or item.id in source]
            found = _named(captioner, *caption_split(captioner, usable, source, options, progress=progress))
    predictions = found.predictions
    items = [item for item in eval_split.items if item.id in predictions]
    without = [] if only_captioned else [item.id for item in eval_split.items if item.id not in predictions]
    partial = only_captioned and len(items) < len(eval_split.items)
    return evaluate_captions(
        items,
        predictions,
        system=found.system,
        split=eval_split.split,
        training=eval_split.training,
        tokenization=tokenization or DEFAULT_TOKENIZATION,
        metrics=metrics,
        clip_model=clip_model,
        draws=draws,
        decoding=options,
        prompt=captioner.prompt_text if captioner else "",
        origin=f"file({len(items)} of {len(eval_split.items)} images)" if partial else "file",
        captions=found.captions,
        problems=[*eval_split.problems, *found.problems, *unfinished_runs(captioner.folders if captioner else ())],
        unscored=[*eval_split.uncaptioned, *without],
    )


def unfinished_runs(folders: Sequence[Path]) -> list[str]:
    """Return a line for each run whose training is not finished."""
    runs = [read_run(folder) for folder in folders if is_run(folder)]
    return [
        f"the training of {run.folder} is not finished: {run.info.progress.get('epochs', 0)} of "
        f"{run.config.training.epochs} epochs"
        for run in runs
        if run.info.progress and not run.info.progress.get("finished")
    ]


@dataclass(frozen=True)
class _Captioned:
    """The captions of a system.

    Attributes:
        system: name of the system.
        predictions: the captions by image id.
        problems: images without a caption, and other problems.
        captions: generated captions by image id, with scores.
    """

    system: str
    predictions: Mapping[str, str]
    problems: Sequence[str]
    captions: Mapping[str, Caption] = field(default_factory=dict)


def _named(captioner: Captioner, captions: Mapping[str, Caption], problems: Sequence[str]) -> _Captioned:
    """Return the captions of a captioner with its name."""
    folders = captioner.folders
    system = system_name(folders[0]) if len(folders) == 1 else captioner.name
    predictions = {image_id: clean(caption.text) for image_id, caption in captions.items()}
    return _Captioned(system, predictions, problems, captions)


def _read(path: Path, data: str | Path, items: Sequence[Annotation], *, only_captioned: bool) -> _Captioned:
    """Return the captions of a prediction file; see `match_predictions`."""
    predictions, problems = match_predictions(read_predictions(path), items, path, only_captioned=only_captioned)
    captioned = [item for item in items if item.id in predictions]
    problems += refuse_references(path, Path(data), predictions, captioned)
    return _Captioned(str(path), predictions, problems)


def _load(path: Path, device: str) -> Captioner | None:
    """Returns the captioner of a run; None for a prediction file."""
    if is_run(path) or (path.is_dir() and not has_predictions(path)):
        return load_captioner(path, device)
    return None


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
    """Returns the evaluation of one human caption of each image against the others.

    Args:
        data: anything `load_annotations` reads.
        split: see `read_eval_split`.
        which: the caption to score: its number from 1, or `longest` (most characters after tokenization).
        tokenization: ptb, whitespace or characters; None: ptb.
        metrics: see `score_captions`.
        clip_model: hub name or folder of the CLIPScore model.
        draws: number of bootstrap draws of the intervals.
        columns: table columns to use instead of the common names.

    Raises:
        DataError: an image has no such caption, or no other caption.
        ConfigError: unknown score or tokenization.
    """
    check_scores(metrics, draws)
    tokenization = tokenization or DEFAULT_TOKENIZATION
    eval_split = read_eval_split(data, split, columns=columns)
    items, predictions = [], {}
    for item in eval_split.items:
        index = _caption_index(item, which, tokenization)
        predictions[item.id] = item.captions[index]
        items.append(replace(item, captions=item.captions[:index] + item.captions[index + 1 :]))
    return evaluate_captions(
        items,
        predictions,
        system=f"human caption ({which})",
        split=eval_split.split,
        training=eval_split.training,
        tokenization=tokenization,
        metrics=metrics,
        clip_model=clip_model,
        draws=draws,
        origin=f"human({which})",
        problems=eval_split.problems,
        unscored=eval_split.uncaptioned,
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
    prompt: str = "",
    origin: str = "file",
    captions: Mapping[str, Caption] | None = None,
    problems: Sequence[str] = (),
    unscored: Sequence[str] = (),
) -> Evaluation:
    """Returns the evaluation of existing captions.

    Args:
        items: images with their references.
        predictions: caption by image id.
        system: source of the captions.
        split: name of the split.
        training: training captions of the system, if known.
        tokenization: ptb, whitespace or characters.
        metrics: see `score_captions`.
        clip_model: hub name or folder of the CLIPScore model.
        draws: number of bootstrap draws of the intervals.
        decoding: decoding options of generated captions.
        prompt: their prompt, with the language; empty: none.
        origin: source of other captions.
        captions: generated captions with scores and log-probabilities.
        problems: problems so far.
        unscored: images of the split that are not in `items`.
    """
    texts = [predictions[item.id] for item in items]
    scores, missing = score_captions(items, texts, tokenization=tokenization, metrics=metrics, clip_model=clip_model)
    messages = [*problems, *scores.warnings]
    if unscored:
        messages.append(f"{len(unscored)} images of the split are not scored: {', '.join(unscored[:5])}")
    if scores.empty:
        messages.append(f"{len(scores.empty)} captions are empty and score 0: {', '.join(scores.empty[:5])}")
    if SPICE in scores.corpus:
        messages.append("SPICE is computed by its jar and has not been compared with published values")
    if scores.wordless:
        names = ", ".join(scores.wordless[:5])
        messages.append(f"{len(scores.wordless)} images have references without words: {names}")
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
        prompt=prompt,
        origin=origin,
        captions=captions or {},
        absent_objects=_absent_share(items, texts),
        problems=(*messages, *missing.values()),
        unscored=tuple(unscored),
        missing_scores=missing,
        rejected=count_rejections(texts),
    )


def _caption_index(item: Annotation, which: str, tokenization: str) -> int:
    """Returns the index of the human caption to score."""
    if len(item.captions) < 2:
        raise DataError(f"image {item.id} has only one caption and cannot be scored; remove it")
    if which == "longest":
        lengths = [len(text) for text in tokenize(item.captions, tokenization)]
        return lengths.index(max(lengths))
    if not which.isdecimal() or not 1 <= int(which) <= len(item.captions):
        raise DataError(f"image {item.id} has no caption {which!r}; choose 1 to {len(item.captions)}, or longest")
    return int(which) - 1


def _absent_share(items: Sequence[Annotation], texts: Sequence[str]) -> float | None:
    """Returns the fraction of captions that mention an absent object; None if an image has no boxes."""
    if not all(item.boxes for item in items):
        return None
    if names_only_scenes(items):
        wrong = [bool(unfounded_mentions(text, item)) for item, text in zip(items, texts, strict=True)]
    else:
        labels = [{box.label for box in item.boxes} for item in items]
        wrong = [bool(names) for names in absent_objects(texts, labels)]
    return sum(wrong) / len(wrong)
