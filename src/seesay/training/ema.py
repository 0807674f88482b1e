"""An exponential moving average of the weights, which takes their place wherever the model is judged or kept."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from seesay.training.module import CaptioningModule


class EmaWeights(Checkpoint):
    """Averages the weights over the steps: average += (1 - d) * (weight - average).

    Validation sees the average, and so do the best model and the checkpoints kept after it; training goes on
    with the weights themselves, which the resumable state holds together with the average. Lightning's own
    callback gives the weights back before the best model is kept, and copies the data set along with them.

    A `Checkpoint` only so that Lightning calls it after the checkpoints before it in the list: those that keep the
    best must come before it, the one that keeps the resumable state after it.

    Args:
        decay: d, the share of the average that a step leaves. In the first steps it is less, at most
            (1 + n) / (10 + n) at step n, so that the average does not hang on the first weights.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._average: dict[str, Tensor] = {}
        self._own: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins with the weights as they are, or goes on with the average that was saved."""
        for name, weight in _trained(pl_module):
            self._average[name] = self._average.get(name, weight).detach().to(weight.device, copy=True)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes the step's weights into the average."""
        steps = trainer.global_step
        decay = min(self.decay, (1 + steps) / (10 + steps))
        for name, weight in _trained(pl_module):
            self._average[name].lerp_(weight, 1 - decay)

    @torch.no_grad()
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Puts the average in the weights' place."""
        for name, weight in _trained(pl_module):
            self._own[name] = weight.detach().clone()
            weight.copy_(self._average[name])

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gives the weights back, when all that follows a validation has been done."""
        for name, weight in _trained(pl_module):
            if name in self._own:
                weight.copy_(self._own.pop(name))

    def state_dict(self) -> dict[str, Any]:
        """Returns what must survive a kill."""
        return {"average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes it back."""
        self._average = dict(state["average"])


def _trained(module: pl.LightningModule) -> list[tuple[str, torch.nn.Parameter]]:
    assert isinstance(module, CaptioningModule)
    return [(name, weight) for name, weight in module.model.named_parameters() if weight.requires_grad]
