"""The choice of the settings of reranking on validation images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seesay.captioners.caption import Caption
from seesay.captioners.trained import TrainedCaptioner
from seesay.config import DecodingOptions
from seesay.data.annotations import load_dataset
from seesay.data.records import Annotation
from seesay.decoding.hypothesis import Hypothesis
from seesay.errors import DataError
from seesay.evaluation.captioning import caption_split, feature_source
from seesay.evaluation.indexing import build_index, pooled_reader
from seesay.features import JoinedStores
from seesay.features.extraction import Progress
from seesay.metrics import tokenize
from seesay.metrics.cider import Cider
from seesay.metrics.ngrams import number_tokens
from seesay.retrieval.index import Query, RetrievalIndex, TunedRerank
from seesay.retrieval.rerank import candidate_set, combine, retrieve, weighted_by_probability
from seesay.retrieval.similarity import Floats, expected_similarity
from seesay.tokenizer import Tokenizer

CANDIDATES = (5, 10, 20, 40, 80)
"""Numbers of candidates; those above `_ALWAYS_TRIED` are tried while each is better than the one before."""
NEIGHBOURS = (5, 10, 20, 40, 80)
WEIGHTS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
_ALWAYS_TRIED = 20
_BATCH = 64


@dataclass(frozen=True)
class RerankTrial:
    """The validation CIDEr of one setting.

    Attributes:
        kind: none (the search's best caption), consensus or mbr.
        settings: the setting; of none, only `candidates` counts, which is the beam size.
        cider: mean CIDEr over the validation images, times 100.
    """

    kind: str
    settings: TunedRerank
    cider: float

    def describe(self) -> str:
        """Return the setting in words."""
        neighbours = f"{self.settings.neighbours} neighbours, " if self.settings.neighbours else ""
        return f"{self.settings.candidates} candidates, {neighbours}weight {self.settings.weight:g}"


@dataclass(frozen=True)
class _Candidates:
    """The captions of one search over the validation images.

    Attributes:
        found: hypotheses of each image, best first.
        cider: CIDEr of each, times 100, per image.
        scores: the model's score of each, per image.
    """

    found: list[list[Hypothesis]]
    cider: list[Floats]
    scores: list[Floats]

    def mean_cider(self, expected: Sequence[Floats], weight: float, is_like: NDArray[np.bool_]) -> float:
        """Return the mean CIDEr of the captions chosen with a weight; unlike images keep the first one."""
        chosen = [
            cider[int(np.argmax(combine(scores, gains, weight))) if like else 0]
            for cider, scores, gains, like in zip(self.cider, self.scores, expected, is_like, strict=True)
        ]
        return float(np.mean(chosen))


def tune_rerank(
    captioner: TrainedCaptioner,
    data: str | Path,
    options: DecodingOptions | None = None,
    *,
    features: str | Path = "features",
    stores: Sequence[str | Path] = (),
    progress: Progress | None = None,
) -> list[RerankTrial]:
    """Build the index of a run and choose the settings of reranking on its validation images; both are stored.

    Args:
        captioner: the run.
        data: the data set that the run was trained on.
        options: decoding options, of which the strategy becomes a beam search; None: the run's.
        features: folder of feature stores; missing images are added to the store of the encoder and data.
        stores: imported feature stores to use instead.
        progress: called with the number of encoded images, if any are encoded.

    Returns:
        All trials, best first.

    Raises:
        DataError: these are not the captions that the run was trained on, or there are no validation images.
    """
    run = captioner.run
    index = build_index(captioner, data, features=features, stores=stores, progress=progress)
    validation = load_dataset(data, run.config.data).split("val").items
    source = feature_source(captioner, validation, data, features, stores, None)
    items, pooled = pooled_reader(captioner, source)(validation)
    if not items:
        raise DataError(f"{data} has no validation images to choose the settings of reranking on")
    query = index.query(pooled, [item.id for item in items])
    trials: list[RerankTrial] = []
    for size in CANDIDATES:
        captions = _search(captioner, items, source, _beam_options(captioner.options(options), size))
        candidates = _score(captions, items, captioner.run.tokenizer, run.config.text.tokenization)
        trials += _trials(index, query, candidates, size)
        if size >= _ALWAYS_TRIED and best_candidates(trials) < size:
            break  # a search takes time in proportion to its beam
    trials.sort(key=lambda trial: (-trial.cider, trial.settings.candidates, trial.settings.neighbours))
    for kind in ("consensus", "mbr"):
        best = next(trial for trial in trials if trial.kind == kind)
        index = index.with_tuned(kind, best.settings)
    index.save(run.folder)
    captioner.forget_index()
    return trials


def best_candidates(trials: Sequence[RerankTrial]) -> int:
    """Return the number of candidates of the best consensus reranking; of equal ones, the first."""
    consensus = (trial for trial in trials if trial.kind == "consensus")
    return max(consensus, key=lambda trial: trial.cider).settings.candidates


def best_trials(trials: Sequence[RerankTrial]) -> list[RerankTrial]:
    """Return the trial with the best weight for each kind, number of candidates and number of neighbours, in order.

    Args:
        trials: from `tune_rerank`, best first.
    """
    found: dict[tuple[str, int, int], RerankTrial] = {}
    for trial in trials:
        found.setdefault((trial.kind, trial.settings.candidates, trial.settings.neighbours), trial)
    order = ("none", "mbr", "consensus")
    return sorted(
        found.values(),
        key=lambda trial: (order.index(trial.kind), trial.settings.candidates, trial.settings.neighbours),
    )


def _beam_options(options: DecodingOptions, candidates: int) -> DecodingOptions:
    beam = options if options.strategy == "beam" else options.with_strategy("beam")
    plain = {name: beam.default_of(name) for name in DecodingOptions.model_fields if name.startswith("rerank")}
    return beam.replace(
        **plain,
        num_beam_groups=1,
        beam_size=candidates,
        num_return_sequences=candidates,
    )


def _search(
    captioner: TrainedCaptioner, items: Sequence[Annotation], source: JoinedStores | None, options: DecodingOptions
) -> list[Caption]:
    """Return the captions of images, with alternatives.

    Raises:
        DataError: an image cannot be read.
    """
    captions, problems = caption_split(captioner, items, source, options)
    if problems:
        raise DataError(problems[0])
    return [captions[item.id] for item in items]


def _score(
    captions: Sequence[Caption], items: Sequence[Annotation], tokenizer: Tokenizer, tokenization: str
) -> _Candidates:
    """Return captions and their alternatives as hypotheses, with the CIDEr of each."""
    ids = {word: token for token, word in enumerate(tokenizer.vocabulary)}
    several = [(caption, *caption.alternatives) for caption in captions]
    found = [
        [
            Hypothesis(
                tuple(ids[word] for word in each.words), (*each.log_probs, each.end_log_prob), each.score, each.finished
            )
            for each in hypotheses
        ]
        for hypotheses in several
    ]
    owner = np.repeat(np.arange(len(several)), [len(each) for each in several])
    texts = tokenize((each.text for hypotheses in several for each in hypotheses), tokenization)
    references = [[text.split() for text in tokenize(item.captions, tokenization)] for item in items]
    hypotheses, numbered = number_tokens([text.split() for text in texts], references)
    cider = 100 * Cider(numbered).score(hypotheses, owner)
    scores = np.array([each.score for group in found for each in group])
    ends = np.flatnonzero(np.diff(owner)) + 1
    return _Candidates(found, np.split(cider, ends), np.split(scores, ends))


def _trials(index: RetrievalIndex, query: Query, candidates: _Candidates, size: int) -> list[RerankTrial]:
    """Return the trials of all settings with the captions of one search."""
    everywhere = np.ones(len(candidates.found), bool)
    first = float(np.mean([cider[0] for cider in candidates.cider]))
    trials = [RerankTrial("none", TunedRerank(size, 0.0, 0), first)]
    own = candidate_set(candidates.found)
    by_probability = weighted_by_probability(own, candidates.found)
    ends = np.cumsum([len(each) for each in candidates.found])[:-1]
    kinds = [("mbr", 0, np.split(expected_similarity(own, by_probability, index.frequencies), ends), everywhere)]
    for neighbours in NEIGHBOURS:
        expected: list[Floats] = []
        parts = []
        for at in range(0, len(candidates.found), _BATCH):
            references, is_like = retrieve(index, query.part(at, at + _BATCH), neighbours)
            some = candidates.found[at : at + _BATCH]
            values = expected_similarity(candidate_set(some), references, index.frequencies)
            expected += np.split(values, np.cumsum([len(each) for each in some])[:-1])
            parts.append(is_like)
        kinds.append(("consensus", neighbours, expected, np.concatenate(parts)))
    for kind, neighbours, gains, is_like in kinds:
        for weight in WEIGHTS:
            cider = candidates.mean_cider(gains, weight, is_like)
            trials.append(RerankTrial(kind, TunedRerank(size, weight, neighbours), cider))
    return trials
