"""The reward of a sampled caption: CIDEr-D, and BLEU-4 if wanted, against the image's captions, on token ids."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seesay.data.batches import Example
from seesay.metrics.bleu import bleu_statistics, smoothed_bleu
from seesay.metrics.cider import Cider
from seesay.models.packing import PAD_ID


class CaptionReward:
    """CIDEr-D of captions as token ids, with the end token counted as a word, plus a multiple of their BLEU-4.

    Without the end token, captions that break off ("a man on a") lose little reward, and SCST learns to produce them;
    with it the n-grams of a complete ending ("a field <end>") are rewarded. References contain the unknown token for
    words outside the vocabulary, which only the unknown token matches. Document frequencies are those of `examples`.

    Args:
        examples: the training images with their captions as ids, start and end included.
        bleu: weight of `smoothed_bleu`, on the scale of 0 to 10 of CIDEr-D.
    """

    def __init__(self, examples: Sequence[Example], bleu: float = 0.0) -> None:
        self._bleu = bleu
        self._place = {example.id: place for place, example in enumerate(examples)}
        self._cider = Cider([[caption[1:] for caption in example.tokens] for example in examples])

    def __call__(self, ids: Sequence[str], captions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the reward of each caption, (B, K), on CIDEr-D's scale of 0 to 10 for each of its two parts.

        Args:
            ids: ids of B images.
            captions: token ids of K captions per image, (B, K, T), without the start token, with the end token if it
                was generated, padded at the end.
        """
        rows = captions.reshape(-1, captions.shape[-1])
        lengths = (rows != PAD_ID).sum(1).tolist()
        hypotheses = [row[:length] for row, length in zip(rows.tolist(), lengths, strict=True)]
        images = np.repeat([self._place[name] for name in ids], captions.shape[1])
        reward = self._cider.score(hypotheses, images)
        if self._bleu:
            statistics = bleu_statistics(self._cider.references, hypotheses, images)
            reward += self._bleu * 10 * smoothed_bleu(statistics)
        return reward.reshape(captions.shape[:2])
