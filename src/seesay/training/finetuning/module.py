"""`FinetuningModule`: the training and validation steps of a pretrained model."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from seesay.training.finetuning.critic import FinetuningCritic, SampledPass
from seesay.training.finetuning.encode_once import IMAGE_OF_ROW, encode_once


class FinetuningModule(TrainingModule):
    """A pretrained captioner in training; see `TrainingModule`.

    Checkpoints have the trained weights only: the others are those of the pretrained model.

    Args:
        captioner: the model with its processor.
        config: the configuration of the run.
        batches: the training batches.
        references: reference captions of the validation images, by id.
        options: decoding options of validation.
        critic: the SCST loss; None for cross-entropy only.
    """

    def __init__(
        self,
        captioner: PretrainedCaptioner,
        config: Config,
        batches: FinetuningBatches,
        references: Mapping[str, Sequence[str]],
        options: DecodingOptions,
        critic: FinetuningCritic | None = None,
    ) -> None:
        super().__init__(captioner.model, config, batches, references)
        self.captioner = captioner
        self.critic = critic
        self.settings = CaptionSettings(options)
        self.strict_loading = False  # frozen weights are not in checkpoints
        self._encoders = tuple(f"{name}." for name in captioner.family.image_encoders())
        accepted = inspect.signature(type(captioner.model).forward).parameters
        self._keeps_logits = "logits_to_keep" in accepted
        self._extra = {"use_cache": False} if "use_cache" in accepted else {}

    @property
    def has_rewards(self) -> bool:
        """Whether there is an SCST loss."""
        return self.critic is not None

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
        share = self.config.training.scst_weight
        *earlier, last = self._losses(batch, share)
        for loss in earlier:
            loss().backward()  # type: ignore[no-untyped-call]
        found = last()
        tokens = batch.tokens
        self.count_loss(self._counted / max(1, tokens), tokens)
        return found

    def _losses(self, batch: FinetuningBatch, share: float) -> Iterator[Callable[[], Tensor]]:
        """Yield functions that return the weighted loss of a pass; all passes add up to the loss of the batch.

        Args:
            batch: the batch.
            share: weight of the reward.
        """
        self._counted = torch.zeros((), device=self.device)
        weight = 0.0 if batch.idle else float(self.batches.ranks)
        smoothing = self.config.training.label_smoothing

        def likelihood(inputs: Mapping[str, Any]) -> Tensor:
            total = self.summed_loss(inputs, smoothing)
            self._counted += total.detach()
            return total * (weight * (1 - share) / batch.totals.tokens)

        for inputs in batch.passes:
            yield functools.partial(likelihood, inputs)
        if self.critic is None:
            return
        assert batch.encoded is not None
        found = self.critic.sample(batch.ids, batch.encoded)
        self.count_rewards(found.rated.reward, found.rated.baseline, 0 if batch.idle else len(batch.ids))
        samples = batch.totals.images * self.config.training.scst_samples
        mean_length = batch.totals.tokens / batch.totals.captions  # only scales the loss, as in `SelfCritic`
        scale = weight * share / (samples * mean_length)
        for sampled in self.critic.passes(batch.encoded, found, self.config.finetuning.captions_per_pass):
            yield functools.partial(self._reward_loss, self.critic, sampled, scale)

    def _reward_loss(self, critic: FinetuningCritic, sampled: SampledPass, scale: float) -> Tensor:
        inputs = {name: self.captioner.on_device(value) for name, value in sampled.inputs.items()}
        with critic.scst.policy_dropout(self.model):
            return critic.loss(self.logits(inputs, sampled.targets.shape[1]), sampled) * scale

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
        """Return the logits (R, count, V) of the last positions; an image with several rows is encoded once."""
        kept = {"logits_to_keep": count} if self._keeps_logits else {}
        arguments = {name: value for name, value in inputs.items() if name != IMAGE_OF_ROW}
        encoders = [self.model.get_submodule(name.rstrip(".")) for name in self._encoders]
        with encode_once(encoders, inputs.get(IMAGE_OF_ROW, ())):
            logits: Tensor = self.model(**arguments, **self._extra, **kept, return_dict=True).logits
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
