"""The decoder's initial state from the projected features of images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from seesay.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from seesay.models.protocol import Decoder, DecoderState


def init_state(
    decoder: "Decoder", memory: "Tensor", memory_mask: "Tensor | None" = None, keys: Sequence[str] | None = None
) -> "DecoderState":
    """Return a decoder's state before the start token.

    Args:
        decoder: the decoder.
        memory: projected features, (B, N, D).
        memory_mask: (B, N), or (B, N, M) for an ensemble; True = attend; None = all.
        keys: a name per image, for the error.

    Raises:
        DataError: an image has no region to attend to; its scores would be NaN.
    """
    has_regions = [memory.shape[1] > 0] * len(memory)
    if memory_mask is not None and len(memory):
        has_regions = memory_mask.any(1).view(len(memory), -1).all(1).tolist()
    if not all(has_regions):
        first = has_regions.index(False)
        raise DataError(
            f"{has_regions.count(False)} of {len(has_regions)} images have no region to attend to, such as "
            f"{keys[first] if keys else first}; leave them out, or correct memory_mask (True = attend)"
        )
    return decoder.init_state(memory, memory_mask)
