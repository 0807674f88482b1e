"""Several decoders as one: each step says what they say on average."""

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
    """A `Decoder` made of several that share a vocabulary.

    Each member has a memory of its own, from an encoder of its own perhaps; `join_memories` makes one of them.

    Args:
        decoders: the members.
        memory_sizes: width D of each member's memory.
        mean: of the members' probabilities, or of their log-probabilities (their geometric mean, renormalised).

    Raises:
        ConfigError: no member, or not one width a member.
    """

    def __init__(self, decoders: Sequence[Decoder], memory_sizes: Sequence[int], mean: Mean = "probabilities") -> None:
        if not decoders or len(decoders) != len(memory_sizes):
            raise ConfigError(f"an ensemble of {len(decoders)} decoders with {len(memory_sizes)} memory sizes")
        self.decoders = list(decoders)
        self.memory_sizes = list(memory_sizes)
        self.mean = mean

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        """Returns the members' states.

        Args:
            memory: of `join_memories`, (B, N, D1 + D2 + ...).
            memory_mask: of `join_memories`, (B, N, M); or (B, N) for all members; None = all regions of all.
        """
        states = []
        for place, (decoder, part) in enumerate(
            zip(self.decoders, torch.split(memory, self.memory_sizes, dim=-1), strict=True)
        ):
            mask = memory_mask[..., place] if memory_mask is not None and memory_mask.ndim == 3 else memory_mask
            if mask is not None and mask.device.type == "cpu" and bool(mask.all()):
                mask = None  # steps without a mask take less time
            states.append(decoder.init_state(part.contiguous(), mask))
        return _joined(states)

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        """Returns the logarithm of the mean distribution (B, K, V), and the mean attention where all have the same N.

        Raises:
            ConfigError: the members' vocabularies are of different sizes.
        """
        outputs = [decoder.step(tokens, _member(state, place)) for place, decoder in enumerate(self.decoders)]
        sizes = [output.logits.shape[-1] for output in outputs]
        if len(set(sizes)) > 1:
            raise ConfigError(f"an ensemble needs one vocabulary; its members have {', '.join(map(str, sizes))} words")
        log_probs = torch.stack([upcast(output.logits).log_softmax(-1) for output in outputs])
        logits = log_probs.mean(0)
        if self.mean == "probabilities":
            logits = log_probs.logsumexp(0) - math.log(len(outputs))
        maps = [output.attention for output in outputs if output.attention is not None]
        same = len(maps) == len(outputs) and len({each.shape[-1] for each in maps}) == 1
        return StepOutput(logits, _joined([o.state for o in outputs]), torch.stack(maps).mean(0) if same else None)


def join_memories(memories: Sequence[Tensor], masks: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Returns the members' memories as one for `EnsembleDecoder`, (B, N, D1 + D2 + ...), and its mask (B, N, M).

    Args:
        memories: of each member, (B, Nm, Dm); N is the largest of the Nm.
        masks: of each member, (B, Nm), True = may attend; None = all.
    """
    regions = max(memory.shape[1] for memory in memories)
    kind = memories[0].dtype
    for memory in memories:
        kind = torch.promote_types(kind, memory.dtype)
    parts, shown = [], []
    for memory, mask in zip(memories, masks, strict=True):
        room = regions - memory.shape[1]
        parts.append(torch.nn.functional.pad(memory.to(kind), (0, 0, 0, room)))
        whole = memory.new_ones(memory.shape[:2], dtype=torch.bool) if mask is None else mask
        shown.append(torch.nn.functional.pad(whole, (0, room)))
    return torch.cat(parts, -1), torch.stack(shown, -1)


def _joined(states: Sequence[DecoderState]) -> DecoderState:
    return DecoderState(
        {f"{place}.{name}": value for place, state in enumerate(states) for name, value in state.per_image.items()},
        {f"{place}.{name}": value for place, state in enumerate(states) for name, value in state.per_row.items()},
    )


def _member(state: DecoderState, place: int) -> DecoderState:
    start = f"{place}."
    return DecoderState(
        {name[len(start) :]: value for name, value in state.per_image.items() if name.startswith(start)},
        {name[len(start) :]: value for name, value in state.per_row.items() if name.startswith(start)},
    )
