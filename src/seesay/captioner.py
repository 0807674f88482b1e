"""`Captioner`: a trained model with everything a picture needs, from file to sentence."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from seesay.caption import Caption, Picture, PictureCaptioner, Views, picture_name
from seesay.checkpoint import Run, load_run, load_weights
from seesay.config import DecodingOptions
from seesay.decoding import SearchTrace, decode
from seesay.devices import choose_device
from seesay.errors import CheckpointError, ConfigError, ImageError
from seesay.features.extraction import round_features
from seesay.images import Preprocessing
from seesay.models.captioning import CaptionModel, build_model
from seesay.models.encoders import build_encoder
from seesay.models.protocol import Decoder

__all__ = ["Caption", "Captioner", "Picture", "Views"]


class Captioner(PictureCaptioner):
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
    def load(cls, model: str | Path | Sequence[str | Path], device: str = "auto") -> "Captioner":
        """Returns the captioner of a run folder, or of several, which then speak as one.

        Args:
            model: the run folder; or several of the same vocabulary, for a `CaptionerEnsemble`.
            device: auto, cpu, cuda or mps.

        Raises:
            ConfigError: the runs have different vocabularies.
            CheckpointError: no run there, or one that is damaged or whose encoder has changed.
            EncoderError: the encoder's weights cannot be had.
        """
        if not isinstance(model, (str, Path)):
            from seesay.captioner_ensemble import CaptionerEnsemble

            members = [cls.load(each, device) for each in model]
            return members[0] if len(members) == 1 else CaptionerEnsemble(members)
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
        if run.info.encoder_stored:
            network.encoder = encoder
            load_weights(run, network)
        else:
            load_weights(run, network)
            network.encoder = encoder
        chosen = torch.device(choose_device(device))
        return cls(run, network.to(chosen).eval(), chosen)

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
        """Returns the captions of pictures whose features are known.

        Args:
            features: (B, N, F).
            memory_mask: (B, N), True = a real region; None = all are.
            options: how to search; None = as the run says.
            keys: a name a picture, for sampling and messages.
            attention: keep where the model looked at each word.

        Raises:
            ConfigError: not as many keys as pictures; or of an ensemble, its members look through other encoders.
            DataError: a picture has no region.
        """
        mask = None if memory_mask is None else memory_mask.to(self.device)
        memory, mask = self._remember(features.to(self.device), mask)
        return self._say(memory, mask, options, keys, attention)

    def trace(self, picture: Picture, options: DecodingOptions | None = None) -> tuple[Caption, SearchTrace]:
        """Returns a picture's caption and every candidate that the search for it looked at.

        Args:
            picture: a path, URL or opened picture.
            options: how to search; None = as the run says.

        Raises:
            ImageError: it cannot be read.
        """
        _, pixels = self._load(picture)
        if isinstance(pixels, ImageError):
            raise pixels
        trace = SearchTrace()
        return self._caption_pixels([pixels], [picture_name(picture, pixels)], options, False, trace)[0], trace

    @property
    def _decoder(self) -> Decoder:
        return self.model.search

    def _remember(self, features: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns what the decoder attends to, of features (B, N, F), and its mask."""
        return self.model.remember(features), mask

    def _say(
        self,
        memory: torch.Tensor,
        mask: torch.Tensor | None,
        options: DecodingOptions | None,
        keys: Sequence[str] | None,
        attention: bool,
        trace: SearchTrace | None = None,
    ) -> list[Caption]:
        options = self.options(options)
        found = decode(
            self._decoder,
            memory,
            mask,
            options,
            rules=self._rules(options),
            keys=keys,
            keep_attention=attention,
            trace=trace,
        )
        return self._captions(found)

    def _caption_pixels(
        self,
        pixels: Sequence[Views],
        names: Sequence[str],
        options: DecodingOptions | None,
        attention: bool,
        trace: SearchTrace | None = None,
    ) -> list[Caption]:
        with torch.inference_mode():
            memory, mask = self._see(pixels)
            return self._say(memory, mask, options, names, attention, trace)

    def _see(self, pixels: Sequence[Views]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns what the decoder attends to, of pictures, and its mask."""
        return self._remember(self._encode([view for (view,) in pixels]), None)

    def _preprocessing(self) -> Preprocessing:
        if self.model.encoder is None:
            raise ConfigError(
                f"{self.run.folder} was trained on imported or joined features and has no encoder of its own: "
                "it can be evaluated with those features, but cannot look at pictures"
            )
        return self.model.encoder.preprocessing

    def _encode(self, pixels: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        features = self.model.encode(torch.from_numpy(np.stack(pixels)).to(self.device))
        # Rounded as the store did in training.
        return round_features(features) if self.run.config.encoder.encoder_training == "cached" else features
