"""`CaptioningModule`: the training and validation steps of a network of seesay's own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from seesay.config import Config, DecodingOptions
from seesay.data.batches import Batch, CaptionBatches
from seesay.decoding import GenerationRequest, generate, init_state
from seesay.models.captioning import CaptionModel
from seesay.models.packing import PackedCaptions
from seesay.tokenizer import Tokenizer
from seesay.training.base import TrainingModule
from seesay.training.cuda_graphs import GraphedTrainStep
from seesay.training.losses import cross_entropy
from seesay.training.scheduled_sampling import mix_in_samples, sampling_probability
from seesay.training.scst import SelfCritic


class CaptioningModule(TrainingModule):
    """A network of seesay's own in training; see `TrainingModule`.

    Args:
        model: the model.
        config: the configuration of the run.
        tokenizer: decodes the captions of validation.
        batches: the training batches; their position is saved with the run's state.
        references: reference captions of the validation images, by id.
        max_length: maximum number of words of a decoded caption.
        critic: the SCST loss; None for cross-entropy only.
        steps: the cross-entropy step as CUDA graphs; None: without graphs.
    """

    model: CaptionModel
    batches: CaptionBatches

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
        super().__init__(model, config, batches, references)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.critic = critic
        self.steps = steps

    @property
    def has_rewards(self) -> bool:
        """Whether there is an SCST loss."""
        return self.critic is not None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch: nats per token plus the decoder's penalty, which is not logged.

        With several processes the losses are weighted so that the mean over ranks, and thus of the averaged gradients,
        is the loss per token of the global batch.
        """
        features, batch = self._features(batch)
        captions = batch.captions
        probability = sampling_probability(self.config.training, self.current_epoch)
        if probability:
            captions = mix_in_samples(self.model, features, batch.memory_mask, captions, probability)
        loss, penalty = self._cross_entropy(features, batch, captions)
        if self.critic is not None:
            share = self.config.training.scst_weight
            loss = (1 - share) * loss + share * self._scst_loss(self.critic, features, batch)
            penalty = (1 - share) * penalty
        self.count_loss(loss, batch.tokens)
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
        self.count_rewards(found.reward, found.baseline, 0 if batch.idle else len(batch.ids))
        # A mean over images, not tokens: cancels the weight by tokens that `training_step` applies.
        totals, captions = batch.totals, batch.captions
        by_caption = (totals.captions / totals.images) / (captions.rows / len(batch.ids))
        return found.loss * by_caption

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the validation loss (nats per token, without label smoothing) and decode its captions."""
        if batch.idle:
            return
        features, batch = self._features(batch)
        logits = self.model(features, batch.memory_mask, batch.captions)
        tokens = len(batch.captions.targets)
        loss = float(cross_entropy(logits, batch.captions.targets))
        decoder, options = self.model.step_decoder, validation_options(self.config, self.max_length)
        state = init_state(decoder, self.model.project(features), batch.memory_mask, batch.ids)
        found = generate(decoder, state, GenerationRequest(options, keys=batch.ids))
        captions = [self.tokenizer.decode(hypotheses[0].tokens) for hypotheses in found]
        self.count_validation(loss, tokens, captions, batch.ids)

    def _features(self, batch: Batch) -> tuple[Tensor, Batch]:
        """Return the features of a batch with the retrieved captions, and the batch with their mask."""
        features, mask = self.model.add_captions(self._encode(batch), batch.memory_mask, batch.retrieved)
        return features, replace(batch, memory_mask=mask)

    def _encode(self, batch: Batch) -> Tensor:
        if batch.features is not None:
            return batch.features
        assert batch.pixels is not None
        if self.config.encoder.encoder_training == "frozen":
            with torch.no_grad():
                return self.model.encode(batch.pixels)
        return self.model.encode(batch.pixels)


def validation_options(config: Config, max_length: int) -> DecodingOptions:
    """Return the decoding options of validation: greedy, for speed, without the run's other options."""
    return DecodingOptions(max_length=config.decoding.max_length or max_length, allow_unk=config.decoding.allow_unk)
