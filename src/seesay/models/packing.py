"""Packing of captions of different lengths, so that no step and no layer computes padding."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

PAD_ID = 0
"""Id of the padding token; `seesay.tokenizer` uses the same."""


@dataclass(frozen=True)
class PackedCaptions:
    """The real tokens of a batch, ordered by time step, then by caption, longest first.

    At step t only the first `sizes[t]` rows are still running, so that a decoder's time loop computes a shrinking
    prefix and outputs real tokens only (the order of torch's PackedSequence). M = sum(sizes).

    Attributes:
        inputs: input tokens of the decoder, (M,) int64; the first of each row is the start token.
        targets: target tokens, (M,) int64; the last of each row is the end token.
        sizes: number of running rows per step, non-increasing, a list of T numbers.
        image_of_row: image of each row, (R,) int64.
        caption_of_row: index of each row's caption in the flattened (B, C) grid, (R,) int64.
    """

    inputs: Tensor
    targets: Tensor
    sizes: list[int]
    image_of_row: Tensor
    caption_of_row: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> "PackedCaptions":
        """Return the same captions with their tensors on `device`."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking)
            for name in ("inputs", "targets", "image_of_row", "caption_of_row")
        }
        return replace(self, **moved)

    @property
    def rows(self) -> int:
        """Number of captions in the batch, R."""
        return self.sizes[0] if self.sizes else 0

    @property
    def real(self) -> Tensor | None:
        """Whether tokens are real, (M,) bool; None: all are, except in `PaddedCaptions`."""
        return None

    def row_of_token(self) -> Tensor:
        """Return the row of every packed token, (M,) int64."""
        running = torch.arange(self.rows)[None] < torch.tensor(self.sizes, dtype=torch.int64)[:, None]
        return running.nonzero()[:, 1].to(self.inputs.device)

    def step_of_token(self) -> Tensor:
        """Return the position of every packed token in its caption, (M,) int64."""
        return torch.repeat_interleave(torch.tensor(self.sizes, dtype=torch.int64)).to(self.inputs.device)

    def by_caption(self) -> "PackingIndex":
        """Return the index to and from (R, T, ...): one row per caption with its tokens in order."""
        return PackingIndex(self.row_of_token(), self.step_of_token(), self.rows, len(self.sizes))

    def by_image(self, images: int) -> "PackingIndex":
        """Return the index to and from (B, S, ...): one row per image with the tokens of all its captions.

        Args:
            images: number of images B of the batch, including those without a caption.
        """
        return PackingIndex.of(self.image_of_row.index_select(0, self.row_of_token()), images)

    def rows_by_image(self, images: int) -> "PackingIndex":
        """Return the index of the R captions in (B, C, ...): one row per image with one value per caption.

        Args:
            images: number of images B of the batch, including those without a caption.
        """
        return PackingIndex.of(self.image_of_row, images)


