"""The open hypotheses of a search, and how images and hypotheses that are done leave them."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from seesay.models.protocol import DecoderState


class TokenHistory(NamedTuple):
    """What hypotheses (b, R) have said so far.

    Attributes:
        tokens: (b, R, t).
        log_probs: the model's, (b, R, t).
        attention: (b, R, t, N); None where it is not kept or there is none.
    """

    tokens: Tensor
    log_probs: Tensor
    attention: Tensor | None

    def pick(self, parents: Tensor) -> "TokenHistory":
        """Returns the histories (b, K) of the rows `parents` (b, K)."""
        batch = torch.arange(len(parents), device=parents.device)[:, None]
        maps = None if self.attention is None else self.attention[batch, parents]
        return TokenHistory(self.tokens[batch, parents], self.log_probs[batch, parents], maps)

    def scored(self, log_probs: Tensor, attention: Tensor | None) -> "TokenHistory":
        """Returns the histories with the log-probability (b, R) and attention (b, R, N) of one more token."""
        maps = None
        if attention is not None:
            latest = attention[:, :, None].float()
            maps = latest if self.attention is None else torch.cat([self.attention, latest], 2)
        return TokenHistory(self.tokens, torch.cat([self.log_probs, log_probs[..., None]], -1), maps)

    def keep(self, images: Tensor) -> "TokenHistory":
        """Returns the histories of the images at positions `images` (b')."""
        maps = None if self.attention is None else self.attention[images]
        return TokenHistory(self.tokens[images], self.log_probs[images], maps)


@dataclass(frozen=True)
class BeamState:
    """The open hypotheses (b, R) of some images, all of the same number of words.

    Attributes:
        images: number of each image in the batch, (b,).
        state: the decoder's, before `words`.
        words: last word of each hypothesis, (b, R).
        sums: penalised log-probabilities added up, (b, R); -inf = no open hypothesis.
        places: how many hypotheses of each group have not ended, (b, G).
        history: what they have said.
        phrases: state of the automaton, (b, R); None without one.
        nodes: number in the trace, (b, R); None without one.
        rows: which of the captions drawn each is, (b, R); None but in sampling.
        width: hypotheses an image (in diverse search a group, in constrained search a bank) has at most.
    """

    images: Tensor
    state: DecoderState
    words: Tensor
    sums: Tensor
    places: Tensor
    history: TokenHistory
    phrases: Tensor | None
    nodes: Tensor | None
    rows: Tensor | None
    width: int

    @property
    def step(self) -> int:
        """How many words have been said."""
        return self.history.tokens.shape[-1]

    def keep(self, images: Tensor) -> "BeamState":
        """Returns the part of the images at positions `images` (b')."""
        return replace(
            self,
            images=self.images[images],
            state=self.state.keep(images),
            words=self.words[images],
            sums=self.sums[images],
            places=self.places[images],
            history=self.history.keep(images),
            phrases=None if self.phrases is None else self.phrases[images],
            nodes=None if self.nodes is None else self.nodes[images],
            rows=None if self.rows is None else self.rows[images],
        )

    def narrow(self, rows: int, width: int) -> "BeamState":
        """Returns the part of the open hypotheses, at most `rows` an image, which may become `width` again.

        They stay in their order, so that of equally good ones the same comes first whatever else is in the batch.
        """
        count = self.sums.shape[1]
        early = torch.arange(count, 0, -1, device=self.sums.device)
        first = torch.where(torch.isfinite(self.sums), early + count, early).topk(rows, dim=1).indices
        return replace(
            self,
            state=self.state.pick(first),
            words=self.words.gather(1, first),
            sums=self.sums.gather(1, first),
            history=self.history.pick(first),
            phrases=None if self.phrases is None else self.phrases.gather(1, first),
            nodes=None if self.nodes is None else self.nodes.gather(1, first),
            rows=None if self.rows is None else self.rows.gather(1, first),
            width=width,
        )


def split(beam_state: BeamState, *, by_rows: bool, by_width: bool, least_saved: int) -> list[BeamState]:
    """Returns the frontier without images that are done, in parts of images with as many open hypotheses.

    An image whose beam has mostly ended would else be computed as wide as the others. This is where the device
    waits for Python: for one small table. An image without a free place is done, whatever is open: all that ends
    needs one.

    Args:
        beam_state: what is open.
        by_rows: whether hypotheses may change their places, so that the empty ones can be left out.
        by_width: whether an image needs no more hypotheses than it has places. In constrained search it does:
            captions end in the last bank alone, and a bank that lacks words yet is as wide as before.
        least_saved: hypotheses that a part must save to be worth a step of its own.
    """
    counts = torch.stack([torch.isfinite(beam_state.sums).sum(1), beam_state.places.sum(1)], 1).tolist()
    left = {image: rows for image, (rows, places) in enumerate(counts) if rows > 0 and places > 0}
    if not by_rows:
        return [_part(beam_state, list(left), None, beam_state.width)] if left else []
    widths = [places if by_width else beam_state.width for _, places in counts]
    return [
        _part(beam_state, images, rows, min(beam_state.width, max(widths[image] for image in images)))
        for images, rows in parts_of(left, least_saved)
    ]


def parts_of(open_rows: dict[int, int], least_saved: int) -> list[tuple[list[int], int]]:
    """Returns images in parts that take their steps apart, with the most open hypotheses that one of a part has.

    Args:
        open_rows: of images by their numbers, how many hypotheses are open.
        least_saved: hypotheses that a part must save to be worth a step of its own.
    """
    left = sorted((rows, image) for image, rows in open_rows.items())
    parts = []
    while left:
        most = left[-1][0]
        saved = {most: 0}  # by the widest of the images that are computed apart
        for place, (rows, _) in enumerate(left):
            saved[rows] = (place + 1) * (most - rows)
        best = max(saved, key=lambda rows: saved[rows])
        cut = most if saved[best] < least_saved else best
        part = [pair for pair in left if pair[0] > cut] or left
        left = [] if part is left else [pair for pair in left if pair[0] <= cut]
        parts.append((sorted(image for _, image in part), part[-1][0]))
    return parts


def surely_none(found: Tensor) -> bool:
    """Returns whether none is True, where asking costs nothing: elsewhere the device would wait for Python."""
    return found.device.type == "cpu" and not bool(found.any())


def _part(beam_state: BeamState, images: list[int], rows: int | None, width: int) -> BeamState:
    if len(images) < len(beam_state.sums):
        beam_state = beam_state.keep(torch.tensor(images, device=beam_state.sums.device))
    if rows is None:
        return beam_state
    return (
        beam_state if rows == beam_state.sums.shape[1] and width == beam_state.width else beam_state.narrow(rows, width)
    )
