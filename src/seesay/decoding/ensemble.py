"""An ensemble of decoders: each step averages their distributions over the vocabulary."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from seesay.decoding.arrays import upcast
from seesay.errors import ConfigError
from seesay.models.protocol import Decoder, DecoderState, StepOutput

Mean = Literal["probabilities", "log_probabilities"]


class EnsembleDecoder:
    """A `Decoder` that averages several decoders with one vocabulary.

    Members may have different encoders; `join_memories` concatenates their memories.

    Args:
        decoders: the members.
        memory_sizes: width D of each member's memory.
        mean: average the members' probabilities, or their log-probabilities (a renormalised geometric mean).

    Raises:
        ConfigError: there is no member, or the number of widths differs from that of members.
    """

    def __init__(self, decoders: Sequence[Decoder], memory_sizes: Sequence[int], mean: Mean = "probabilities") -> None:
        if not decoders or len(decoders) != len(memory_sizes):
            raise ConfigError(f"an ensemble of {len(decoders)} decoders with {len(memory_sizes)} memory sizes")
        self.decoders = list(decoders)
        self.memory_sizes = list(memory_sizes)
        self.mean = mean

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        """Return the members' states before the start token.

        Args:
            memory: from `join_memories`, (B, N, D1 + D2 + ...).
            memory_mask: from `join_memories`, (B, N, M); or (B, N) for all members; None: attend to all regions.
        """
        states = []
        for place, (decoder, part) in enumerate(
            zip(self.decoders, torch.split(memory, self.memory_sizes, dim=-1), strict=True)
        ):
            mask = memory_mask[..., place] if memory_mask is not None and memory_mask.ndim == 3 else memory_mask
            if mask is not None and mask.device.type == "cpu" and bool(mask.all()):
                mask = None  # steps without a mask are faster
            states.append(decoder.init_state(part.contiguous(), mask))
        return _join_states(states)

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        """Return the log of the mean distribution (B, K, V), and the mean attention if all members have the same N.

        Raises:
            ConfigError: the members' vocabularies differ in size.
        """
        outputs = [decoder.step(tokens, _member_state(state, place)) for place, decoder in enumerate(self.decoders)]
        sizes = [output.logits.shape[-1] for output in outputs]
        if len(set(sizes)) > 1:
            raise ConfigError(f"an ensemble needs one vocabulary; its members have {', '.join(map(str, sizes))} words")
        log_probs = torch.stack([upcast(output.logits).log_softmax(-1) for output in outputs])
        logits = log_probs.mean(0)
        if self.mean == "probabilities":
            logits = log_probs.logsumexp(0) - math.log(len(outputs))
        maps = [output.attention for output in outputs if output.attention is not None]
        same = len(maps) == len(outputs) and len({each.shape[-1] for each in maps}) == 1
        return StepOutput(logits, _join_states([o.state for o in outputs]), torch.stack(maps).mean(0) if same else None)


def join_memories(memories: Sequence[Tensor], masks: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Return the members' memories as one for `EnsembleDecoder`, (B, N, D1 + D2 + ...), and its mask (B, N, M).

    Args:
        memories: per member, (B, Nm, Dm); N is the largest Nm.
        masks: per member, (B, Nm), True = attend; None: attend to all.
    """
    regions = max(memory.shape[1] for memory in memories)
    dtype = memories[0].dtype
    for memory in memories:
        dtype = torch.promote_types(dtype, memory.dtype)
    parts, padded_masks = [], []
    for memory, mask in zip(memories, masks, strict=True):
        padding = regions - memory.shape[1]
        parts.append(torch.nn.functional.pad(memory.to(dtype), (0, 0, 0, padding)))
        full_mask = memory.new_ones(memory.shape[:2], dtype=torch.bool) if mask is None else mask
        padded_masks.append(torch.nn.functional.pad(full_mask, (0, padding)))
    return torch.cat(parts, -1), torch.stack(padded_masks, -1)


def _join_states(states: Sequence[DecoderState]) -> DecoderState:
    return DecoderState(
        {f"{place}.{name}": value for place, state in enumerate(states) for name, value in state.per_image.items()},
        {f"{place}.{name}": value for place, state in enumerate(states) for name, value in state.per_row.items()},
    )


def _member_state(state: DecoderState, place: int) -> DecoderState:
    start = f"{place}."
    return DecoderState(
        {name[len(start) :]: value for name, value in state.per_image.items() if name.startswith(start)},
        {name[len(start) :]: value for name, value in state.per_row.items() if name.startswith(start)},
    )