class PaddedCaptions(PackedCaptions):
    """Captions padded to the longest, so that shapes depend on the batch's shape only.

    Padding is part of the loop and must be excluded from the loss; see `real`. No method synchronises with a device, so
    that a CUDA graph can capture a step.
    """

    @property
    def real(self) -> Tensor:
        """Whether tokens are real, (M,) bool."""
        return self.targets != PAD_ID

    def row_of_token(self) -> Tensor:
        """Return the row of every token, (M,) int64."""
        return self._index(self.rows).repeat(len(self.sizes))

    def step_of_token(self) -> Tensor:
        """Return the position of every token in its row, (M,) int64."""
        return self._index(len(self.sizes)).repeat_interleave(self.rows)

    def by_image(self, images: int) -> "PackingIndex":
        """Return the index to and from (B, S, ...): one row per image with the tokens of all its captions."""
        captions, row = self.rows // max(1, images), self.row_of_token()
        place = self.step_of_token() * captions + row % max(1, captions)
        return PackingIndex(row // max(1, captions), place, images, captions * len(self.sizes))

    def rows_by_image(self, images: int) -> "PackingIndex":
        """Return the index of the R captions in (B, C, ...)."""
        return RegularIndex.regular(images, self.rows // max(1, images), self.inputs.device)

    def _index(self, count: int) -> Tensor:
        return torch.arange(count, device=self.inputs.device)


@dataclass(frozen=True)
class PackingIndex:
    """Index between packed tokens and a padded tensor, for layers that act on rows.

    Attributes:
        row: row of each token, (M,) int64.
        place: position of each token in its row, (M,) int64, from 0.
        rows: number of rows.
        places: length of the rows.
    """

    row: Tensor
    place: Tensor
    rows: int
    places: int

    @classmethod
    def of(cls, row: Tensor, rows: int) -> "PackingIndex":
        """Return the index of values (M,) of rows `row` (M,) int64, which keep their order in a row.

        Args:
            row: the row of each value.
            rows: number of rows, including those without a value.
        """
        counts = torch.bincount(row, minlength=rows)
        order = torch.argsort(row, stable=True)
        place = torch.empty_like(order)
        before = counts.cumsum(0) - counts
        place[order] = torch.arange(len(order), device=order.device) - before.repeat_interleave(counts)
        return cls(row, place, rows, int(counts.max()) if len(order) else 0)

    def pad(self, packed: Tensor) -> Tensor:
        """Return (M, ...) as (rows, places, ...), zero at padding."""
        padded = packed.new_zeros(self.rows, self.places, *packed.shape[1:])
        return padded.index_put((self.row, self.place), packed)

    def pack(self, padded: Tensor) -> Tensor:
        """Return the tokens (M, ...) of (rows, places, ...)."""
        return padded[self.row, self.place]

    def first(self, count: int) -> "PackingIndex":
        """Return the index of the first `count` packed values."""
        if count == len(self.row):
            return self
        return PackingIndex(self.row[:count], self.place[:count], self.rows, self.places)


@dataclass(frozen=True)
class RegularIndex(PackingIndex):
    """The index of rows of equal length, stored one after the other: packing is a reshape."""

    @classmethod
    def regular(cls, rows: int, places: int, device: torch.device) -> "RegularIndex":
        """Return the index of `rows` rows of `places` values."""
        order = torch.arange(rows * places, device=device)
        return cls(order // max(1, places), order % max(1, places), rows, places)

    def pad(self, packed: Tensor) -> Tensor:
        """Return (M, ...) as (rows, places, ...)."""
        return torch.unflatten(packed, 0, (self.rows, self.places))

    def pack(self, padded: Tensor) -> Tensor:
        """Return (rows, places, ...) as (M, ...)."""
        return padded.flatten(0, 1)


def pack_captions(tokens: Tensor) -> PackedCaptions:
    """Return the captions of a batch packed for teacher forcing.

    Args:
        tokens: (B, C, T) int64 with start and end tokens, padded at the end with `PAD_ID`; missing captions of an image
            are rows of padding.
    """
    captions = tokens.shape[1]
    flat = tokens.flatten(0, 1)
    lengths = (flat != PAD_ID).sum(1) - 1  # steps of a caption: every token but the last is an input
    lengths, order = torch.sort(lengths, descending=True, stable=True)
    order = order[: int((lengths > 0).sum())]
    lengths = lengths[: len(order)]
    steps = int(lengths[0]) if len(lengths) else 0
    running = torch.arange(steps)[:, None] < lengths[None]  # (T-1, R)
    by_time = flat[order].T
    return PackedCaptions(
        inputs=by_time[:steps][running],
        targets=by_time[1 : steps + 1][running],
        sizes=running.sum(1).tolist(),
        image_of_row=order // captions,
        caption_of_row=order,
    )


def pad_to_longest(tokens: Tensor) -> PaddedCaptions:
    """Return the captions of a batch, each with the length of the tensor.

    Args:
        tokens: (B, C, T) int64, as for `pack_captions`.
    """
    images, captions, length = tokens.shape
    by_time = tokens.flatten(0, 1).T
    place = torch.arange(images * captions, device=tokens.device)
    return PaddedCaptions(
        inputs=by_time[:-1].flatten(),
        targets=by_time[1:].flatten(),
        sizes=[images * captions] * (length - 1),
        image_of_row=place // captions,
        caption_of_row=place,
    )
