"""Helpers for tests of decoders: sizes, captions of different lengths, and unpacking of results."""

from typing import Any

import torch
from torch import Tensor, nn

from seesay.config import ModelConfig
from seesay.models.packing import pack_captions
from seesay.models.registry import decoder_builder
from tests import tiny

V, D, N = 11, 6, 4
TOKENS = torch.tensor(
    [
        [[1, 4, 5, 6, 2, 0], [1, 7, 2, 0, 0, 0]],
        [[1, 8, 9, 10, 4, 2], [0, 0, 0, 0, 0, 0]],
        [[1, 5, 2, 0, 0, 0], [1, 6, 6, 2, 0, 0]],
    ]
)
MASK = torch.tensor([[True] * 4, [True, True, False, True], [True, False, False, False]])
CONFIGS = {
    "attention": ModelConfig(hidden_size=7),
    "attention-dot": ModelConfig(hidden_size=D, attention_score="dot"),
    "attention-multihead": ModelConfig(hidden_size=7, attention_score="multihead"),
    "show-attend-tell": ModelConfig(decoder="show-attend-tell", hidden_size=7, doubly_stochastic=1.0),
    "show-attend-tell-hard": ModelConfig(decoder="show-attend-tell", hidden_size=7, attention="hard"),
    "luong-general": ModelConfig(decoder="luong", hidden_size=7, attention_score="general"),
    "luong-dot": ModelConfig(decoder="luong", hidden_size=D, attention_score="dot"),
    "up-down": ModelConfig(decoder="up-down", hidden_size=7),
    "transformer": ModelConfig(decoder="transformer", hidden_size=8, num_layers=2, num_heads=2, feedforward_size=9),
}
"""Every decoder with attention, with small sizes; see `sized`."""


def sized(name: str, **changes: Any) -> ModelConfig:
    """Return the settings of `CONFIGS` with small widths, different where possible."""
    config = CONFIGS[name]
    words = config.hidden_size if config.decoder == "transformer" else 5
    small = {"projection_size": D, "embedding_size": words, "attention_size": 4, "num_heads": 2, "output_size": 8}
    return config.replace(**{**tiny.what_is_read(config.decoder, small), **changes})


def decoder(name: str, **changes: Any) -> Any:
    """Return a decoder of `CONFIGS` in float64, in evaluation mode, with enlarged weights."""
    torch.manual_seed(0)
    config = sized(name, **changes)
    made: nn.Module = decoder_builder(config.decoder)(config, V)
    return made.double().eval()


def memories(seed: int = 1, size: int = D) -> Tensor:
    """Return the memory (3, N, size) of three images."""
    return torch.randn(3, N, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spread(logits: Tensor, tokens: Tensor) -> dict[tuple[int, int], Tensor]:
    """Return packed values (M, ...) as (image, caption) -> (T, ...)."""
    packed = pack_captions(tokens)
    captions, rows = tokens.shape[1], packed.row_of_token()
    return {
        (int(place) // captions, int(place) % captions): logits[rows == row]
        for row, place in enumerate(packed.caption_of_row)
    }


def fed(image: int, caption: int) -> list[int]:
    """Return the input tokens of a caption: all but the last."""
    return [word for word in TOKENS[image, caption].tolist() if word][:-1]
