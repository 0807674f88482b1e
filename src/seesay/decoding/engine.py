"""`decode`: the one way from a decoder and its memory to captions; `searching` is the same, step by step."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seesay.config import DecodingOptions
from seesay.decoding.beam import compiled_beam
from seesay.decoding.constraints import TokenConstraints, check_repeats
from seesay.decoding.deduplicate import different, widened
from seesay.decoding.hypothesis import Hypothesis, Result
from seesay.decoding.search import Search
from seesay.decoding.stepping import Steps, run_alone
from seesay.decoding.trace import SearchTrace
from seesay.errors import ConfigError, DataError
from seesay.files import text_bytes
from seesay.models.protocol import Decoder, DecoderState

DEFAULT_MAX_LENGTH = 30
"""Words a caption may have where neither the options nor the training captions say."""


def decode(
    decoder: Decoder,
    memory: Tensor,
    memory_mask: Tensor | None = None,
    options: DecodingOptions | None = None,
    *,
    rules: TokenConstraints | None = None,
    keys: Sequence[str] | None = None,
    keep_attention: bool = False,
    trace: SearchTrace | None = None,
) -> list[list[Hypothesis]]:
    """Returns `options.num_return_sequences` hypotheses of each image that say different things, best first.

    Greedy decoding's own caption, and in sampling the first drawn, come before better ones, so that the first is the
    same however many are asked for. There is always one. Warnings are logged, each with one of the images, where
    there are fewer than asked for though the search was made wider, where the rules could not be kept, and where
    scores are no finite numbers.

    Args:
        decoder: anything with `init_state` and `step`; `EnsembleDecoder` for several.
        memory: (B, N, D).
        memory_mask: (B, N), True = may attend; None = all.
        options: how to search; None = greedy.
        rules: the options' words and phrases in ids, from `token_constraints`, or one's own.
        keys: a name an image, from which sampling draws its randomness, so that an image's caption does not
            depend on the others of its batch; None = the place in the batch.
        keep_attention: gather where each word looked.
        trace: told of every candidate of the (first) search.

    Raises:
        ConfigError: words are banned or required but no rules are given, or the rules cannot be kept; or there are
            not as many keys as images.
        DataError: an image has no region to look at.
    """
    with torch.inference_mode():
        steps = searching(
            lambda: decoder.init_state(memory, memory_mask),
            memory,
            memory_mask,
            options,
            rules=rules,
            keys=keys,
            keep_attention=keep_attention,
            trace=trace,
        )
        return run_alone(decoder, steps)


def searching(
    begin: Callable[[], DecoderState],
    memory: Tensor,
    memory_mask: Tensor | None,
    options: DecodingOptions | None,
    *,
    rules: TokenConstraints | None,
    keys: Sequence[str] | None,
    keep_attention: bool,
    trace: SearchTrace | None = None,
) -> Steps[list[list[Hypothesis]]]:
    """Asks for the steps of the search that `decode` is, and returns what it returns; to be run in inference mode.

    Args:
        begin: gives the decoder's state of these images before the start token.
        memory: (B, N, D).
        memory_mask: (B, N), True = may attend; None = all.
        options: as of `decode`, like all that follow.
        rules: as of `decode`.
        keys: as of `decode`.
        keep_attention: as of `decode`.
        trace: as of `decode`.

    Raises:
        ConfigError: as `decode`.
        DataError: as `decode`.
    """
    options = options or DecodingOptions()
    options = replace(options, max_length=options.max_length or max(DEFAULT_MAX_LENGTH, options.min_length))
    if rules is None:
        if options.bad_words or options.force_words or options.complete_endings:
            raise ConfigError(
                "decoding.bad_words, require and complete_endings are words; give decode rules=token_constraints(...)"
            )
        rules = TokenConstraints()
    _check(options, rules)
    names = list(keys) if keys is not None else [str(place) for place in range(len(memory))]
    if len(names) != len(memory):
        raise ConfigError(f"{len(names)} keys were given for {len(memory)} images; decode needs one for each")
    if not names:
        return []
    _check_regions(memory, memory_mask, names)
    job = _Job(memory, begin(), options, rules, names, keep_attention)
    asking = different(names, options, rules)
    images, widening = next(asking)
    while True:
        results = yield from job.search(images, widening, trace if widening == 0 else None)
        try:
            images, widening = asking.send(results)
        except StopIteration as stop:
            found: list[list[Hypothesis]] = stop.value
            return found


def sample_captions(
    decoder: Decoder, memory: Tensor, memory_mask: Tensor | None, options: DecodingOptions, draws: Tensor
) -> list[list[Hypothesis]]:
    """Returns the captions that sampling draws of each image, in their order, equal ones too.

    For training by reward and the like; `decode` gives what differs.

    Args:
        decoder: anything with `init_state` and `step`.
        memory: (B, N, D).
        memory_mask: (B, N), True = may attend; None = all.
        options: `strategy` "sample", `num_return_sequences` and `max_length` above all; words of its own are not asked for.
        draws: uniform numbers in 0..1, (B, num_return_sequences, max_length + 1), which decide all.
    """
    search = Search(options, TokenConstraints(), memory, draws, keep_attention=False, trace=None)
    with torch.inference_mode():
        results = run_alone(decoder, search.steps(decoder.init_state(memory, memory_mask), len(memory)))
    # A draw whose scores are no numbers has nothing that could be ranked.
    lost = Hypothesis((), (), math.nan, finished=False)
    found = []
    for result in results:
        by_row = dict(zip(result.rows, result.hypotheses, strict=True))
        found.append([by_row.get(row, lost) for row in range(options.num_return_sequences)])
    return found


@dataclass(frozen=True)
class _Job:
    """What is searched for, as often as it takes."""

    memory: Tensor
    state: DecoderState
    options: DecodingOptions
    rules: TokenConstraints
    names: list[str]
    keep_attention: bool

    def search(self, images: list[int], widening: int, trace: SearchTrace | None) -> Steps[list[Result]]:
        """Returns all hypotheses that a search of some images ends in, 2 ** widening times as wide as asked."""
        options, memory, state = self.options, self.memory, self.state
        if widening:
            chosen = torch.tensor(images, device=memory.device)
            memory, state = memory[chosen], state.keep(chosen)
            options = widened(options, widening)
        common = compiled_beam(
            options, self.rules, memory, keep_attention=self.keep_attention, traced=trace is not None
        )
        if common is not None and (results := (yield from common.steps(state))) is not None:
            return results
        draws = None
        if options.strategy == "sample":
            draws = _uniform_draws([self.names[image] for image in images], options, memory.device)
        search = Search(options, self.rules, memory, draws, self.keep_attention, trace)
        return (yield from search.steps(state, len(memory)))


def _check(options: DecodingOptions, rules: TokenConstraints) -> None:
    """Refuses rules that the options' way of searching cannot keep."""
    if rules.required and (options.strategy != "beam" or options.num_beam_groups > 1):
        raise ConfigError("required words need a beam search without groups; add --strategy beam")
    check_repeats(rules, options.no_repeat_ngram_size)


