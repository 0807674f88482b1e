"""The hypotheses of a search that have ended, ranked."""

import torch
from torch import Tensor

from seesay.decoding.beam_state import TokenHistory
from seesay.decoding.hypothesis import FAILED, Hypothesis, Result
from seesay.decoding.selection import stable_topk
from seesay.tokenizer import PAD_ID


class Finished:
    """The best that have ended of every image, (B, P), best first.

    Args:
        images: B.
        size: P.
        steps: log-probabilities that a hypothesis may have.
        like: a tensor of the type and on the device of scores.
        distinct: the same words may come more than once, and count once.
    """

    def __init__(self, images: int, size: int, steps: int, like: Tensor, distinct: bool) -> None:
        self.size, self.steps, self.distinct = size, steps, distinct
        self.rank = like.new_full((images, size), float("-inf"))
        shape = (images, size)
        self.entries: dict[str, Tensor] = {
            "score": like.new_zeros(shape),
            "tokens": torch.full((*shape, steps), PAD_ID, device=like.device),
            "log_probs": like.new_zeros(*shape, steps),
            "length": torch.zeros(shape, dtype=torch.int64, device=like.device),
            "finished": torch.zeros(shape, dtype=torch.bool, device=like.device),
            "row": torch.zeros(shape, dtype=torch.int64, device=like.device),
        }

    def add(
        self,
        images: Tensor,
        rank: Tensor,
        score: Tensor,
        history: TokenHistory,
        finished: Tensor,
        rows: Tensor | None = None,
    ) -> None:
        """Merges hypotheses (b, k) of the images `images` (b,).

        Args:
            images: numbers of the images.
            rank: what they are ordered by, (b, k); -inf = not one.
            score: their scores.
            history: their tokens, without the end, and log-probabilities, with the end's.
            finished: whether they ended by themselves.
            rows: which row of the search each is, (b, k); None = its place.
        """
        steps = history.log_probs.shape[-1]
        new = {
            "score": score,
            "tokens": _padded(history.tokens, self.steps),
            "log_probs": _padded(history.log_probs, self.steps),
            "length": torch.full_like(rank, steps, dtype=torch.int64),
            "finished": finished,
            "row": torch.arange(rank.shape[1], device=rank.device).expand_as(rank) if rows is None else rows,
        }
        if history.attention is not None:
            new["attention"] = _padded(history.attention, self.steps)
            if "attention" not in self.entries:
                self.entries["attention"] = history.attention.new_zeros(
                    *self.rank.shape, self.steps, history.attention.shape[-1]
                )
        if self.distinct:
            rank = rank.masked_fill(self._known(images, rank, new), float("-inf"))
        best, place = stable_topk(torch.cat([self.rank[images], rank], 1), self.size)  # of equals what came first
        self.rank[images] = best
        batch = torch.arange(len(images), device=rank.device)[:, None]
        for name, value in new.items():
            held = self.entries[name]
            held[images] = torch.cat([held[images], value.to(held.dtype)], 1)[batch, place]

    def _known(self, images: Tensor, rank: Tensor, new: dict[str, Tensor]) -> Tensor:
        """Returns which of the new hypotheses (b, k) are already there, or come before among the new."""
        ranks = torch.cat([self.rank[images], rank], 1)
        tokens = torch.cat([self.entries["tokens"][images], new["tokens"]], 1)
        length = torch.cat([self.entries["length"][images], new["length"]], 1)
        same = (new["tokens"][:, :, None] == tokens[:, None]).all(-1) & (new["length"][:, :, None] == length[:, None])
        earlier = torch.ones(same.shape[1:], dtype=torch.bool, device=same.device).tril(self.size - 1)
        return (same & earlier & torch.isfinite(ranks)[:, None]).any(-1)

    def bar(self, count: int) -> Tensor:
        """Returns the rank that one of the best `count` has to beat, (B,); -inf while there are fewer."""
        return self.rank[:, count - 1]

    def collect(self) -> list[Result]:
        """Returns the hypotheses of every image."""
        columns = {name: tensor.cpu() for name, tensor in self.entries.items()}
        attention = columns.pop("attention", None)
        rows = {name: tensor.tolist() for name, tensor in columns.items()}
        results = []
        for image, ranks in enumerate(self.rank.tolist()):
            kept = [place for place, rank in enumerate(ranks) if rank > FAILED] or [0]
            found = []
            for place in kept:
                length = rows["length"][image][place]
                maps = None if attention is None else attention[image, place, :length].numpy().copy()
                found.append(
                    Hypothesis(
                        tokens=tuple(rows["tokens"][image][place][: max(0, length - 1)]),
                        log_probs=tuple(rows["log_probs"][image][place][:length]),
                        score=rows["score"][image][place],
                        finished=rows["finished"][image][place],
                        attention=maps,
                    )
                )
            held = tuple(rows["row"][image][place] for place in kept)
            results.append(Result(found, ranks[0] <= FAILED, held))
        return results


def _padded(value: Tensor, steps: int) -> Tensor:
    """Returns (b, k, t, ...) filled up to (b, k, steps, ...) with zeros, which is PAD_ID, too."""
    room = value.new_zeros(*value.shape[:2], steps - value.shape[2], *value.shape[3:])
    return torch.cat([value, room], 2)
