"""`FinetuningModule`: the training and validation steps of a pretrained model."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seesay.captioners.caption import CaptionSettings
from seesay.captioners.pretrained.captioner import PretrainedCaptioner
from seesay.captioners.pretrained.targets import IGNORED
from seesay.config import Config, DecodingOptions
from seesay.errors import ImageError
from seesay.training.base import TrainingModule
from seesay.training.finetuning.batches import FinetuningBatch, FinetuningBatches


class FinetuningModule(TrainingModule):
    """A pretrained captioner in training; see `TrainingModule`.

    Checkpoints have the trained weights only: the others are those of the pretrained model.

    Args:
        captioner: the model with its processor.
        config: the configuration of the run.
        batches: the training batches.
        references: reference captions of the validation images, by id.
        max_length: maximum number of tokens of a generated caption.
    """

    def __init__(
        self,
        captioner: PretrainedCaptioner,
        config: Config,
        batches: FinetuningBatches,
        references: Mapping[str, Sequence[str]],
        max_length: int,
    ) -> None:
        super().__init__(captioner.model, config, batches, references)
        self.captioner = captioner
        self.settings = CaptionSettings(DecodingOptions(max_length=config.decoding.max_length or max_length))
        self.strict_loading = False  # frozen weights are not in checkpoints
        self._encoders = tuple(f"{name}." for name in captioner.family.image_encoders())
        accepted = inspect.signature(type(captioner.model).forward).parameters
        self._keeps_logits = "logits_to_keep" in accepted
        self._extra = {"use_cache": False} if "use_cache" in accepted else {}

    @property
    def has_rewards(self) -> bool:
        """Whether there is an SCST loss."""
        return False

    def is_encoder(self, name: str) -> bool:
        """Return whether a parameter of the model, given by its name, belongs to the image encoder."""
        return name.startswith(self._encoders)

    def optimizer_zero_grad(self, *_: Any) -> None:
        """Do nothing: `training_step` does, before its first backward pass."""

    def training_step(self, batch: FinetuningBatch, batch_idx: int) -> Tensor:
        """Return the loss of the last pass of a batch, after the backward passes of the others.

        The gradients of the passes add up to that of the loss per token of the global batch, whatever their number.
        """
        for optimizer in self.trainer.optimizers:
            optimizer.zero_grad(set_to_none=True)
        scale = 0.0 if batch.idle else self.batches.ranks / batch.totals.tokens
        smoothing = self.config.training.label_smoothing
        counted = torch.zeros((), device=self.device)
        for place, inputs in enumerate(batch.passes):
            total = self.summed_loss(inputs, smoothing)
            counted += total.detach()
            if place + 1 < len(batch.passes):
                (total * scale).backward()  # type: ignore[no-untyped-call]
        tokens = batch.tokens
        self.count_loss(counted / max(1, tokens), tokens)
        return total * scale

    def summed_loss(self, inputs: Mapping[str, Any], label_smoothing: float = 0.0) -> Tensor:
        """Return the negative log-likelihood of the labels, summed, in nats.

        Args:
            inputs: arguments of the model with `labels` (R, T).
            label_smoothing: probability spread uniformly over the vocabulary.
        """
        labels: Tensor = inputs["labels"]
        logits = self.logits({name: value for name, value in inputs.items() if name != "labels"}, labels.shape[1])
        return F.cross_entropy(
            logits.flatten(0, 1).float(),
            labels.flatten(),
            ignore_index=IGNORED,
            label_smoothing=label_smoothing,
            reduction="sum",
        )

    def logits(self, inputs: Mapping[str, Any], count: int) -> Tensor:
        """Return the logits (R, count, V) of the last positions."""
        kept = {"logits_to_keep": count} if self._keeps_logits else {}
        logits: Tensor = self.model(**inputs, **self._extra, **kept, return_dict=True).logits
        return logits[:, -count:]

    def validation_step(self, batch: FinetuningBatch, batch_idx: int) -> None:
        """Add a batch to the validation loss (nats per token, without label smoothing) and generate its captions."""
        if batch.idle:
            return
        assert batch.encoded is not None
        pixels = batch.passes[0].get("pixel_values")
        if isinstance(pixels, Tensor) and len(pixels) == len(batch.passes[0]["labels"]):
            self.sameness.watch(pixels)
        loss = sum(float(self.summed_loss(inputs)) for inputs in batch.passes)
        found = self.captioner.generate(batch.encoded, batch.ids, self.settings)
        captions = ["" if isinstance(each, ImageError) else each.text for each in found]
        self.count_validation(loss / batch.tokens, batch.tokens, captions, batch.ids)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state of `TrainingModule`; remove frozen weights."""
        super().on_save_checkpoint(checkpoint)
        for name, weight in self.named_parameters(remove_duplicate=False):
            if not weight.requires_grad:
                checkpoint["state_dict"].pop(name, None)
