"""Exponential moving average of the weights, used in validation and in the saved model."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from seesay.training.base import TrainingModule


class EmaWeights(Checkpoint):
    """Maintains the average of the weights: average += (1 - d) * (weight - average) per step.

    Validation, the best model and the best checkpoints use the average. Training continues with the weights; the
    resumable state contains both. Lightning's callback restores the weights before the best model is saved, and
    copies the data set with them.

    It is a `Checkpoint` only for its order among Lightning's callbacks: the callbacks that save the best weights
    must precede it, the one that saves the resumable state must follow it.

    Args:
        decay: d. It is at most (1 + n) / (10 + n) at step n, so that the average does not depend on the initial
            weights.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._average: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the current weights, or resume with the saved average."""
        for name, weight in _trainable(pl_module):
            self._average[name] = self._average.get(name, weight).detach().to(weight.device, copy=True)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average."""
        steps = trainer.global_step
        decay = min(self.decay, (1 + steps) / (10 + steps))
        for name, weight in _trainable(pl_module):
            self._average[name].lerp_(weight, 1 - decay)

    @torch.no_grad()
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the weights by the average."""
        for name, weight in _trainable(pl_module):
            self._weights[name] = weight.detach().clone()
            weight.copy_(self._average[name])

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the weights after validation and its checkpoints."""
        for name, weight in _trainable(pl_module):
            if name in self._weights:
                weight.copy_(self._weights.pop(name))

    def state_dict(self) -> dict[str, Any]:
        """Return the state needed to resume."""
        return {"average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        self._average = dict(state["average"])


def _trainable(module: pl.LightningModule) -> list[tuple[str, torch.nn.Parameter]]:
    assert isinstance(module, TrainingModule)
    return [(name, weight) for name, weight in module.model.named_parameters() if weight.requires_grad]