def _check_regions(memory: Tensor, mask: Tensor | None, names: Sequence[str]) -> None:
    """Refuses images of which there is nothing to look at, whose scores would be no numbers."""
    seen = [memory.shape[1] > 0] * len(names) if mask is None else mask.any(1).view(len(names), -1).all(1).tolist()
    if not all(seen):
        raise DataError(
            f"{seen.count(False)} of {len(seen)} images have no region to look at, "
            f"such as {names[seen.index(False)]}; leave them out, or mend memory_mask (True = may attend)"
        )


def _uniform_draws(names: Sequence[str], options: DecodingOptions, device: torch.device) -> Tensor:
    """Returns uniform numbers (B, num_return_sequences, max_length + 1) that depend on the seed, name and place alone."""
    rows = []
    for name in names:
        for place in range(options.num_return_sequences):
            # The n-th draw is the same however many there are.
            text = f"{options.sampling_seed}\n{name}" + (f"\n{place}" if place else "")
            generator = torch.Generator().manual_seed(
                int.from_bytes(hashlib.sha256(text_bytes(text)).digest()[:7], "little")
            )
            rows.append(torch.rand(options.max_length + 1, generator=generator, dtype=torch.float64))
    # In float64, which Apple's devices do not have.
    kind = torch.float32 if device.type == "mps" else torch.float64
    return torch.stack(rows).view(len(names), options.num_return_sequences, -1).to(device, kind)
