"""Several captions of each picture drawn from the decoder's own distribution, for training by reward."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from seesay.models.protocol import Decoder
from seesay.tokenizer import END_ID, PAD_ID, START_ID, UNK_ID


@torch.no_grad()
def sample_captions(
    decoder: Decoder, memory: Tensor, memory_mask: Tensor | None, samples: int, max_length: int, allow_unk: bool
) -> Tensor:
    """Returns independent samples of the captions of each picture, (B, K, T) int64, T at most `max_length`.

    A row holds words and the end token, if it was reached, then padding. What a picture alone decides is
    computed once and shared by its K rows; pictures leave the batch when all of their rows have ended. The
    words come from torch's global generator.

    Args:
        decoder: anything with `init_state` and `step`.
        memory: (B, N, D).
        memory_mask: (B, N), True = may attend; None = all.
        samples: K.
        max_length: tokens after which a caption is cut, the end token among them.
        allow_unk: may the unknown word be drawn.
    """
    images, device = memory.shape[0], memory.device
    tokens = torch.full((images, samples, max_length), PAD_ID, device=device)
    alive = torch.arange(images, device=device)
    ended = torch.zeros((images, samples), dtype=torch.bool, device=device)
    words = torch.full((images, 1), START_ID, device=device)
    state = decoder.init_state(memory, memory_mask)
    for t in range(max_length):
        output = decoder.step(words, state)
        words = draw(policy(output.logits, allow_unk).expand(-1, samples, -1))
        tokens[alive, :, t] = torch.where(ended, PAD_ID, words)
        # The start token was one row a picture; from here on there are K.
        state = output.state.pick(torch.zeros_like(words)) if t == 0 else output.state
        ended = ended | (words == END_ID)
        left = torch.nonzero(~ended.all(1))[:, 0]
        if len(left) == 0:
            return tokens[:, :, : t + 1]
        if len(left) < len(alive):
            alive, words, ended, state = alive[left], words[left], ended[left], state.keep(left)
    return tokens


def policy(logits: Tensor, allow_unk: bool) -> Tensor:
    """Returns the log-probabilities (..., V) that samples are drawn by and learn by, in float32 or better.

    Of logits (..., V) without padding and the start token, which are never said, and without the unknown word
    unless it may be.
    """
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    never = torch.tensor([PAD_ID, START_ID] if allow_unk else [PAD_ID, START_ID, UNK_ID], device=logits.device)
    return torch.log_softmax(scores.index_fill(-1, never, float("-inf")), dim=-1)


def draw(log_probs: Tensor) -> Tensor:
    """Returns words (...) drawn with the probabilities of log_probs (..., V), which need not be normalised.

    Of exponential waiting times with the rates p the shortest is the word's with probability p, and a word of
    probability 0 never comes first.
    """
    waiting = torch.empty_like(log_probs, memory_format=torch.contiguous_format).exponential_()
    return (log_probs - waiting.log()).argmax(-1)


@contextlib.contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Holds the model as it is used, not as it is trained; gradients still pass.

    Recurrent layers of torch stay in training mode, in which alone cuDNN computes their gradients, with the
    dropout between them set to 0.
    """
    modes = {module: module.training for module in model.modules()}
    between = {module: module.dropout for module in modes if isinstance(module, nn.RNNBase)}
    try:
        for module in modes:
            module.training = module in between
        for module in between:
            module.dropout = 0.0
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for module, dropout in between.items():
            module.dropout = dropout
