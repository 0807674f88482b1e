"""Beam search of transformers, with the log-probability of every token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from seesay.captioners.pretrained.steps import OFFSET, PLAIN, end_tokens, forced_start
from seesay.config import DecodingOptions
from seesay.decoding.constraints import TokenConstraints
from seesay.decoding.hypothesis import Hypothesis

_OWN_SEARCH = ("force_words", "complete_endings", "no_repeat_ngram_size", "repetition_penalty")


def is_plain_beam(options: DecodingOptions) -> bool:
    """Return whether transformers' beam search is used; other options need seesay's own search.

    Transformers counts the tokens of the prompt for `no_repeat_ngram_size` and `repetition_penalty`; without code from
    the hub it has no required words and no groups.
    """
    others = (getattr(options, name) != options.default_of(name) for name in _OWN_SEARCH)
    return options.strategy == "beam" and options.num_beam_groups == 1 and not any(others)


@dataclass(frozen=True)
class _Beams:
    """The result of a search.

    Attributes:
        begin: position of the first token of the captions.
        ends: tokens that end a caption.
        output: of transformers: `sequences` (R, L), `logits` (rows, V) per step, `beam_indices` (R, steps).
    """

    begin: int
    ends: tuple[int, ...]
    output: Any


def beam_search(
    model: Any, features: Mapping[str, Any], options: DecodingOptions, constraints: TokenConstraints
) -> list[list[Hypothesis]]:
    """Return the hypotheses of each image, best first, some with equal texts; token ids are those of the search.

    Args:
        model: a transformers model.
        features: arguments of its `generate`, of B images.
        options: with `max_length` set.
        constraints: banned words.
    """
    found = _search(model, features, options, constraints)
    rows = [_hypothesis(found, row, options) for row in range(len(found.output.sequences))]
    count = _returned(options)
    return [rows[at : at + count] for at in range(0, len(rows), count)]


def _returned(options: DecodingOptions) -> int:
    # Several beams may have equal texts: all are returned, and the distinct ones kept.
    return options.beam_size if options.num_return_sequences > 1 else 1


def _search(model: Any, features: Mapping[str, Any], options: DecodingOptions, constraints: TokenConstraints) -> _Beams:
    from transformers import ForcedEOSTokenLogitsProcessor, LogitsProcessorList

    begins: list[_Beams] = []
    forced = int(forced_start(model) is not None)

    def search(model: Any, input_ids: Tensor, logits_processor: Any = None, **kwargs: Any) -> Any:
        # An end that is forced at the maximum length would make a truncated caption look finished.
        kept = [each for each in logits_processor if not isinstance(each, ForcedEOSTokenLogitsProcessor)]
        processors = LogitsProcessorList(kept)
        output = type(model)._beam_search(model, input_ids, logits_processor=processors, **kwargs)
        ends = end_tokens(kwargs["generation_config"])
        begins.append(_Beams(input_ids.shape[1] + forced, ends, output))
        return output

    banned = [[token - OFFSET for token in phrase] for phrase in constraints.banned]
    arguments = {
        **PLAIN,
        "num_beams": options.beam_size,
        "num_return_sequences": _returned(options),
        "length_penalty": options.length_penalty,
        "max_new_tokens": options.max_length + 1 + forced,  # one more, for the end
        "min_new_tokens": options.min_length + forced,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "output_logits": True,
        "return_dict_in_generate": True,
        **({"bad_words_ids": banned} if banned else {}),
    }
    model.generate(**features, custom_generate=search, **arguments)
    return begins[0]


def _hypothesis(found: _Beams, row: int, options: DecodingOptions) -> Hypothesis:
    """Return a row of the result as a hypothesis of seesay's search."""
    generated: list[int] = found.output.sequences[row, found.begin :].tolist()
    places = [place for place, token in enumerate(generated) if token in found.ends]
    length = min(places[0] if places else len(generated), options.max_length)
    tokens = generated[:length]
    steps = len(found.output.logits) - len(generated)  # steps before the first token of the caption: forced ones
    log_probs = []
    for place in range(length + 1):
        scores = found.output.logits[steps + place][found.output.beam_indices[row, steps + place]].float()
        ids = list(found.ends) if place == length else [tokens[place]]
        log_probs.append(float(scores[ids].logsumexp(0) - scores.logsumexp(0)))
    score = sum(log_probs) / (length + 1) ** options.length_penalty
    shifted = tuple(token + OFFSET for token in tokens)
    return Hypothesis(shifted, tuple(log_probs), score, bool(places) and places[0] == length)
