"""`TrainingModule`: what the modules of Lightning share, whatever network they train."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from seesay.config import Config
from seesay.data.batches import ImageBatches
from seesay.metrics import CaptionMetrics
from seesay.training.distributed import gather_captions, sum_over_ranks
from seesay.training.sameness import SamenessCheck
from seesay.training.schedule import build_optimizer, in_encoder, rate_factor

log = logging.getLogger("seesay")

SAMPLES = 3
"""Validation images whose captions are logged after each epoch."""

_SEED_STRIDE, _RANK_STRIDE = 1_000_003, 0x9E3779B1


class TrainingModule(pl.LightningModule, ABC):
    """A captioner in training: optimizer, losses, rewards, time, and the scores of validation.

    The random numbers of a step (dropout) depend only on the seed and the step number, so that a resumed run equals an
    uninterrupted one. A subclass provides `training_step`, which calls `count_loss`, and `validation_step`, which calls
    `count_validation`.

    Args:
        model: the network that is trained.
        config: the configuration of the run.
        batches: the training batches; their position is saved with the run's state.
        references: reference captions of the validation images, by id.

    Attributes:
        learning_rate: learning rate of the last step (the decoder's).
        last_loss: summed loss of the last step, in nats, and its number of tokens, (2,); of this process.
        epoch_loss: the same of the epoch so far.
        last_rewards: summed rewards of the last step's images, of their baselines, and the number of images, (3,).
        seconds: time spent in training steps.
        samples: (id, caption, reference) of a few validation images, the same in each epoch.
    """

    def __init__(
        self, model: nn.Module, config: Config, batches: ImageBatches[Any], references: Mapping[str, Sequence[str]]
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.config = config
        self.batches = batches
        self.references = references
        self.metrics = CaptionMetrics(config.text.tokenization, ("CIDEr",))
        self.sameness = SamenessCheck(config)
        self._validation_loss = torch.zeros(2)
        self.samples: list[tuple[str, str, str]] = []
        self.last_loss = torch.zeros(2)
        self.epoch_loss = torch.zeros(2)
        self.last_rewards = torch.zeros(3, dtype=torch.float64)
        self._epoch_rewards = torch.zeros(3, dtype=torch.float64)
        self.learning_rate = 0.0
        self.seconds = 0.0
        self._clock = 0.0

    @property
    @abstractmethod
    def has_rewards(self) -> bool:
        """Whether training optimises the reward of sampled captions too."""

    def is_encoder(self, name: str) -> bool:
        """Return whether a parameter of the model, given by its name, belongs to the image encoder."""
        return in_encoder(name)

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its step-wise schedule."""
        training = self.config.training
        optimizer = build_optimizer(training, self.model, self.is_encoder)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor(training, len(self.batches)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch to the device."""
        return batch.to(device, non_blocking=True)

    def on_train_start(self) -> None:
        """Start the clock."""
        self.restart_clock()

    def on_train_epoch_start(self) -> None:
        """Start the epoch's order of batches."""
        self.batches.set_epoch(self.current_epoch)
        self.epoch_loss = torch.zeros(2, device=self.device)
        self._epoch_rewards = torch.zeros(3, dtype=torch.float64)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the random numbers of the step from its number and the rank."""
        torch.manual_seed(step_seed(self.config.training.seed, self.global_step, self.global_rank))
        self.learning_rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        if batch_idx == 0:
            self.restart_clock()

    def count_loss(self, loss: Tensor, tokens: int) -> None:
        """Count the loss of a step, in nats per token; kept on the device, as reading it would make a GPU wait."""
        self.last_loss = torch.stack([loss.detach() * tokens, loss.new_full((), tokens)])
        self.epoch_loss += self.last_loss

    def count_rewards(self, reward: float, baseline: float, images: int) -> None:
        """Count the mean reward of a step's images and that of their baselines."""
        self.last_rewards = torch.tensor([reward * images, baseline * images, images], dtype=torch.float64)
        self._epoch_rewards += self.last_rewards

    def rewards(self, epoch: bool) -> tuple[float, float]:
        """Return the mean reward per sample over all processes and that of its baseline; every process must call it.

        Args:
            epoch: of the epoch so far instead of the last step.
        """
        counted = self._epoch_rewards if epoch else self.last_rewards
        reward, baseline, images = sum_over_ranks(counted).tolist()
        return reward / max(1.0, images), baseline / max(1.0, images)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the time of the step."""
        self.count_time()

    def count_time(self) -> None:
        """Add the time since the last call or `restart_clock` to `seconds`."""
        now = time.perf_counter()
        self.seconds += now - self._clock
        self._clock = now

    def restart_clock(self) -> None:
        """Exclude the time since the last `count_time` from `seconds`."""
        self._clock = time.perf_counter()

    def on_validation_epoch_start(self) -> None:
        """Reset the validation metrics."""
        self.metrics.reset()
        self._validation_loss = torch.zeros(2)

    def count_validation(self, loss: float, tokens: int, captions: Sequence[str], ids: Sequence[str]) -> None:
        """Count the loss (nats per token) and the captions of a batch of validation images."""
        self._validation_loss += torch.tensor([loss * tokens, tokens])
        self.metrics.update(captions, [self.references[image_id] for image_id in ids], ids)

    def on_validation_epoch_end(self) -> None:
        """Log val_loss and val_cider, the latter times 100 as papers print it, and captions that are all the same."""
        gathered = gather_captions(self.metrics)
        scores = gathered.compute()
        shown = {
            name: self.references[name][0] for name in sorted(gathered.ids)[:: max(1, len(gathered.ids) // SAMPLES)]
        }
        texts = dict(zip(gathered.ids, gathered.hypotheses, strict=True))
        self.samples = [(name, texts[name], reference) for name, reference in list(shown.items())[:SAMPLES]]
        total, tokens = sum_over_ranks(self._validation_loss).tolist()
        # `MetricsLog` passes them to the loggers.
        self.log("val_loss", total / tokens, logger=False)
        self.log("val_cider", 100 * scores.corpus["CIDEr"], logger=False)
        if line := self.sameness.find(gathered.hypotheses, total / tokens, self.current_epoch):
            log.warning("%s", line)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state that an exact resume needs beyond Lightning's: sums over all processes."""
        checkpoint["seesay"] = {
            "epoch_loss": sum_over_ranks(self.epoch_loss).clone(),
            "epoch_rewards": sum_over_ranks(self._epoch_rewards).clone(),
            "seconds": self.seconds,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state; rank 0 gets the sums."""
        saved = checkpoint["seesay"]
        own = float(self.global_rank == 0)
        self.epoch_loss = saved["epoch_loss"].to(self.device) * own
        self._epoch_rewards = saved["epoch_rewards"] * own
        self.seconds = float(saved["seconds"])


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of the random numbers of a step.

    Seeds differ between ranks and steps in their low 32 bits too, the only ones that torch's CPU generator uses.
    """
    return seed * _SEED_STRIDE + step + _RANK_STRIDE * rank
