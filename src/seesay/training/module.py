"""One training step and one validation, as Lightning calls them."""

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
from seesay.training.distributed import gather_captions, sum_over_ranks
from seesay.training.graphs import GraphedTrainStep
from seesay.training.losses import cross_entropy
from seesay.training.schedule import build_optimizer, rate_factor
from seesay.training.scheduled_sampling import guess_probability, mix_in_guesses
from seesay.training.self_critical import SelfCritic

SAMPLES = 3
"""Validation images whose captions are logged after each epoch."""

_SEED_STRIDE, _RANK_STRIDE = 1_000_003, 0x9E3779B1


class CaptioningModule(pl.LightningModule):
    """A captioner under training.

    The randomness of a step (dropout) depends on the seed and the step's number only, so a run that is
    killed and resumed goes exactly the way of an unbroken one.

    Args:
        model: the captioner.
        config: the run's configuration.
        tokenizer: turns decoded ids into words for validation.
        batches: the training batches; their place is saved with the run's state.
        references: the human captions of validation images, by id.
        max_length: words a decoded caption may have.
        critic: the second stage's loss; None in the first stage.
        steps: the first stage's in CUDA graphs; None = not in graphs.

    Attributes:
        learning_rate: the last step's, of the captioner.
        last_loss: what the last step minimised, in nats, and over how many words, (2,); of this process.
        epoch_loss: the same of the epoch so far.
        last_rewards: reward of the last step's images, that of their baseline, and how many images, (3,).
        seconds: time spent in training steps.
        samples: (id, caption, reference) of a few images of the last validation, the same ones each time.
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
        """Returns the optimizer and its step-wise schedule."""
        training = self.config.training
        optimizer = build_optimizer(training, self.model)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor(training, len(self.batches)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves a batch to the device."""
        return batch.to(device, non_blocking=True)

    def on_train_start(self) -> None:
        """Starts the clock."""
        self.restart_clock()

    def on_train_epoch_start(self) -> None:
        """Starts the epoch's order of batches."""
        self.batches.set_epoch(self.current_epoch)
        self.epoch_loss = torch.zeros(2, device=self.device)
        self._epoch_rewards = torch.zeros(3, dtype=torch.float64)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Ties the step's randomness to its number, and to the process where there are several."""
        torch.manual_seed(step_seed(self.config.training.seed, self.global_step, self.global_rank))
        self.learning_rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        if batch_idx == 0:
            self.restart_clock()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of a batch: nats a real token, and the decoder's penalty, which the log leaves out.

        Of several processes, each one's share of it: their mean, which is what their gradients are averaged to, is
        the loss of the whole batch over its tokens, wherever these are.
        """
        features = self._features(batch)
        captions = batch.captions
        guesses = guess_probability(self.config.training, self.current_epoch)
        if guesses:
            captions = mix_in_guesses(self.model, features, batch.memory_mask, captions, guesses)
        loss, penalty = self._teach(features, batch, captions)
        if self.critic is not None:
            share = self.config.training.scst_weight
            loss = (1 - share) * loss + share * self._scst_loss(self.critic, features, batch)
            penalty = (1 - share) * penalty
        self.last_loss = torch.stack([loss.detach() * batch.tokens, loss.new_full((), batch.tokens)])
        # Kept on the device: reading it each step would make a GPU wait for Python.
        self.epoch_loss += self.last_loss
        return (loss + penalty) * (batch.tokens * self.batches.ranks / batch.totals.tokens)

    def _teach(self, features: Tensor, batch: Batch, captions: PackedCaptions) -> tuple[Tensor, Tensor | float]:
        """Returns the cross-entropy and the decoder's penalty."""
        changed = captions is not batch.captions or features.requires_grad or batch.memory_mask is not None
        if self.steps is not None and batch.padded is not None and not changed:
            return self.steps(features, batch.padded)
        logits, penalty = self.model.teach(features, batch.memory_mask, captions)
        return cross_entropy(logits, captions.targets, self.config.training.label_smoothing), penalty()

    def _scst_loss(self, critic: SelfCritic, features: Tensor, batch: Batch) -> Tensor:
        found = critic(self.model, features, batch)
        images = 0 if batch.idle else len(batch.ids)
        counted = torch.tensor([found.reward * images, found.baseline * images, images], dtype=torch.float64)
        self.last_rewards = counted
        self._epoch_rewards += counted
        # It is a mean over images, not tokens: undo what the share of the batch's tokens will make of it.
        whole, captions = batch.totals, batch.captions
        by_caption = (whole.captions / whole.images) / (captions.rows / len(batch.ids))
        return found.loss * by_caption

    def rewards(self, epoch: bool) -> tuple[float, float]:
        """Returns the mean reward per sample of all processes and that of its baseline; all of them must ask.

        Args:
            epoch: of the whole epoch so far, else of the last step.
        """
        counted = self._epoch_rewards if epoch else self.last_rewards
        reward, baseline, images = sum_over_ranks(counted).tolist()
        return reward / max(1.0, images), baseline / max(1.0, images)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Counts the time of the step."""
        self.count_time()

    def count_time(self) -> None:
        """Adds the time since the clock was read or restarted to `seconds`: training, all else aside."""
        now = time.perf_counter()
        self.seconds += now - self._clock
        self._clock = now

    def restart_clock(self) -> None:
        """Leaves the time since the clock was read out of the count."""
        self._clock = time.perf_counter()

    def on_validation_epoch_start(self) -> None:
        """Forgets the last validation."""
        self.metrics.reset()
        self._validation_loss = torch.zeros(2)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the loss (nats a token, unsmoothed) and decodes its captions."""
        if batch.idle:
            return
        features = self._features(batch)
        logits = self.model(features, batch.memory_mask, batch.captions)
        tokens = len(batch.captions.targets)
        loss = float(cross_entropy(logits, batch.captions.targets))
        self._validation_loss += torch.tensor([loss * tokens, tokens])
        decoder, options = self.model.search, validation_options(self.config, self.max_length)
        state = init_state(decoder, self.model.project(features), batch.memory_mask, batch.ids)
        found = generate(decoder, state, GenerationRequest(options, keys=batch.ids))
        captions = [self.tokenizer.decode(hypotheses[0].tokens) for hypotheses in found]
        self.metrics.update(captions, [self.references[image_id] for image_id in batch.ids], batch.ids)

    def on_validation_epoch_end(self) -> None:
        """Logs val_loss and val_cider, the latter times 100 as papers print it."""
        whole = gather_captions(self.metrics)
        scores = whole.compute()
        shown = {name: self.references[name][0] for name in sorted(whole.ids)[:: max(1, len(whole.ids) // SAMPLES)]}
        texts = dict(zip(whole.ids, whole.hypotheses, strict=True))
        self.samples = [(name, texts[name], reference) for name, reference in list(shown.items())[:SAMPLES]]
        total, tokens = sum_over_ranks(self._validation_loss).tolist()
        # Not to the loggers, to which `MetricsLog` gives them.
        self.log("val_loss", total / tokens, logger=False)
        self.log("val_cider", 100 * scores.corpus["CIDEr"], logger=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what an exact resume needs beyond Lightning's own state; of several processes, the sums of all."""
        checkpoint["seesay"] = {
            "epoch_loss": sum_over_ranks(self.epoch_loss).clone(),
            "epoch_rewards": sum_over_ranks(self._epoch_rewards).clone(),
            "seconds": self.seconds,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes it back; the sums go to the first process."""
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
    """Returns the seed of what is drawn in a step.

    Another one for each of many processes and steps in its last 32 bits, too, which are all of it that torch's
    generator on a processor reads.
    """
    return seed * _SEED_STRIDE + step + _RANK_STRIDE * rank


def validation_options(config: Config, max_length: int) -> DecodingOptions:
    """Returns how validation decodes: greedily, which is quick, and without the run's other wishes."""
    return DecodingOptions(max_length=config.decoding.max_length or max_length, allow_unk=config.decoding.allow_unk)
