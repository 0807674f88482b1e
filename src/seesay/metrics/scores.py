"""Corpus and per-image scores of captions, with the statistics they are made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import numpy.typing as npt

from seesay.errors import ConfigError, DataError
from seesay.languages import is_latin, is_unspaced, language_of
from seesay.metrics.bleu import bleu_from_statistics, bleu_statistics
from seesay.metrics.cider import Cider
from seesay.metrics.meteor import Meteor, available, meteor_from_statistics
from seesay.metrics.ngrams import ReferenceNgrams, number_tokens
from seesay.metrics.rouge import rouge_l
from seesay.metrics.tokenize import tokenize

Floats = npt.NDArray[np.float64]

NEED_NOTHING = ("BLEU", "ROUGE-L", "CIDEr")
# The printed names of each metric, in the order of the columns that its function of statistics gives.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "BLEU": ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"),
    "ROUGE-L": ("ROUGE-L",),
    "CIDEr": ("CIDEr",),
    "CIDEr-plain": ("CIDEr-plain",),
    "METEOR": ("METEOR",),
}


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one set of hypotheses.

    Attributes:
        corpus: value of each score over all images, as the reference implementation prints it (CIDEr about
            0 to 3, the others 0 to 1).
        per_image: the scores of each image, (B,); a corpus BLEU is not their mean.
        signature: what the numbers depend on: protocol, tokenization, images, references, version.
        ids: the images, in order.
        empty: ids of the images whose hypothesis has no words; they score 0.
        tokenization: how captions were cut into words.
        statistics: what each metric averages over images before its last step, (B, columns).
        lengths: tokens of each hypothesis, (B,).
        wordless: ids of the images one of whose references has no words.
        warnings: one line for each reason why the scores may not mean what they seem to.
    """

    corpus: dict[str, float]
    per_image: dict[str, Floats]
    signature: str
    ids: tuple[str, ...]
    empty: tuple[str, ...]
    tokenization: str
    statistics: dict[str, Floats]
    lengths: tuple[int, ...] = ()
    wordless: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def resample(self, images: npt.NDArray[np.int64]) -> dict[str, Floats]:
        """Returns the corpus values, (R,), over R draws of image indices, (R, B), as a bootstrap has.

        CIDEr keeps the document frequencies of the whole set, so a draw changes which images count, not
        their scores.
        """
        if not self.statistics:
            return {}
        table = np.hstack(list(self.statistics.values()))
        # How often each image is in a draw, times all statistics: one product per draw instead of copies of its rows.
        # A draw's sums do not depend on the draws beside it, as they would in one product of all draws.
        sums = np.stack([np.bincount(draw, minlength=len(table)) @ table for draw in images])
        widths = [statistics.shape[1] for statistics in self.statistics.values()]
        count = np.full(len(sums), float(images.shape[1]))
        values: dict[str, Floats] = {}
        for metric, part in zip(self.statistics, np.split(sums, np.cumsum(widths)[:-1], axis=1), strict=True):
            values |= _named(metric, _finish(metric, part, count))
        return values

    def joined(self, other: "Scores") -> "Scores":
        """Returns these scores and others of the same captions."""
        recipes = [part for part in other.signature.split("|") if part not in self.signature.split("|")]
        return replace(
            self,
            corpus=self.corpus | other.corpus,
            per_image=self.per_image | other.per_image,
            statistics=self.statistics | other.statistics,
            signature="|".join([self.signature, *recipes]),
            warnings=tuple(dict.fromkeys(self.warnings + other.warnings)),
        )

    def with_score(self, name: str, per_image: Floats, corpus: float | None = None, recipe: str = "") -> "Scores":
        """Returns these scores and one more, which was computed elsewhere.

        Args:
            name: what it is printed as.
            per_image: its value for each image, (B,).
            corpus: its value over all images; None = the mean. One that is given and no mean has no statistics
                here, so that `resample` leaves it out.
            recipe: what else it depends on, for the signature.

        Raises:
            DataError: there are not as many values as images, or one is no number.
        """
        if per_image.shape != (len(self.ids),) or not np.isfinite(per_image).all():
            raise DataError(f"{name} has not one finite value for each of the {len(self.ids)} images")
        statistics = self.statistics if corpus is not None else {**self.statistics, name: per_image[:, None]}
        value = float(per_image.mean()) if corpus is None else corpus
        return replace(
            self,
            corpus={**self.corpus, name: value},
            per_image={**self.per_image, name: per_image},
            statistics=statistics,
            signature=f"{self.signature}|{recipe}" if recipe else self.signature,
        )


