"""`CaptioningModule`: the training and validation steps for Lightning."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from seesay.config import Config, DecodingOptions
from seesay.data.batches import Batch, CaptionBatches
from seesay.decoding import GenerationRequest, generate, init_state
from seesay.metrics import CaptionMetrics
from seesay.models.captioning import CaptionModel
from seesay.models.packing import PackedCaptions
from seesay.tokenizer import Tokenizer
from seesay.training.cuda_graphs import GraphedTrainStep
from seesay.training.distributed import gather_captions, sum_over_ranks
from seesay.training.losses import cross_entropy
from seesay.training.schedule import build_optimizer, rate_factor
from seesay.training.scheduled_sampling import mix_in_samples, sampling_probability
from seesay.training.scst import SelfCritic

SAMPLES = 3
"""Validation images whose captions are logged after each epoch."""

_SEED_STRIDE, _RANK_STRIDE = 1_000_003, 0x9E3779B1


class CaptioningModule(pl.LightningModule):
    """A captioner in training.

    The random numbers of a step (dropout) depend only on the seed and the step number, so that a resumed run equals an
    uninterrupted one.

    Args:
        model: the model.
        config: the configuration of the run.
        tokenizer: decodes the captions of validation.
        batches: the training batches; their position is saved with the run's state.
        references: reference captions of the validation images, by id.
        max_length: maximum number of words of a decoded caption.
        critic: the SCST loss; None for cross-entropy only.
        steps: the cross-entropy step as CUDA graphs; None: without graphs.

    Attributes:
        learning_rate: learning rate of the last step (the decoder's).
        last_loss: summed loss of the last step, in nats, and its number of tokens, (2,); of this process.
        epoch_loss: the same of the epoch so far.
        last_rewards: summed rewards of the last step's images, of their baselines, and the number of images, (3,).
        seconds: time spent in training steps.
        samples: (id, caption, reference) of a few validation images, the same in each epoch.
    """

    def __init__(
        self,
        model: CaptionModel,
        config: Config,
        tokenizer: Tokenizer,
        batches: CaptionBatches,
        references: Mapping[str, Sequence[str]],
        max_length: int,
        critic: SelfCritic | None = None,
        steps: GraphedTrainStep | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.tokenizer = tokenizer
        self.batches = batches
        self.references = references
        self.max_length = max_length
        self.critic = critic
        self.steps = steps
        self.metrics = CaptionMetrics(config.text.tokenization, ("CIDEr",))
        self._validation_loss = torch.zeros(2)
        self.samples: list[tuple[str, str, str]] = []
        self.last_loss = torch.zeros(2)
        self.epoch_loss = torch.zeros(2)
        self.last_rewards = torch.zeros(3, dtype=torch.float64)
        self._epoch_rewards = torch.zeros(3, dtype=torch.float64)
        self.learning_rate = 0.0
        self.seconds = 0.0
        self._clock = 0.0

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its step-wise schedule."""
        training = self.config.training
        optimizer = build_optimizer(training, self.model)
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

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch: nats per token plus the decoder's penalty, which is not logged.

        With several processes the losses are weighted so that the mean over ranks, and thus of the averaged gradients,
        is the loss per token of the global batch.
        """
        features = self._features(batch)
        captions = batch.captions
        probability = sampling_probability(self.config.training, self.current_epoch)
        if probability:
            captions = mix_in_samples(self.model, features, batch.memory_mask, captions, probability)
        loss, penalty = self._cross_entropy(features, batch, captions)
        if self.critic is not None:
            share = self.config.training.scst_weight
            loss = (1 - share) * loss + share * self._scst_loss(self.critic, features, batch)
            penalty = (1 - share) * penalty
        self.last_loss = torch.stack([loss.detach() * batch.tokens, loss.new_full((), batch.tokens)])
        # Kept on the device: reading it each step would make a GPU wait for Python.
        self.epoch_loss += self.last_loss
        return (loss + penalty) * (batch.tokens * self.batches.ranks / batch.totals.tokens)

    def _cross_entropy(self, features: Tensor, batch: Batch, captions: PackedCaptions) -> tuple[Tensor, Tensor | float]:
        """Return the cross-entropy and the decoder's penalty."""
        changed = captions is not batch.captions or features.requires_grad or batch.memory_mask is not None
        if self.steps is not None and batch.padded is not None and not changed:
            return self.steps(features, batch.padded)
        logits, penalty = self.model.forward_with_penalty(features, batch.memory_mask, captions)
        return cross_entropy(logits, captions.targets, self.config.training.label_smoothing), penalty()

    def _scst_loss(self, critic: SelfCritic, features: Tensor, batch: Batch) -> Tensor:
        found = critic(self.model, features, batch)
        images = 0 if batch.idle else len(batch.ids)
        counted = torch.tensor([found.reward * images, found.baseline * images, images], dtype=torch.float64)
        self.last_rewards = counted
        self._epoch_rewards += counted
        # A mean over images, not tokens: cancels the weight by tokens that `training_step` applies.
        totals, captions = batch.totals, batch.captions
        by_caption = (totals.captions / totals.images) / (captions.rows / len(batch.ids))
        return found.loss * by_caption

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

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the validation loss (nats per token, without label smoothing) and decode its captions."""
        if batch.idle:
            return
        features = self._features(batch)
        logits = self.model(features, batch.memory_mask, batch.captions)
        tokens = len(batch.captions.targets)
        loss = float(cross_entropy(logits, batch.captions.targets))
        self._validation_loss += torch.tensor([loss * tokens, tokens])
        decoder, options = self.model.step_decoder, validation_options(self.config, self.max_length)
        state = init_state(decoder, self.model.project(features), batch.memory_mask, batch.ids)
        found = generate(decoder, state, GenerationRequest(options, keys=batch.ids))
        captions = [self.tokenizer.decode(hypotheses[0].tokens) for hypotheses in found]
        self.metrics.update(captions, [self.references[image_id] for image_id in batch.ids], batch.ids)

    def on_validation_epoch_end(self) -> None:
        """Log val_loss and val_cider, the latter times 100 as papers print it."""
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

    def _features(self, batch: Batch) -> Tensor:
        if batch.features is not None:
            return batch.features
        assert batch.pixels is not None
        if self.config.encoder.encoder_training == "frozen":
            with torch.no_grad():
                return self.model.encode(batch.pixels)
        return self.model.encode(batch.pixels)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of the random numbers of a step.

    Seeds differ between ranks and steps in their low 32 bits too, the only ones that torch's CPU generator uses.
    """
    return seed * _SEED_STRIDE + step + _RANK_STRIDE * rank


def validation_options(config: Config, max_length: int) -> DecodingOptions:
    """Return the decoding options of validation: greedy, for speed, without the run's other options."""
    return DecodingOptions(max_length=config.decoding.max_length or max_length, allow_unk=config.decoding.allow_unk)
