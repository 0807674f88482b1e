"""Corpus and per-image scores of captions, with their sufficient statistics."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

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
from seesay.notebook import ResultTable

if TYPE_CHECKING:
    from rich.table import Table

Floats = npt.NDArray[np.float64]

BUILTIN_METRICS = ("BLEU", "ROUGE-L", "CIDEr")
# Score names of each metric.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "BLEU": ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"),
    "ROUGE-L": ("ROUGE-L",),
    "CIDEr": ("CIDEr",),
    "CIDEr-plain": ("CIDEr-plain",),
    "METEOR": ("METEOR",),
}


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """Scores of one set of hypotheses.

    Attributes:
        corpus: corpus value of each score, in the range of the reference implementation (CIDEr about 0 to 3, others 0
            to 1).
        per_image: scores per image, (B,); corpus BLEU is not their mean.
        signature: everything the numbers depend on: protocol, tokenization, images, references, version.
        ids: image ids, in order.
        empty: ids of images whose hypothesis has no words; they score 0.
        tokenization: ptb, whitespace or characters.
        statistics: statistics of each metric that are summed over images, (B, columns).
        lengths: number of tokens of each hypothesis, (B,).
        wordless: ids of images with a reference that has no words.
        warnings: one line per reason why scores may be misleading.
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

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {100 * value:.1f}" for name, value in self.corpus.items())
        return f"Scores({len(self.ids)} images: {values})"

    def table(self) -> ResultTable:
        """Return the corpus scores, times 100, as notebooks and `rich.print` show them."""
        rows = [(name, f"{100 * value:.2f}") for name, value in self.corpus.items()]
        return ResultTable(f"{len(self.ids)} images", ("score x 100", "value"), rows, self.signature)

    def __rich__(self) -> "Table":
        return self.table().rich()

    def _repr_html_(self) -> str:
        return self.table().html()

    def resample(self, images: npt.NDArray[np.int64]) -> dict[str, Floats]:
        """Returns the corpus values, (R,), of R bootstrap draws of image indices, (R, B).

        CIDEr keeps the document frequencies of the full set, so that a draw does not change the scores of its images.
        """
        if not self.statistics:
            return {}
        table = np.hstack(list(self.statistics.values()))
        # Counts of each image in a draw times all statistics: one product per draw instead of copies of rows. Separate
        # products make the sums of a draw independent of the other draws.
        sums = np.stack([np.bincount(draw, minlength=len(table)) @ table for draw in images])
        widths = [statistics.shape[1] for statistics in self.statistics.values()]
        count = np.full(len(sums), float(images.shape[1]))
        values: dict[str, Floats] = {}
        for metric, part in zip(self.statistics, np.split(sums, np.cumsum(widths)[:-1], axis=1), strict=True):
            values |= _named(metric, _finish(metric, part, count))
        return values

    def merged(self, other: "Scores") -> "Scores":
        """Returns these scores merged with others of the same captions."""
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
        """Returns these scores with an additional one.

        Args:
            name: name of the score.
            per_image: values per image, (B,).
            corpus: corpus value; None: the mean. A score with a corpus value has no statistics, so that `resample`
                skips it.
            recipe: what else it depends on, for the signature.

        Raises:
            DataError: the number of values is wrong, or a value is not finite.
        """
        if per_image.shape != (len(self.ids),) or not np.isfinite(per_image).all():
            raise DataError(f"{name} needs one finite value for each of the {len(self.ids)} images")
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
    """Returns the scores of one hypothesis per image against its references, by the COCO protocol.

    CIDEr takes its document frequencies from the references, as in the literature: its value depends on the number of
    images and is 0 for a single image. The first use of METEOR on a machine takes some seconds for its paraphrase
    table.

    Args:
        hypotheses: one caption per image; one without words scores 0 and is in `Scores.empty`.
        references: human captions of each image, in the same order.
        tokenization: see `seesay.metrics.tokenize`.
        ids: image ids, for messages and `Scores.ids`; by default their indices.
        metrics: subset of BLEU, ROUGE-L, CIDEr, CIDEr-plain and METEOR; None: BLEU, ROUGE-L, CIDEr, and METEOR if
            available (PTB tokens, Latin script and the tables of the extra `coco`).

    Raises:
        DataError: The lists have different lengths or invalid entries.
        ConfigError: Unknown metric or tokenization, or METEOR for other than PTB tokens or Latin script.
        MissingDependencyError: METEOR is requested, and its tables are not installed.
    """
    names = _checked_ids(hypotheses, references, ids)
    texts = [text for image in references for text in image]
    if metrics is None:
        metrics = BUILTIN_METRICS if missing_meteor(tokenization, texts) else (*BUILTIN_METRICS, "METEOR")
    unknown = [name for name in metrics if name not in COLUMNS]
    if unknown:
        raise ConfigError(f"unknown metric {unknown[0]!r}; choose from {', '.join(COLUMNS)}")
    if "METEOR" in metrics and (reason := not_english("METEOR", tokenization, texts)):
        raise ConfigError(reason)
    tokenized = tokenize(hypotheses, tokenization)
    tokenized_references = _by_image(tokenize(texts, tokenization), references)
    statistics = _statistics(tokenized, tokenized_references, metrics)
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
        empty=tuple(name for name, words in zip(names, tokenized, strict=True) if not words),
        tokenization=tokenization,
        statistics=statistics,
        lengths=tuple(len(words.split()) for words in tokenized),
        wordless=tuple(name for name, image in zip(names, tokenized_references, strict=True) if not all(image)),
        warnings=_warnings(metrics, tokenization, texts),
    )


