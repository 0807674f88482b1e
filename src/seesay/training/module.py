"""One training step and one validation, as Lightning calls them."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from seesay.config import Config, DecodingOptions
from seesay.data.batches import Batch, CaptionBatches
from seesay.decoding import decode
from seesay.metrics import CaptionMetrics
from seesay.models.captioning import CaptionModel
from seesay.tokenizer import Tokenizer
from seesay.training.objectives import cross_entropy

_SEED_STRIDE = 1_000_003
_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    # AdamW without decay is Adam. The smoothing constants are Keras', which the tutorials' results rest on.
    "adam": partial(torch.optim.AdamW, eps=1e-7),
    "rmsprop": partial(torch.optim.RMSprop, alpha=0.9, eps=1e-7),
}


class CaptioningModule(pl.LightningModule):
    """A captioner under training.

    The randomness of a step (dropout) depends on the seed and the step's number only, so a run that is
    killed and resumed goes exactly the way of an unbroken one.

    Args:
        model: the captioner.
        config: the run's configuration.
        tokenizer: turns decoded ids into words for validation.
        batches: the training batches; their place is saved with the run's state.
        references: the human captions of validation pictures, by id.
        max_length: words a decoded caption may have.
    """

    def __init__(
        self,
        model: CaptionModel,
        config: Config,
        tokenizer: Tokenizer,
        batches: CaptionBatches,
        references: Mapping[str, Sequence[str]],
        max_length: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.tokenizer = tokenizer
        self.batches = batches
        self.references = references
        self.max_length = max_length
        self.metrics = CaptionMetrics(metrics=("CIDEr",))
        self._validation_loss = torch.zeros(2)
        self.last_loss = torch.zeros(())
        self.epoch_loss = torch.zeros(2)
        self.seconds = 0.0
        self._clock = 0.0

    def configure_optimizers(self) -> Any:
        """Returns the optimizer and its epoch-wise schedule."""
        training = self.config.training
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = _OPTIMIZERS[training.optimizer](
            parameters, lr=training.learning_rate, weight_decay=training.weight_decay
        )
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(training.lr_drop_epochs), training.lr_drop)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}

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

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Ties the step's randomness to its number."""
        torch.manual_seed(self.config.training.seed * _SEED_STRIDE + self.global_step)
        if batch_idx == 0:
            self.restart_clock()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of a batch: nats a real token."""
        logits = self.model(self._features(batch), batch.memory_mask, batch.captions)
        loss = cross_entropy(logits, batch.captions.targets, self.config.training.label_smoothing)
        self.last_loss = loss.detach()
        tokens = len(batch.captions.targets)
        # Kept on the device: reading it each step would make a GPU wait for Python.
        self.epoch_loss[0] += self.last_loss * tokens
        self.epoch_loss[1] += tokens
        return loss

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
        features = self._features(batch)
        logits = self.model(features, batch.memory_mask, batch.captions)
        tokens = len(batch.captions.targets)
        loss = float(cross_entropy(logits, batch.captions.targets))
        self._validation_loss += torch.tensor([loss * tokens, tokens])
        found = decode(
            self.model.search,
            self.model.remember(features),
            batch.memory_mask,
            validation_options(self.config, self.max_length),
            keys=batch.ids,
        )
        captions = [self.tokenizer.decode(hypotheses[0].tokens) for hypotheses in found]
        self.metrics.update(captions, [self.references[image_id] for image_id in batch.ids], batch.ids)

    def on_validation_epoch_end(self) -> None:
        """Logs val_loss and val_cider."""
        scores = self.metrics.compute()
        total, tokens = self._validation_loss.tolist()
        self.log("val_loss", total / tokens)
        self.log("val_cider", scores.corpus["CIDEr"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what an exact resume needs beyond Lightning's own state."""
        checkpoint["seesay"] = {"epoch_loss": self.epoch_loss.clone(), "seconds": self.seconds}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes it back."""
        self.epoch_loss = checkpoint["seesay"]["epoch_loss"].to(self.device)
        self.seconds = float(checkpoint["seesay"]["seconds"])

    def _features(self, batch: Batch) -> Tensor:
        if batch.features is not None:
            return batch.features
        assert batch.pixels is not None
        if self.config.encoder.encoder_training == "frozen":
            with torch.no_grad():
                return self.model.encode(batch.pixels)
        return self.model.encode(batch.pixels)


def validation_options(config: Config, max_length: int) -> DecodingOptions:
    """Returns how validation decodes: greedily, which is quick, and without the run's other wishes."""
    return DecodingOptions(max_length=config.decoding.max_length or max_length, allow_unk=config.decoding.allow_unk)
