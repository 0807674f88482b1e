"""Computation of the requested scores; a failing one is reported and does not affect the others."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from seesay.data.records import Annotation
from seesay.errors import ConfigError, DataError, SeesayError
from seesay.evaluation.clipscore import CLIP_SCORE, DEFAULT_CLIP, REF_CLIP_SCORE, ClipScorer
from seesay.metrics import Scores, compute_metrics, tokenize
from seesay.metrics.bootstrap import DRAWS, check_draws
from seesay.metrics.java import METEOR_JAR, SPICE, jar_scores
from seesay.metrics.scores import BUILTIN_METRICS, COLUMNS, foreign_warning, not_english

DEFAULT_SCORES = (*BUILTIN_METRICS, "METEOR")
ALL_SCORES = (*COLUMNS, METEOR_JAR, SPICE, CLIP_SCORE)
_ENGLISH = ("METEOR", METEOR_JAR, SPICE)


def score_captions(
    items: Sequence[Annotation],
    texts: Sequence[str],
    *,
    tokenization: str = "ptb",
    metrics: Sequence[str] = DEFAULT_SCORES,
    clip_model: str = DEFAULT_CLIP,
) -> tuple[Scores, dict[str, str]]:
    """Returns the scores of one caption per image, and the reasons why requested scores are missing.

    Args:
        items: images with their references.
        texts: one caption per image.
        tokenization: ptb, whitespace or characters.
        metrics: subset of `ALL_SCORES`: BLEU, ROUGE-L, CIDEr, CIDEr-plain, METEOR (tables of the extra `coco`),
            METEOR-jar and SPICE (Java, extra `coco`), CLIPScore (weights, extra `hub`).
        clip_model: hub name or folder of the CLIPScore model.

    Raises:
        ConfigError: unknown score or tokenization.
        DataError: the captions do not match the images, or none of the scores can be computed.
    """
    check_scores(metrics)
    references = [list(item.captions) for item in items]
    reference_texts = [text for image in references for text in image]
    ids = [item.id for item in items]

    def compute(*names: str) -> Scores:
        return compute_metrics(texts, references, tokenization=tokenization, ids=ids, metrics=names)

    # Built-in metrics are computed together, the others separately because each may fail.
    separate: dict[str, Callable[[Scores], Scores]] = {
        "METEOR": lambda found: found.merged(compute("METEOR")),
        METEOR_JAR: lambda found: _with_jar(found, METEOR_JAR, texts, references),
        SPICE: lambda found: _with_jar(found, SPICE, texts, references),
        CLIP_SCORE: lambda found: _with_clip(found, items, texts, clip_model),
    }
    scores = compute(*(name for name in metrics if name not in separate))
    missing: dict[str, str] = {}
    for name, add in separate.items():
        if name not in metrics:
            continue
        try:
            if name in _ENGLISH and (reason := not_english(name, tokenization, reference_texts)):
                raise ConfigError(reason)
            scores = add(scores)
            if (name in _ENGLISH or clip_model == DEFAULT_CLIP) and (warning := foreign_warning(name, reference_texts)):
                scores = replace(scores, warnings=tuple(dict.fromkeys((*scores.warnings, warning))))
        except SeesayError as error:
            missing[name] = str(error)
    if not scores.corpus:
        raise DataError("; ".join(missing.values()) or "request at least one score")
    return scores, missing


def check_scores(metrics: Sequence[str], draws: int = DRAWS) -> None:
    """Checks the names of scores and the number of draws.

    Raises:
        ConfigError: unknown score or invalid number of draws.
    """
    check_draws(draws)
    unknown = [name for name in metrics if name not in ALL_SCORES]
    if unknown:
        raise ConfigError(f"unknown metric {unknown[0]!r}; choose from {', '.join(ALL_SCORES)}")


def _with_jar(scores: Scores, name: str, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Returns the scores with one of a jar, which reads PTB tokens as in coco-caption."""
    corpus, per_image, release = jar_scores(name, tokenize(texts), [tokenize(image) for image in references])
    mean = float(per_image.mean())
    # SPICE is a mean over images and can be resampled; METEOR is not.
    return scores.with_score(name, per_image, None if abs(mean - corpus) < 1e-9 else corpus, recipe=release)


def _with_clip(scores: Scores, items: Sequence[Annotation], texts: Sequence[str], model: str) -> Scores:
    scorer = ClipScorer.load(model)
    plain, with_references = scorer.score([item.image for item in items], texts, [item.captions for item in items])
    found = scores.with_score(CLIP_SCORE, plain, recipe=f"clip:{model}")
    return found.with_score(REF_CLIP_SCORE, with_references)
