"""`TrainedCaptioner`: a trained model with everything an image needs, from file to sentence."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from seesay.caption import Caption, Captioner, ModelInputs
from seesay.checkpoint import Run, load_run, load_weights
from seesay.config import DecodingOptions
from seesay.decoding import SearchTrace, init_state
from seesay.devices import choose_device
from seesay.errors import CheckpointError, ConfigError
from seesay.features.extraction import round_features
from seesay.images import ImageInput, Preprocessing
from seesay.models.captioning import CaptionModel, build_model
from seesay.models.encoders import build_encoder
from seesay.models.products import prepack_weights
from seesay.models.protocol import Decoder, DecoderState

__all__ = ["Caption", "ImageInput", "ModelInputs", "TrainedCaptioner"]

_ENCODED_AT_ONCE = 8
"""Images that the encoder is shown together on a processor: more are not quicker, and take memory for each."""


class TrainedCaptioner(Captioner):
    """A trained captioner.

    Attributes:
        run: where it comes from: configuration, vocabulary, metadata.
        model: the network, in evaluation mode.
    """

    def __init__(self, run: Run, model: CaptionModel, device: torch.device) -> None:
        super().__init__(run.config, run.tokenizer, run.info.max_length, run.info.grid)
        self.run = run
        self.model = model
        self.device = device

    @classmethod
    def load(cls, model: str | Path | Sequence[str | Path], device: str = "auto") -> "TrainedCaptioner":
        """Returns the captioner of a run folder, or of several, which then speak as one.

        Args:
            model: the run folder; or several of the same vocabulary, for a `EnsembleCaptioner`.
            device: auto, cpu, cuda or mps.

        Raises:
            ConfigError: the runs have different vocabularies.
            CheckpointError: no run there, or one that is damaged or whose encoder has changed.
            EncoderError: the encoder's weights cannot be had.
        """
        if not isinstance(model, (str, Path)):
            from seesay.ensemble_captioner import EnsembleCaptioner

            members = [cls.load(each, device) for each in model]
            return members[0] if len(members) == 1 else EnsembleCaptioner(members)
        run = load_run(model)
        encoder = None
        if "encoder" in run.info.features:
            stored = run.info.encoder_stored  # then the weights come from the run, and all else from its metadata
            encoder = build_encoder(run.config.encoder, identity=run.info.features if stored else None)
            if not run.info.encoder_stored and encoder.identity != run.info.features:
                raise CheckpointError(
                    f"{run.folder} was trained on another version of {run.config.encoder.encoder}: "
                    f"weights {run.info.features['digest']} then, {encoder.identity['digest']} now"
                )
        network = build_model(run.config.model, run.info.vocabulary_size, run.info.feature_size)
        if run.info.encoder_stored:  # then its weights are in the run's file, too
            network.encoder = encoder
        load_weights(run, network)
        network.encoder = encoder
        chosen = torch.device(choose_device(device))
        network = network.to(chosen).eval()
        prepack_weights(network)
        return cls(run, network, chosen)

    @torch.inference_mode()
    def caption_features(
        self,
        features: torch.Tensor,
        memory_mask: torch.Tensor | None = None,
        options: DecodingOptions | None = None,
        *,
        keys: Sequence[str] | None = None,
        attention: bool = False,
    ) -> list[Caption]:
        """Returns the captions of images whose features are known.

        Args:
            features: (B, N, F).
            memory_mask: (B, N), True = a real region; None = all are.
            options: how to search; None = as the run says.
            keys: a name an image, for sampling and messages.
            attention: keep where the model looked at each word.

        Raises:
            ConfigError: not as many keys as images; or of an ensemble, its members look through other encoders.
            DataError: an image has no region.
        """
        mask = None if memory_mask is None else memory_mask.to(self.device)
        memory, mask = self._project(features.to(self.device), mask)
        return self.generate(init_state(self.decoder, memory, mask, keys), keys, options, attention=attention)

    def trace(self, image: ImageInput, options: DecodingOptions | None = None) -> tuple[Caption, SearchTrace]:
        """Returns an image's caption and every candidate that the search for it looked at.

        Args:
            image: what `caption` takes.
            options: how to search; None = as the run says.

        Raises:
            ImageError: it cannot be read.
        """
        model_inputs, name = self.prepare(image)
        trace = SearchTrace()
        return self.generate(self.encode([model_inputs]), [name], options, trace=trace)[0], trace

    @property
    def folders(self) -> tuple[Path, ...]:
        """The run folder."""
        return (self.run.folder,)

    @property
    def decoder(self) -> Decoder:
        """The decoder that generates tokens."""
        return self.model.search

    def preprocessing(self) -> Preprocessing:
        """Returns how an image becomes what the encoder is shown.

        Raises:
            ConfigError: the model has no encoder of its own.
        """
        if self.model.encoder is None:
            raise ConfigError(
                f"{self.run.folder} was trained on imported or joined features and has no encoder of its own: "
                "it can be evaluated with those features, but cannot look at images"
            )
        return self.model.encoder.preprocessing

    @torch.inference_mode()
    def encode(self, pixels: Sequence[ModelInputs]) -> DecoderState:
        """Return the decoder's state before the start token, of B images."""
        return init_state(self.decoder, *self._project(self._features([view for (view,) in pixels]), None))

    @torch.inference_mode()
    def generate(
        self,
        state: DecoderState,
        names: Sequence[str] | None,
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        top_tokens: int = 0,
        trace: SearchTrace | None = None,
    ) -> list[Caption]:
        """Return the captions of encoded images; see `Captioner.generate`."""
        return super().generate(state, names, options, attention=attention, top_tokens=top_tokens, trace=trace)

    def _project(self, features: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns what the decoder attends to, of features (B, N, F), and its mask."""
        return self.model.project(features), mask

    def _features(self, pixels: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        count = _ENCODED_AT_ONCE if self.device.type == "cpu" else len(pixels)
        parts = [torch.from_numpy(np.stack(pixels[at : at + count])) for at in range(0, len(pixels), count)]
        features = torch.cat([self.model.encode(part.to(self.device)) for part in parts])
        # Rounded as the store did in training.
        return round_features(features) if self.run.config.encoder.encoder_training == "cached" else features
