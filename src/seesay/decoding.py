"""Captions searched for, many pictures at once: greedy, sampling and beam search over any `Decoder`.

Pictures and their hypotheses are one tensor (B, K); what a picture alone decides (memory, attention keys) is
shared by its hypotheses. Pictures that are done leave the batch, and the device waits for Python only once
in `_CHECK_EVERY` steps.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seesay.config import DecodingOptions
from seesay.models.protocol import Decoder, DecoderState
from seesay.tokenizer import END_ID, PAD_ID, START_ID, UNK_ID

_CHECK_EVERY = 4
DEFAULT_MAX_LENGTH = 30
"""Words a caption may have where neither the options nor the training captions say."""

__all__ = ["DEFAULT_MAX_LENGTH", "DecodingOptions", "Hypothesis", "decode"]


@dataclass(frozen=True)
class Hypothesis:
    """One candidate caption with its evidence.

    Attributes:
        tokens: word ids, without the start and end tokens.
        log_probs: natural log-probability of each word, then of the end token if it was reached.
        score: what hypotheses are ranked by: the sum of log_probs, in a beam search divided by
            len(log_probs) ** length_penalty.
        finished: whether it ended by itself rather than at the maximum length.
        attention: where the decoder looked at each of `log_probs`, (T, N); None if not asked for, or if the
            decoder has no attention.
    """

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    score: float
    finished: bool
    attention: NDArray[np.float32] | None = None


def decode(
    decoder: Decoder,
    memory: Tensor,
    memory_mask: Tensor | None = None,
    options: DecodingOptions | None = None,
    *,
    keys: Sequence[str] | None = None,
    keep_attention: bool = False,
) -> list[list[Hypothesis]]:
    """Returns the hypotheses of each picture, best first (one for greedy and sampling, up to K for beam).

    Args:
        decoder: anything with `init_state` and `step`.
        memory: (B, N, D).
        memory_mask: (B, N), True = may attend; None = all.
        options: how to search; None = greedy.
        keys: a name a picture, from which sampling draws its randomness, so that a picture's caption does not
            depend on the others of its batch; None = the place in the batch.
        keep_attention: gather where each word looked.
    """
    options = options or DecodingOptions()
    options = replace(options, max_length=options.max_length or DEFAULT_MAX_LENGTH)
    if memory.shape[0] == 0:
        return []
    with torch.inference_mode():
        state = decoder.init_state(memory, memory_mask)
        if options.strategy == "beam" and options.beam_size > 1:
            return _BeamSearch(decoder, options, memory, keep_attention).run(state)
        return _decode_one_by_one(decoder, state, memory, options, keys, keep_attention)


def _decode_one_by_one(
    decoder: Decoder,
    state: DecoderState,
    memory: Tensor,
    options: DecodingOptions,
    keys: Sequence[str] | None,
    keep_attention: bool,
) -> list[list[Hypothesis]]:
    """Greedy decoding and sampling: one row a picture."""
    images, device, steps = memory.shape[0], memory.device, options.max_length
    draws = None
    if options.strategy == "sample":
        draws = _uniform_draws(images, steps, options, keys).to(device, _draw_type(device))
    tokens = torch.full((images, steps), PAD_ID, device=device)
    log_probs = torch.zeros((images, steps), dtype=_score_type(memory), device=device)
    attention = torch.zeros((images, steps, memory.shape[1]), device=device) if keep_attention else None
    alive = torch.arange(images, device=device)
    words = torch.full((images, 1), START_ID, device=device)
    ended = torch.zeros(images, dtype=torch.bool, device=device)
    for t in range(steps):
        output = decoder.step(words, state)
        state = output.state
        scores = next_log_probs(output.logits, options.allow_unk)[:, 0].to(log_probs.dtype)
        chosen = scores.argmax(-1) if draws is None else _sample(scores, draws[alive, t], options)
        tokens[alive, t] = torch.where(ended, PAD_ID, chosen)
        log_probs[alive, t] = scores.gather(1, chosen[:, None])[:, 0]
        if attention is not None and output.attention is not None:
            attention[alive, t] = output.attention[:, 0].float()
        ended = ended | (chosen == END_ID)
        words = chosen[:, None]
        if (t + 1) % _CHECK_EVERY == 0:
            left = torch.nonzero(~ended)[:, 0]
            if len(left) == 0:
                break
            if len(left) < len(alive):
                alive, words, ended, state = alive[left], words[left], ended[left], state.keep(left)
    seen = None if attention is None or output.attention is None else attention[:, None]
    penalty = options.length_penalty if options.strategy == "beam" else 0.0
    return _collect(tokens[:, None], log_probs[:, None], seen, penalty)


def next_log_probs(logits: Tensor, allow_unk: bool) -> Tensor:
    """Returns log-probabilities (..., V) of the words that may be said, in float32 or better.

    Padding and the start token are never said; <unk> only if allowed. The rest is renormalised.
    """
    scores = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits.clone()
    scores[..., PAD_ID] = float("-inf")
    scores[..., START_ID] = float("-inf")
    if not allow_unk:
        scores[..., UNK_ID] = float("-inf")
    return torch.log_softmax(scores, dim=-1)


def _uniform_draws(images: int, steps: int, options: DecodingOptions, keys: Sequence[str] | None) -> Tensor:
    """Returns one uniform number a picture and step, (B, T), that depends on the seed and the picture only."""
    rows = []
    for name in keys if keys is not None else [str(place) for place in range(images)]:
        digest = hashlib.sha256(f"{options.sampling_seed}\n{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        rows.append(torch.rand(steps, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def _score_type(memory: Tensor) -> torch.dtype:
    """Returns the type in which log-probabilities are added up: float32, or the decoder's if that is wider."""
    return torch.promote_types(memory.dtype, torch.float32)


