"""What a sampled caption is worth: its CIDEr-D against the human captions of its image, on word ids."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seesay.data.batches import Example
from seesay.metrics.cider import Cider
from seesay.models.packing import PAD_ID


class CaptionReward:
    """CIDEr-D of captions as word ids, with the end token counted as a word.

    Without the end token a caption that breaks off ("a man on a") costs nothing but its missing words, and
    training by reward learns just that; with it the n-grams of a sound ending ("a field <end>") earn their
    part. Hypotheses and references are what the model can say: words outside the vocabulary are the one
    unknown word in the references, which lengthens them and may be matched by nothing but itself, and
    document frequencies are counted over the training images given.

    Args:
        examples: the training images with their captions as ids, start and end included.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self._place = {example.id: place for place, example in enumerate(examples)}
        self._cider = Cider([[caption[1:] for caption in example.tokens] for example in examples])

    def __call__(self, ids: Sequence[str], captions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns the reward of each caption, (B, K), on CIDEr-D's scale of 0 to 10.

        Args:
            ids: the images, B of them.
            captions: K captions an image as ids, (B, K, T), without the start token, the end token where it
                was reached, padded at the end.
        """
        rows = captions.reshape(-1, captions.shape[-1])
        lengths = (rows != PAD_ID).sum(1).tolist()
        hypotheses = [row[:length] for row, length in zip(rows.tolist(), lengths, strict=True)]
        images = np.repeat([self._place[name] for name in ids], captions.shape[1])
        return self._cider.score(hypotheses, images).reshape(captions.shape[:2])