def compute_metrics(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenization: str = "ptb",
    ids: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
) -> Scores:
    """Returns the scores of one hypothesis an image against its references, by the COCO protocol.

    Args:
        hypotheses: one caption for each image; one without words scores 0 and is in `Scores.empty`.
        references: the human captions of each image, in the same order.
        tokenization: see `seesay.metrics.tokenize`.
        ids: names of the images, for messages and `Scores.ids`; their places by default.
        metrics: which of BLEU, ROUGE-L, CIDEr, CIDEr-plain and METEOR to compute; None = all that the literature
            prints: the first three, and METEOR where it can be had (Latin letters in PTB tokens, and the tables of the
            extra `coco`), whose table of paraphrases takes some seconds at the first use on a machine. The document
            frequencies of CIDEr are those of the references given, as in the literature: its value depends on how many
            images there are, and of a single image it is 0.

    Raises:
        DataError: The lists do not fit together, or hold something that is no caption; the image is named.
        ConfigError: There is no such metric or tokenization, or METEOR is asked for of other than PTB tokens, or of
            text that is not in Latin letters.
        MissingDependencyError: METEOR is asked for, and its tables are not installed.
    """
    names = _checked_ids(hypotheses, references, ids)
    texts = [text for image in references for text in image]
    if metrics is None:
        metrics = NEED_NOTHING if missing_meteor(tokenization, texts) else (*NEED_NOTHING, "METEOR")
    unknown = [name for name in metrics if name not in COLUMNS]
    if unknown:
        raise ConfigError(f"unknown metric {unknown[0]!r}; choose from {', '.join(COLUMNS)}")
    if "METEOR" in metrics and (reason := not_english("METEOR", tokenization, texts)):
        raise ConfigError(reason)
    said = tokenize(hypotheses, tokenization)
    meant = _by_image(tokenize(texts, tokenization), references)
    statistics = _statistics(said, meant, metrics)
    corpus: dict[str, float] = {}
    per_image: dict[str, Floats] = {}
    for metric, values in statistics.items():
        count = np.array(float(len(names)))
        total = _named(metric, _finish(metric, values.sum(axis=0), count))
        corpus |= {name: float(value) for name, value in total.items()}
        per_image |= _named(metric, _finish(metric, values, np.ones(len(names))))
    return Scores(
        corpus=corpus,
        per_image=per_image,
        signature=_signature(tokenization, references) + ("|meteor:1.5-en" if "METEOR" in metrics else ""),
        ids=names,
        empty=tuple(name for name, words in zip(names, said, strict=True) if not words),
        tokenization=tokenization,
        statistics=statistics,
        lengths=tuple(len(words.split()) for words in said),
        wordless=tuple(name for name, image in zip(names, meant, strict=True) if not all(image)),
        warnings=_warnings(metrics, tokenization, texts),
    )


class CaptionMetrics:
    """The same scores, gathered batch by batch: update with each, compute at the end.

    Args:
        tokenization: see `seesay.metrics.tokenize`.
        metrics: see `compute_metrics`.
    """

    def __init__(self, tokenization: str = "ptb", metrics: Sequence[str] | None = None) -> None:
        self.tokenization = tokenization
        self.metrics = metrics
        self.reset()

    def reset(self) -> None:
        """Forgets every caption."""
        self.hypotheses: list[str] = []
        self.references: list[list[str]] = []
        self.ids: list[str] = []

    def update(
        self, hypotheses: Sequence[str], references: Sequence[Sequence[str]], ids: Sequence[str] | None = None
    ) -> None:
        """Adds a batch of images.

        Raises:
            DataError: The batch does not fit together; none of it is added.
        """
        start = len(self.ids)
        names = ids if ids is not None else [str(start + place) for place in range(len(hypotheses))]
        checked = _checked_ids(hypotheses, references, names)
        self.hypotheses += hypotheses
        self.references += [list(image) for image in references]
        self.ids += checked

    def compute(self) -> Scores:
        """Returns the scores of everything added so far.

        Raises:
            DataError: Nothing was added, or one image twice.
        """
        return compute_metrics(
            self.hypotheses,
            self.references,
            tokenization=self.tokenization,
            ids=self.ids,
            metrics=self.metrics,
        )


def _checked_ids(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], ids: Sequence[str] | None
) -> tuple[str, ...]:
    """Returns the name of each image, after checking that everything fits together."""
    if not all(isinstance(each, Sequence) and not isinstance(each, str) for each in (hypotheses, references)):
        kinds = f"{type(hypotheses).__name__} and {type(references).__name__}"
        raise DataError(f"hypotheses and references are lists with one entry an image; got {kinds}")
    if len(hypotheses) != len(references):
        raise DataError(
            f"{len(hypotheses)} hypotheses but references of {len(references)} images; give one hypothesis an image"
        )
    if not len(hypotheses):
        raise DataError("no hypotheses to score; give at least one image")
    names = tuple(map(str, ids)) if ids is not None else tuple(map(str, range(len(hypotheses))))
    if len(names) != len(hypotheses):
        raise DataError(f"{len(names)} ids for {len(hypotheses)} hypotheses; give one id an image")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"image {twice} is given twice; keep one hypothesis for it")
    for name, hypothesis, image in zip(names, hypotheses, references, strict=True):
        if not isinstance(hypothesis, str):
            raise DataError(f"image {name}: the hypothesis is {hypothesis!r}, not a text")
        if isinstance(image, str) or not isinstance(image, Sequence):
            raise DataError(f"image {name}: references must be a list of texts, not {image!r}")
        if not len(image):
            raise DataError(f"image {name} has no references; leave it out or give it at least one")
        for reference in image:
            if not isinstance(reference, str):
                raise DataError(f"image {name}: a reference is {reference!r}, not a text")
    return names


