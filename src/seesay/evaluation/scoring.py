"""Every score that was asked for, and a reason for each that cannot be had; one that fails takes no other along."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from seesay.clipscore import CLIP_SCORE, DEFAULT_CLIP, REF_CLIP_SCORE, ClipScorer
from seesay.data.records import Annotation
from seesay.errors import ConfigError, DataError, SeesayError
from seesay.metrics import Scores, compute_metrics, tokenize
from seesay.metrics.bootstrap import DRAWS, check_draws
from seesay.metrics.java import METEOR_JAR, SPICE, jar_scores
from seesay.metrics.scores import COLUMNS, NEED_NOTHING, foreign_warning, not_english

DEFAULT_SCORES = (*NEED_NOTHING, "METEOR")
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
    """Returns the scores of one caption an image, and why each of those asked for that is absent cannot be had.

    Args:
        items: the images with their references.
        texts: a caption of each.
        tokenization: ptb, whitespace or characters.
        metrics: of `ALL_SCORES`: BLEU, ROUGE-L, CIDEr, CIDEr-plain, METEOR (ours, tables of the extra `coco`),
            METEOR-jar and SPICE (Java, the extra `coco`), CLIPScore (weights; the extra `hub`).
        clip_model: hub name or folder of the network of CLIPScore.

    Raises:
        ConfigError: there is no such score or tokenization.
        DataError: the captions do not fit the images, or not one of the scores can be had.
    """
    check_scores(metrics)
    references = [list(item.captions) for item in items]
    people = [text for image in references for text in image]
    ids = [item.id for item in items]

    def own(*names: str) -> Scores:
        return compute_metrics(texts, references, tokenization=tokenization, ids=ids, metrics=names)

    # Those that need nothing are computed together, the others each by itself, for any of them may fail.
    alone: dict[str, Callable[[Scores], Scores]] = {
        "METEOR": lambda found: found.joined(own("METEOR")),
        METEOR_JAR: lambda found: _with_jar(found, METEOR_JAR, texts, references),
        SPICE: lambda found: _with_jar(found, SPICE, texts, references),
        CLIP_SCORE: lambda found: _with_clip(found, items, texts, clip_model),
    }
    scores = own(*(name for name in metrics if name not in alone))
    missing: dict[str, str] = {}
    for name, add in alone.items():
        if name not in metrics:
            continue
        try:
            if name in _ENGLISH and (reason := not_english(name, tokenization, people)):
                raise ConfigError(reason)
            scores = add(scores)
            if (name in _ENGLISH or clip_model == DEFAULT_CLIP) and (warning := foreign_warning(name, people)):
                scores = replace(scores, warnings=tuple(dict.fromkeys((*scores.warnings, warning))))
        except SeesayError as error:
            missing[name] = str(error)
    if not scores.corpus:
        raise DataError("; ".join(missing.values()) or "name at least one score to compute")
    return scores, missing


def check_scores(metrics: Sequence[str], draws: int = DRAWS) -> None:
    """Checks the names of scores and the number of draws, before anything is read or computed for them.

    Raises:
        ConfigError: there is no such score, or there are no draws.
    """
    check_draws(draws)
    unknown = [name for name in metrics if name not in ALL_SCORES]
    if unknown:
        raise ConfigError(f"unknown metric {unknown[0]!r}; choose from {', '.join(ALL_SCORES)}")


def _with_jar(scores: Scores, name: str, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Returns the scores with one of a jar; the jars read PTB tokens, as coco-caption gives them."""
    corpus, per_image, release = jar_scores(name, tokenize(texts), [tokenize(image) for image in references])
    mean = float(per_image.mean())
    # SPICE's value is the mean over images, whose draws can be resampled; METEOR's is none.
    return scores.with_score(name, per_image, None if abs(mean - corpus) < 1e-9 else corpus, recipe=release)


def _with_clip(scores: Scores, items: Sequence[Annotation], texts: Sequence[str], model: str) -> Scores:
    scorer = ClipScorer.load(model)
    plain, with_references = scorer.score([item.image for item in items], texts, [item.captions for item in items])
    found = scores.with_score(CLIP_SCORE, plain, recipe=f"clip:{model}")
    return found.with_score(REF_CLIP_SCORE, with_references)