class CaptionMetrics:
    """Accumulates captions over batches: `update` per batch, `compute` at the end.

    Args:
        tokenization: see `seesay.metrics.tokenize`.
        metrics: see `compute_metrics`.
    """

    def __init__(self, tokenization: str = "ptb", metrics: Sequence[str] | None = None) -> None:
        self.tokenization = tokenization
        self.metrics = metrics
        self.reset()

    def reset(self) -> None:
        """Removes all captions."""
        self.hypotheses: list[str] = []
        self.references: list[list[str]] = []
        self.ids: list[str] = []

    def update(
        self, hypotheses: Sequence[str], references: Sequence[Sequence[str]], ids: Sequence[str] | None = None
    ) -> None:
        """Adds a batch of images.

        Raises:
            DataError: The lists of the batch do not match; nothing is added.
        """
        start = len(self.ids)
        names = ids if ids is not None else [str(start + index) for index in range(len(hypotheses))]
        checked = _checked_ids(hypotheses, references, names)
        self.hypotheses += hypotheses
        self.references += [list(image) for image in references]
        self.ids += checked

    def compute(self) -> Scores:
        """Returns the scores of all captions added so far.

        Raises:
            DataError: No captions were added, or an image twice.
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
    """Checks the arguments of `compute_metrics` and returns the id of each image."""
    if not all(isinstance(value, Sequence) and not isinstance(value, str) for value in (hypotheses, references)):
        kinds = f"{type(hypotheses).__name__} and {type(references).__name__}"
        raise DataError(f"hypotheses and references must be lists with one entry per image; got {kinds}")
    if len(hypotheses) != len(references):
        raise DataError(
            f"{len(hypotheses)} hypotheses but references of {len(references)} images; pass one hypothesis per image"
        )
    if not len(hypotheses):
        raise DataError("no hypotheses to score; pass at least one image")
    names = tuple(map(str, ids)) if ids is not None else tuple(map(str, range(len(hypotheses))))
    if len(names) != len(hypotheses):
        raise DataError(f"{len(names)} ids for {len(hypotheses)} hypotheses; pass one id per image")
    if len(set(names)) != len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise DataError(f"duplicate image {duplicate}; pass one hypothesis per image")
    for name, hypothesis, image in zip(names, hypotheses, references, strict=True):
        if not isinstance(hypothesis, str):
            raise DataError(f"image {name}: the hypothesis is {hypothesis!r}, not a text")
        if isinstance(image, str) or not isinstance(image, Sequence):
            raise DataError(f"image {name}: references must be a list of texts, not {image!r}")
        if not len(image):
            raise DataError(f"image {name} has no references; remove it or pass at least one")
        for reference in image:
            if not isinstance(reference, str):
                raise DataError(f"image {name}: a reference is {reference!r}, not a text")
    return names


def _by_image(captions: Sequence[str], like: Sequence[Sequence[str]]) -> list[list[str]]:
    """Returns a flat list of captions grouped by image."""
    flat = iter(captions)
    return [[next(flat) for _ in image] for image in like]


def _statistics(
    tokenized: Sequence[str], tokenized_references: Sequence[Sequence[str]], metrics: Sequence[str]
) -> dict[str, Floats]:
    """Returns the per-image statistics of each metric, (B, columns)."""
    # A token may contain a no-break space (a fraction such as 1 1/2): the reference implementation splits there for
    # BLEU and CIDEr but not for ROUGE-L. So n-grams use split() and ROUGE-L uses split(" ").
    hypotheses, references = number_tokens(
        [caption.split() for caption in tokenized],
        [[caption.split() for caption in image] for image in tokenized_references],
    )
    table = ReferenceNgrams(references)

    def rouge() -> Floats:
        pairs = zip(tokenized, tokenized_references, strict=True)
        scores = [rouge_l(_words(caption), [_words(reference) for reference in image]) for caption, image in pairs]
        return np.array(scores)[:, None]

    functions: dict[str, Callable[[], Floats]] = {
        "BLEU": lambda: bleu_statistics(table, hypotheses),
        "ROUGE-L": rouge,
        "CIDEr": lambda: Cider(table).score(hypotheses)[:, None],
        "CIDEr-plain": lambda: Cider(table, variant="plain").score(hypotheses)[:, None],
        "METEOR": lambda: _meteor().statistics(tokenized, tokenized_references),
    }
    return {metric: functions[metric]() for metric in metrics}


def missing_meteor(tokenization: str, references: Sequence[str] = ()) -> str:
    """Returns the reason why METEOR cannot be computed, in one line; empty if it can."""
    return not_english("METEOR", tokenization, references) or available()


def not_english(name: str, tokenization: str, references: Sequence[str]) -> str:
    """Returns the reason why an English metric cannot be computed, in one line; empty if it can."""
    if tokenization != "ptb":
        return f"{name} requires English PTB tokens, not {tokenization}; skipped"
    language = language_of(references)
    if language and not is_latin(language):
        return f"{name} requires English, but the references are in another script (language {language}); skipped"
    return ""


def foreign_warning(name: str, references: Sequence[str]) -> str:
    """Returns a warning if an English metric is computed for another language, else an empty string."""
    language = language_of(references)
    if language in ("", "en"):
        return ""
    return f"{name} is designed for English, but the references are in another language ({language}): not reliable"


def _warnings(metrics: Sequence[str], tokenization: str, references: Sequence[str]) -> tuple[str, ...]:
    """Returns one line per reason why scores may be misleading."""
    found = [foreign_warning("METEOR", references) if "METEOR" in metrics else ""]
    if tokenization != "characters" and is_unspaced(references):
        found.append(
            f"the captions have no spaces between words, so that {tokenization} tokens are phrases and scores near 0; "
            "pass --tokenization characters"
        )
    return tuple(line for line in found if line)


@cache
def _meteor() -> Meteor:
    """Returns the shared scorer, which caches word lookups."""
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
    """Returns the number of references per image, as a number or a range such as 4-6."""
    counts = {len(image) for image in references}
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)}-{max(counts)}"


def _signature(tokenization: str, references: Sequence[Sequence[str]]) -> str:
    number = number_of_references(references)
    try:
        release = version("seesay")
    except PackageNotFoundError:  # source tree that is not installed
        release = "source"
    return f"protocol:coco|tok:{tokenization}|images:{len(references)}|refs:{number}|version:{release}"