def _draw_type(device: torch.device) -> torch.dtype:
    """Returns the type in which words are drawn: float64, which Apple's devices do not have."""
    return torch.float32 if device.type == "mps" else torch.float64


def _sample(log_probs: Tensor, draws: Tensor, options: DecodingOptions) -> Tensor:
    """Returns words (B,) drawn by inverting the cumulative distribution at `draws` (B,)."""
    best = log_probs.max(-1, keepdim=True).values
    scaled = (log_probs - best).to(draws.dtype) / options.temperature  # 0 at the best: no temperature is too low
    if 0 < options.top_k < scaled.shape[-1]:
        values, kept = scaled.topk(options.top_k, dim=-1)
        scaled = torch.full_like(scaled, float("-inf")).scatter(-1, kept, values)
    cumulative = torch.softmax(scaled, dim=-1).cumsum(-1)
    # Scaled by the total so that rounding never leaves a draw beyond the last word that may be said, and above
    # zero so that none comes before the first.
    least = torch.finfo(draws.dtype).tiny
    place = torch.searchsorted(cumulative, (draws[:, None] * cumulative[:, -1:]).clamp(min=least))
    return place[:, 0].clamp(max=cumulative.shape[-1] - 1)  # beyond it only of scores that are no numbers


class _BeamSearch:
    """Beam search in which a finished hypothesis keeps its place, so that one beam is greedy decoding.

    Each step extends the open hypotheses of a picture by every word and keeps the best of them, as many as
    there are places not yet taken by finished ones. A picture is done when no place is open, or when the
    best open hypothesis could not beat the best finished one even if all its further words were certain:
    sums only fall, so sum / max_steps ** penalty bounds what it may still reach. So the best hypothesis is that
    of a full search; of the others there may be fewer.
    """

    def __init__(self, decoder: Decoder, options: DecodingOptions, memory: Tensor, keep_attention: bool) -> None:
        self.decoder = decoder
        self.options = options
        self.keep_attention = keep_attention
        self.images, self.steps = memory.shape[0], options.max_length
        self.device, self.dtype = memory.device, _score_type(memory)
        # The finished pool of every picture, best first; open ones join it when time is up.
        self.pool_scores = torch.full(
            (self.images, options.beam_size), float("-inf"), dtype=self.dtype, device=self.device
        )
        self.pool: dict[str, Tensor] = {}

    def run(self, state: DecoderState) -> list[list[Hypothesis]]:
        """Returns up to K hypotheses a picture, best first."""
        beams = self.options.beam_size
        alive = torch.arange(self.images, device=self.device)
        sums = torch.zeros((self.images, 1), dtype=self.dtype, device=self.device)
        words = torch.full((self.images, 1), START_ID, device=self.device)
        finished = torch.zeros(self.images, 1, dtype=torch.int64, device=self.device)
        trail: dict[str, Tensor] = {}
        for t in range(self.steps):
            output = self.decoder.step(words, state)
            scores = next_log_probs(output.logits, self.options.allow_unk).to(self.dtype)
            vocabulary = scores.shape[-1]
            totals = (sums[:, :, None] + scores).flatten(1)
            sums, flat = totals.topk(min(beams, totals.shape[1]), dim=1)
            parents, words = flat // vocabulary, flat % vocabulary
            places = torch.arange(sums.shape[1], device=self.device)[None]
            sums = sums.masked_fill(places >= beams - finished, float("-inf"))
            step_probs = scores.flatten(1).gather(1, flat)
            trail = self._extend(trail, parents, words, step_probs, output.attention)
            ending = (words == END_ID) & torch.isfinite(sums)
            self._retire(alive, trail, torch.where(ending, sums, float("-inf")), t + 1)
            finished = finished + ending.sum(1, keepdim=True)
            sums = sums.masked_fill(ending, float("-inf"))
            state = output.state.pick(parents)
            if (t + 1) % _CHECK_EVERY == 0 and t + 1 < self.steps:
                left = torch.nonzero(self._can_win(alive, sums))[:, 0]
                if len(left) == 0:
                    break
                if len(left) < len(alive):
                    alive, sums, words = alive[left], sums[left], words[left]
                    finished, state = finished[left], state.keep(left)
                    trail = {name: tensor[left] for name, tensor in trail.items()}
        self._fill_with_open(alive, trail, sums)
        return self._results()

    def _extend(
        self,
        trail: dict[str, Tensor],
        parents: Tensor,
        words: Tensor,
        step_probs: Tensor,
        attention: Tensor | None,
    ) -> dict[str, Tensor]:
        """Returns the histories (b, K, t, ...) of the chosen hypotheses with this step appended."""
        batch = torch.arange(len(parents), device=self.device)[:, None]
        new = {"tokens": words[..., None], "log_probs": step_probs[..., None]}
        if self.keep_attention and attention is not None:
            new["attention"] = attention[batch, parents][:, :, None].float()
        if not trail:
            return new
        return {name: torch.cat([trail[name][batch, parents], value], dim=2) for name, value in new.items()}

    def _retire(self, alive: Tensor, trail: dict[str, Tensor], sums: Tensor, length: int) -> None:
        """Merges hypotheses that have just ended (sums (b, K), -inf = not one) into the pool."""
        scores = sums / length**self.options.length_penalty
        beams = self.pool_scores.shape[1]
        merged = torch.cat([self.pool_scores[alive], scores], dim=1)
        best, place = merged.topk(beams, dim=1)
        batch = torch.arange(len(alive), device=self.device)[:, None]
        self.pool_scores[alive] = best
        for name, value in trail.items():
            if name not in self.pool:
                self.pool[name] = value.new_zeros(self.images, beams, self.steps, *value.shape[3:])
            padded = value.new_zeros(*value.shape[:2], self.steps, *value.shape[3:])  # zero is PAD_ID, too
            padded[:, :, :length] = value
            self.pool[name][alive] = torch.cat([self.pool[name][alive], padded], dim=1)[batch, place]

    def _can_win(self, alive: Tensor, sums: Tensor) -> Tensor:
        """Returns which pictures (b,) have an open hypothesis that may still beat their best finished one."""
        bound: Tensor = sums.max(1).values / self.steps**self.options.length_penalty
        return torch.isfinite(bound) & (bound > self.pool_scores[alive, 0])

    def _fill_with_open(self, alive: Tensor, trail: dict[str, Tensor], sums: Tensor) -> None:
        """Gives pictures of which no hypothesis ended their open ones, so that none is left without."""
        none_ended = ~torch.isfinite(self.pool_scores[alive, :1])
        self._retire(alive, trail, torch.where(none_ended, sums, float("-inf")), trail["tokens"].shape[2])

    def _results(self) -> list[list[Hypothesis]]:
        attention = self.pool.get("attention")
        collected = _collect(self.pool["tokens"], self.pool["log_probs"], attention, self.options.length_penalty)
        counts = torch.isfinite(self.pool_scores).sum(1).clamp(min=1).tolist()  # 0 of scores that are no numbers
        return [hypotheses[:count] for hypotheses, count in zip(collected, counts, strict=True)]


def _collect(
    tokens: Tensor, log_probs: Tensor, attention: Tensor | None, length_penalty: float = 0.0
) -> list[list[Hypothesis]]:
    """Returns hypotheses of tokens and log_probs (B, K, T) padded at the end, and attention (B, K, T, N)."""
    ids = tokens.cpu().tolist()
    probs = log_probs.cpu().tolist()
    maps = None if attention is None else attention.cpu().numpy()
    results = []
    for image, beams in enumerate(ids):
        hypotheses = []
        for beam, words in enumerate(beams):
            length = next((t for t, word in enumerate(words) if word == PAD_ID), len(words))
            finished = length > 0 and words[length - 1] == END_ID
            steps = tuple(probs[image][beam][:length])
            hypotheses.append(
                Hypothesis(
                    tokens=tuple(words[: length - finished]),
                    log_probs=steps,
                    score=sum(steps) / max(1, length) ** length_penalty,
                    finished=finished,
                    attention=None if maps is None else maps[image, beam, :length].copy(),
                )
            )
        results.append(hypotheses)
    return results