def _by_image(captions: Sequence[str], like: Sequence[Sequence[str]]) -> list[list[str]]:
    """Returns flat captions grouped as the images have them."""
    flat = iter(captions)
    return [[next(flat) for _ in image] for image in like]


def _statistics(said: Sequence[str], meant: Sequence[Sequence[str]], metrics: Sequence[str]) -> dict[str, Floats]:
    """Returns the per-image statistics of each metric, (B, columns), from tokenized captions."""
    # A token may hold a no-break space (a fraction such as 1 1/2): the reference's BLEU and CIDEr cut there,
    # its ROUGE-L does not. So n-grams come from split() and ROUGE-L from split(" ").
    hypotheses, references = number_tokens(
        [caption.split() for caption in said], [[caption.split() for caption in image] for image in meant]
    )
    table = ReferenceNgrams(references)

    def rouge() -> Floats:
        pairs = zip(said, meant, strict=True)
        scores = [rouge_l(_words(caption), [_words(reference) for reference in image]) for caption, image in pairs]
        return np.array(scores)[:, None]

    functions: dict[str, Callable[[], Floats]] = {
        "BLEU": lambda: bleu_statistics(table, hypotheses),
        "ROUGE-L": rouge,
        "CIDEr": lambda: Cider(table).score(hypotheses)[:, None],
        "CIDEr-plain": lambda: Cider(table, variant="plain").score(hypotheses)[:, None],
        "METEOR": lambda: _meteor().statistics(said, meant),
    }
    return {metric: functions[metric]() for metric in metrics}


def missing_meteor(tokenization: str, references: Sequence[str] = ()) -> str:
    """Returns why METEOR of captions so tokenized cannot be had, in one line; empty where it can."""
    return not_english("METEOR", tokenization, references) or available()


def not_english(name: str, tokenization: str, references: Sequence[str]) -> str:
    """Returns why a score for English cannot be computed of such captions, in one line; empty where it can."""
    if tokenization != "ptb":
        return f"{name} is for English in PTB tokens, not for {tokenization}; it is left out"
    language = language_of(references)
    if language and not is_latin(language):
        return f"{name} is for English, and the references are in another script (language {language}); it is left out"
    return ""


def foreign_warning(name: str, references: Sequence[str]) -> str:
    """Returns a line where a score for English is computed of another language; empty where it is not."""
    language = language_of(references)
    if language in ("", "en"):
        return ""
    return f"{name} is for English, and the references are in another language ({language}): do not rely on it"


def _warnings(metrics: Sequence[str], tokenization: str, references: Sequence[str]) -> tuple[str, ...]:
    """Returns a line for each reason why scores may not mean what they seem to."""
    found = [foreign_warning("METEOR", references) if "METEOR" in metrics else ""]
    if tokenization != "characters" and is_unspaced(references):
        found.append(
            f"the captions are written without spaces, so that {tokenization} tokens are whole phrases and scores are "
            "near 0; add --tokenization characters"
        )
    return tuple(line for line in found if line)


@cache
def _meteor() -> Meteor:
    """Returns one scorer for all calls, which looks up each word once."""
    return Meteor.load()


def _words(caption: str) -> list[str]:
    return caption.split(" ") if caption else []


def _finish(metric: str, total: Floats, count: Floats) -> Floats:
    """Returns the values of a metric, (..., columns), from statistics summed over `count` images."""
    if metric == "BLEU":
        return bleu_from_statistics(total)
    if metric == "METEOR":
        return meteor_from_statistics(total)[..., None]
    return np.asarray(total / count[..., None])


def _named(metric: str, values: Floats) -> dict[str, Floats]:
    return {name: values[..., column] for column, name in enumerate(COLUMNS.get(metric, (metric,)))}


def number_of_references(references: Sequence[Sequence[str]]) -> str:
    """Returns how many references an image has: a number, or the least and the most such as 4-6."""
    counts = {len(image) for image in references}
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)}-{max(counts)}"


def _signature(tokenization: str, references: Sequence[Sequence[str]]) -> str:
    number = number_of_references(references)
    try:
        release = version("seesay")
    except PackageNotFoundError:  # run from a source tree that is not installed
        release = "source"
    return f"protocol:coco|tok:{tokenization}|images:{len(references)}|refs:{number}|version:{release}"
