"""Random weights that end their captions as trained ones do."""

import itertools
import math

import torch
from torch import Tensor

from seesay.models.protocol import Decoder, DecoderState, StepOutput
from seesay.tokenizer import END_ID, PAD_ID, START_ID, UNK_ID

SILENT = [PAD_ID, START_ID, UNK_ID]
"""What is never said."""
LENGTH = 20
"""Words of the longest caption."""


class EndingDecoder:
    """A decoder of random weights made to end like one that was trained.

    Random weights hardly ever say the end, and every word is about as likely as any other. Here the chance of the end
    after t words is that of a normal length of 10.5 words (3 either way), as human captions have, and logits are
    scaled until the likeliest word has about the chance (a third) that it has in a trained captioner.

    Args:
        decoder: the one of random weights.
        vocabulary: V.
        memory: of some images, (B, N, D), by which the scale is found.
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
        self.odds = torch.tensor([math.log(chance / (1 - chance)) for chance in hazard])

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        """Returns the decoder's state with the number of words said."""
        state = self.decoder.init_state(memory, memory_mask)
        return DecoderState(state.per_image, {**state.per_row, "said": memory.new_zeros(len(memory), 1).long()})

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        """Returns the decoder's scores with the end's changed."""
        output = self.decoder.step(tokens, state)
        said = state.per_row["said"]
        logits = self.ended(output.logits, said)
        rows = {**output.state.per_row, "said": said + 1}
        return StepOutput(logits, DecoderState(output.state.per_image, rows), output.attention)

    def ended(self, logits: Tensor, said: Tensor) -> Tensor:
        """Returns the logits (..., V) with the end as likely as it is after `said` words (...)."""
        logits = logits * self.scale
        logits[..., [END_ID, *SILENT]] = float("-inf")
        logits[..., END_ID] = logits.logsumexp(-1) + self.odds[said]
        return logits
