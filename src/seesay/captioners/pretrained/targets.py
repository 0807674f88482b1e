"""Training captions as targets of a pretrained model: token ids, and inputs with labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

IGNORED = -100
"""Label of a position that is not a target: padding, and the tokens of a prompt."""

_TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")

Captions = Sequence[Sequence[int]]
"""Token ids of one caption per row, each with its end token, without a start token."""


def pad_right(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Return rows of ids as one tensor (R, T) int64, padded at the end with `value`."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def continue_prompts(inputs: Mapping[str, Any], captions: Captions, token_type: int = 0) -> dict[str, Any]:
    """Return the arguments of a decoder-only model: its prompts, each continued by a caption, with `labels`.

    Args:
        inputs: arguments of the model's `generate` with `input_ids` (R, P), padded at the start, if at all.
        captions: R captions.
        token_type: type of the captions' tokens in models that have types.

    Returns:
        The arguments, with P + T - 1 tokens per row, and `labels` (R, T): the token after each of the last T positions,
        `IGNORED` after the end of a caption.
    """
    prompts: Tensor = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    following = pad_right([caption[:-1] for caption in captions], 0)
    real = pad_right([[1] * (len(caption) - 1) for caption in captions], 0)
    found = {**inputs, "input_ids": torch.cat([prompts, following.to(prompts)], 1)}
    mask = torch.ones_like(prompts) if mask is None else mask
    found["attention_mask"] = torch.cat([mask, real.to(mask)], 1)
    for name in _TOKEN_TYPES:
        if isinstance(types := inputs.get(name), Tensor):
            found[name] = torch.cat([types, torch.full_like(following, token_type).to(types)], 1)
    return found | {"labels": pad_right(captions, IGNORED)}


def decode_after(inputs: Mapping[str, Any], start: Sequence[int], captions: Captions) -> dict[str, Any]:
    """Return the arguments of an encoder-decoder, which decodes captions after some first tokens, with `labels`.

    Args:
        inputs: arguments of the model's `generate` for R rows.
        start: tokens that precede every caption.
        captions: R captions.

    Returns:
        The arguments with `decoder_input_ids`, `decoder_attention_mask` and `labels` (R, T), as `continue_prompts`.
    """
    rows = [[*start, *caption[:-1]] for caption in captions]
    return {
        **inputs,
        "decoder_input_ids": pad_right(rows, 0),
        "decoder_attention_mask": pad_right([[1] * len(row) for row in rows], 0),
        "labels": pad_right(captions, IGNORED),
    }
