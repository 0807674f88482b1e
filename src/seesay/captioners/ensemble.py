"""An ensemble of captioners that share a vocabulary."""

from collections.abc import Sequence
from pathlib import Path

import torch

from seesay.captioners.search import ModelInputs
from seesay.captioners.trained import TrainedCaptioner
from seesay.decoding import EnsembleDecoder, init_state
from seesay.decoding.ensemble import Mean, join_memories
from seesay.errors import ConfigError
from seesay.images.loading import ImageInput
from seesay.models.protocol import Decoder, DecoderState
from seesay.retrieval.index import RetrievalIndex
from seesay.retrieval.space import Floats


class EnsembleCaptioner(TrainedCaptioner):
    """Captioners whose distributions over the vocabulary are averaged at every step.

    Each member encodes the image with its own encoder. Decoding options, maximum length and grid are the first
    member's.

    Args:
        members: at least one captioner.
        mean: average the members' probabilities or their log-probabilities.

    Attributes:
        members: the captioners.

    Raises:
        ConfigError: the vocabularies differ; the message names both runs and the first different word.
    """

    def __init__(self, members: Sequence[TrainedCaptioner], mean: Mean = "probabilities") -> None:
        if not members:
            raise ConfigError("an ensemble needs at least one captioner")
        first = members[0]
        super().__init__(first.run, first.model, first.device)
        self.members = list(members)
        for other in members[1:]:
            _check_vocabulary(first, other)
        sizes = [member.run.config.model.projection_size for member in members]
        self._decoder = EnsembleDecoder([member.model.step_decoder for member in members], sizes, mean)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The members' run folders."""
        return tuple(member.run.folder for member in self.members)

    @property
    def decoder(self) -> Decoder:
        """The members' decoders as one."""
        return self._decoder

    def _project(
        self, features: torch.Tensor, mask: torch.Tensor | None = None, names: Sequence[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        first = self.members[0].run
        for other in (member.run for member in self.members[1:]):
            if other.info.features != first.info.features:
                raise ConfigError(
                    f"{first.folder} and {other.folder} were trained on features of different encoders; "
                    "pass images instead of features"
                )
        return _join([member._project(features, mask, names) for member in self.members])

    @torch.inference_mode()
    def encode(self, inputs: Sequence[ModelInputs]) -> DecoderState:
        """Return the members' decoder states, as one, before the start token, of B images."""
        features = [member._features([views[place] for views in inputs]) for place, member in enumerate(self.members)]
        projected = [member._project(each) for member, each in zip(self.members, features, strict=True)]
        state = init_state(self.decoder, *_join(projected))
        return self._with_pooled(state, features[self._indexed or 0])

    def pooled_features(self, inputs: Sequence[ModelInputs]) -> Floats:
        """Return the mean over regions of the features (B, F) of the member whose index is used."""
        place = self._indexed or 0
        return self.members[place].pooled_features([(views[place],) for views in inputs])

    @property
    def retrieval(self) -> RetrievalIndex | None:
        """The index of the training images of the first member that has one."""
        return None if self._indexed is None else self.members[self._indexed].retrieval

    @property
    def retrieve(self) -> int:
        """Number of images of `retrieval` whose captions are inputs of that member."""
        return 0 if self._indexed is None else self.members[self._indexed].retrieve

    @property
    def _retrieved_captions(self) -> int:
        return max(member._retrieved_captions for member in self.members)

    @property
    def _indexed(self) -> int | None:
        """Position of the first member with an index of its training images."""
        return next((place for place, member in enumerate(self.members) if member._has_index), None)

    @property
    def _has_index(self) -> bool:
        return self._indexed is not None

    def load_inputs(self, image: ImageInput, prompt: str = "") -> ModelInputs:
        """Return the pixels that each member's encoder needs."""
        return tuple(pixels for member in self.members for pixels in member.load_inputs(image))

    def close(self) -> None:
        """Free the memory of the networks."""
        for member in self.members:
            member.close()
        super().close()


def load_runs(models: Sequence[str | Path], device: str = "auto") -> TrainedCaptioner:
    """Return the captioner of a run folder, or the ensemble of several.

    Raises:
        ConfigError: there is none, or their vocabularies differ.
        CheckpointError: a folder has no run, or its run is damaged.
    """
    members = [TrainedCaptioner.load(model, device) for model in models]
    return members[0] if len(members) == 1 else EnsembleCaptioner(members)


def _join(projected: Sequence[tuple[torch.Tensor, torch.Tensor | None]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the members' memories and masks as those of the ensemble's decoder."""
    memories, masks = zip(*projected, strict=True)
    return join_memories(memories, masks)


def _check_vocabulary(first: TrainedCaptioner, other: TrainedCaptioner) -> None:
    ours, theirs = first.run.tokenizer.vocabulary, other.run.tokenizer.vocabulary
    if ours == theirs:
        return
    names = f"{first.run.folder} and {other.run.folder} have different vocabularies"
    if len(ours) != len(theirs):
        raise ConfigError(f"{names}, of {len(ours)} and {len(theirs)} words; an ensemble needs equal vocabularies")
    place = next(place for place, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
    raise ConfigError(
        f"{names}: word {place} is {ours[place]!r} and {theirs[place]!r}; an ensemble needs equal vocabularies"
    )
