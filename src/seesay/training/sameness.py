"""Detects that a model generates the same caption for every image, and names the likely cause."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from seesay.config import Config

MIN_IMAGES = 8
"""Fewer validation images may be alike."""
MIN_SHARE = 0.9
"""Share of the validation images with one caption from which captions count as the same."""
MIN_SPREAD = 1e-3
"""Share of the variance of the inputs that is between images, below which the images count as equal."""
_USUAL_RATES = {"adapters": 1e-3, "pretrained": 1e-4, "own": 1e-2}
"""Highest usual learning rates of Adam, by what is trained."""


class SamenessCheck:
    """Checks the captions of every validation.

    Args:
        config: the configuration of the run.
    """

    def __init__(self, config: Config) -> None:
        finetuning = config.finetuning
        self._kind = "adapters" if finetuning.lora else "pretrained" if finetuning.model else "own"
        self._rate = config.training.learning_rate
        self._lowest_loss = float("inf")
        self._spread: float | None = None
        self._reported = False

    def watch(self, inputs: Tensor) -> None:
        """Measure how the inputs of the encoder or decoder, (B, ...), differ between images."""
        if len(inputs) > 1 and self._spread is None:
            values = inputs.detach().flatten(1).to(torch.float32)
            between = values.var(0, correction=0).mean()
            self._spread = float(between / values.var(correction=0).clamp(min=torch.finfo(torch.float32).tiny))

    def find(self, captions: Sequence[str], loss: float, epoch: int) -> str:
        """Return one line with the likely cause if the captions are the same and that was not yet reported, else "".

        Args:
            captions: the captions of the validation images.
            loss: the validation loss.
            epoch: the epoch, from 0.
        """
        lowest, self._lowest_loss = self._lowest_loss, min(loss, self._lowest_loss)
        caption, count = Counter(captions).most_common(1)[0]
        if len(captions) < MIN_IMAGES or count < MIN_SHARE * len(captions):
            self._reported = False
            return ""
        cause = self._cause(loss, lowest, epoch)
        if self._reported or not cause:
            return ""
        self._reported = True
        return f'{count} of {len(captions)} validation images have the caption "{caption}". Likely cause: {cause}'

    def _cause(self, loss: float, lowest: float, epoch: int) -> str:
        """Return the likely cause and what to do; empty while it is normal."""
        if self._spread is not None and self._spread < MIN_SPREAD:
            return (
                "preprocessing: the inputs of the model are nearly equal for all images; check the image files, and "
                "the mean, std and size of the preprocessing"
            )
        rose, high = loss > lowest, self._rate > _USUAL_RATES[self._kind]
        if rose or high:
            usual = f"usual rates are at most {_USUAL_RATES[self._kind]:g}"
            why = f"the validation loss rose from {lowest:.3f} to {loss:.3f}" if rose else usual
            return (
                f"the learning rate, {self._rate:g}, is too high ({why}); start again with --learning-rate "
                f"{self._rate / 10:g} --overwrite"
            )
        if epoch == 0:  # most models begin with the most frequent words
            return ""
        return "too little training: the validation loss still falls; train longer or raise training.learning_rate"
