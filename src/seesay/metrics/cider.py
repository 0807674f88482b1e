"""CIDEr (Vedantam et al. 2015): TF-IDF weighted n-gram similarity to an image's references."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from seesay.errors import ConfigError, DataError
from seesay.metrics.ngrams import MAX_ORDER, DocumentFrequencies, Matches, ReferenceNgrams, known_ids

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Cider:
    """CIDEr against fixed references, whose document frequencies are computed once.

    The variant `D` is CIDEr-D (section 5 of the paper), which COCO's evaluation and the literature report as "CIDEr":
    counts clipped to the reference's, a Gaussian length penalty, and a factor of 10. The variant `plain` is equation 2
    of the paper: a mean of cosine similarities, 0 to 1. Neither stems words.

    Args:
        references: token ids of each reference of each image, or their n-gram table.
        variant: `D` or `plain`.
        sigma: standard deviation of the penalty in words.
        frequencies: document frequencies; None: those of the references.

    Raises:
        DataError: an image has no references.
        ConfigError: unknown variant.
    """

    def __init__(
        self,
        references: Sequence[Sequence[Sequence[int]]] | ReferenceNgrams,
        variant: Literal["D", "plain"] = "D",
        sigma: float = 6.0,
        frequencies: DocumentFrequencies | None = None,
    ) -> None:
        table = references if isinstance(references, ReferenceNgrams) else ReferenceNgrams(references)
        if variant not in ("D", "plain"):
            raise ConfigError(f"unknown variant of CIDEr {variant!r}; choose D or plain")
        if not table.per_image.all():
            raise DataError(f"image {int(np.argmin(table.per_image))} has no references; remove it")
        self.references = table
        self.variant = variant
        self.sigma = sigma
        self._weight: list[Floats] = []
        self._norm: list[Floats] = []
        self.frequencies = frequencies or table.frequencies
        ids: Ints = np.zeros(1, np.int64)
        for order, codes, idf in zip(table.orders, self.frequencies.codes, self.frequencies.idf, strict=True):
            ids = known_ids(order.codes, table.vocabulary, ids, codes, self.frequencies.vocabulary)
            weight = order.count * idf[ids[order.gram]]
            self._weight.append(weight)
            squares = np.bincount(order.sentence, weights=weight**2, minlength=len(table.lengths))
            self._norm.append(np.sqrt(squares))

    def score(
        self,
        hypotheses: Sequence[Sequence[int]],
        images: Sequence[int] | Ints | None = None,
        weights: Floats | None = None,
    ) -> Floats:
        """Returns the CIDEr of each hypothesis, (H,).

        Args:
            hypotheses: token ids, without padding, start and end tokens (unless the references have them).
            images: image index of each hypothesis; by default one hypothesis per image, in order.
            weights: weight of each reference in the mean over those of its image, (R,); None: equal weights.

        Raises:
            DataError: the number of images differs from that of hypotheses, or an index is out of range.
        """
        table = self.references
        image = np.arange(table.images) if images is None else np.asarray(images, np.int64)
        if len(image) != len(hypotheses) or not ((image >= 0) & (image < table.images)).all():
            raise DataError(
                f"{len(hypotheses)} hypotheses, {len(image)} image indices; pass one below {table.images} for each"
            )
        pairs = table.per_image[image]
        offset = np.cumsum(pairs) - pairs  # of the first pair of each hypothesis
        owner, sentence = table.pairs(image)
        total = np.zeros(len(owner))
        for order, matches in enumerate(table.match(hypotheses, image, self.frequencies)):
            pair = (
                offset[matches.hypothesis[matches.row]]
                + matches.sentence
                - table.first[image[matches.hypothesis[matches.row]]]
            )
            total += self._similarity(order, matches, pair, owner, sentence)
        if self.variant == "D":
            length = np.fromiter(map(len, hypotheses), np.int64, len(image))
            # The reference implementation measures length in bigrams: one word has length 0.
            delta = np.maximum(0, length[owner] - 1) - np.maximum(0, table.lengths[sentence] - 1)
            total *= 10.0 * np.exp(-(delta**2) / (2 * self.sigma**2))
        weight = np.ones(len(owner)) if weights is None else weights[sentence]
        summed = np.bincount(owner, weights=total * weight, minlength=len(image))
        return np.asarray(summed / (MAX_ORDER * np.bincount(owner, weights=weight, minlength=len(image))), np.float64)

    def _similarity(self, order: int, matches: Matches, pair: Ints, owner: Ints, sentence: Ints) -> Floats:
        """Returns the cosine similarity of each pair for one n-gram order, with clipped counts in variant D."""
        own = matches.count * self.frequencies.idf[order][matches.gram]
        reference_weight = self._weight[order][matches.entry]
        shared = np.minimum(own[matches.row], reference_weight) if self.variant == "D" else own[matches.row]
        product = np.bincount(pair, weights=shared * reference_weight, minlength=len(owner))
        squares = np.bincount(matches.hypothesis, weights=own**2, minlength=int(owner.max(initial=-1)) + 1)
        norms = np.sqrt(squares)[owner] * self._norm[order][sentence]
        return np.divide(product, norms, out=np.zeros(len(owner)), where=norms > 0)
