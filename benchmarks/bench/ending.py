"""Random decoders whose captions have the length of real ones."""

import itertools
import math

import torch
from torch import Tensor

from seesay.models.protocol import Decoder, DecoderState, StepOutput
from seesay.tokenizer import END_ID, PAD_ID, START_ID, UNK_ID

SUPPRESSED = [PAD_ID, START_ID, UNK_ID]
"""Tokens that are never generated."""
LENGTH = 20
"""Maximum caption length in words."""


class EndingDecoder:
    """A random decoder with the caption lengths and confidence of a trained one.

    Random weights hardly ever generate the end token, and all words are about equally probable. Here the probability of
    the end after t words follows a normal distribution of the length (mean 10.5, standard deviation 3), like human
    captions, and logits are scaled until the most probable word has a probability of about a third, as in a trained
    captioner.

    Args:
        decoder: a decoder with random weights.
        vocabulary: V.
        memory: of some images, (B, N, D), to calibrate the scale.
    """

    def __init__(self, decoder: Decoder, vocabulary: int, memory: Tensor) -> None:
        self.decoder = decoder
        with torch.inference_mode():
            state = decoder.init_state(memory, None)
            logits = decoder.step(torch.randint(4, vocabulary, (len(memory), 1)), state).logits
            self.scale = next(
                scale
                for scale in (1.1**power for power in range(200))
                if float((logits * scale).softmax(-1).amax(-1).mean()) > 1 / 3
            )
        survival = [0.5 * math.erfc((t - 0.5 - 10.5) / 3 / math.sqrt(2)) for t in range(LENGTH * 4)]
        hazard = [min(0.999, max(1e-4, 1 - after / before)) for before, after in itertools.pairwise(survival)]
        self.log_odds = torch.tensor([math.log(p / (1 - p)) for p in hazard])

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        """Return the decoder's state with the number of generated words."""
        state = self.decoder.init_state(memory, memory_mask)
        return DecoderState(state.per_image, {**state.per_row, "length": memory.new_zeros(len(memory), 1).long()})

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        """Return the decoder's logits with the end token's replaced."""
        output = self.decoder.step(tokens, state)
        length = state.per_row["length"]
        logits = self.with_end(output.logits, length)
        rows = {**output.state.per_row, "length": length + 1}
        return StepOutput(logits, DecoderState(output.state.per_image, rows), output.attention)

    def with_end(self, logits: Tensor, length: Tensor) -> Tensor:
        """Return the logits (..., V) with the probability of the end after `length` (...) words."""
        logits = logits * self.scale
        logits[..., [END_ID, *SUPPRESSED]] = float("-inf")
        logits[..., END_ID] = logits.logsumexp(-1) + self.log_odds[length]
        return logits
