"""`TrainedCaptioner`: a trained model with its encoder, preprocessing and tokenizer."""

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seesay.allocation import return_freed_memory
from seesay.captioners.caption import DEFAULT_SETTINGS, Caption, CaptionSettings
from seesay.captioners.search import ModelInputs, SearchCaptioner
from seesay.checkpoint import Run, load_run, load_weights, trained_weights
from seesay.config import DecodingOptions
from seesay.data.batches import pad_captions
from seesay.decoding import SearchTrace, init_state
from seesay.devices import choose_device
from seesay.errors import CheckpointError, ConfigError
from seesay.features.extraction import round_features
from seesay.images.loading import ImageInput, Preprocessing
from seesay.models.captioning import CaptionModel, build_model
from seesay.models.encoders import build_encoder
from seesay.models.products import prepack_weights
from seesay.models.protocol import Decoder, DecoderState
from seesay.retrieval.index import INFO_FILE as INDEX_FILE
from seesay.retrieval.index import RetrievalIndex, has_index, load_index
from seesay.retrieval.space import Floats, pool

_CPU_ENCODER_BATCH = 8
"""Images per encoder batch on a CPU: larger batches are not faster and need more memory."""
_POOLED = "pooled_features"
"""Name of the pooled features in an encoded batch of a run with an index of its training images."""


class TrainedCaptioner(SearchCaptioner):
    """A captioner loaded from a run folder.

    Attributes:
        run: configuration, tokenizer and metadata of the run.
        model: the network, in evaluation mode.
    """

    def __init__(self, run: Run, model: CaptionModel, device: torch.device) -> None:
        super().__init__(run.config, run.tokenizer, run.info.max_length, run.info.grid)
        self.run = run
        self.model = model
        self.device = device

    @classmethod
    def load(cls, model: str | Path, device: str = "auto") -> "TrainedCaptioner":
        """Return the captioner of a run folder.

        Args:
            model: the run folder.
            device: auto, cpu, cuda or mps.

        Raises:
            CheckpointError: the folder has no run, or the run is damaged or its encoder has changed.
            EncoderError: the encoder's weights are not available.
        """
        run = load_run(model)
        if run.config.model.retrieve and not has_index(run.folder):
            raise CheckpointError(
                f"{run.folder} was trained with model.retrieve but has no {INDEX_FILE}, which it needs to generate "
                "captions; copy retrieval.json and retrieval.safetensors from the original run, or train it again"
            )
        encoder = None
        if "encoder" in run.info.features:
            stored = run.info.encoder_stored  # then the run has the weights, and its metadata the rest
            encoder = build_encoder(run.config.encoder, identity=run.info.features if stored else None)
            if not run.info.encoder_stored and encoder.identity != run.info.features:
                raise CheckpointError(
                    f"{run.folder} was trained on another version of {run.config.encoder.encoder}: "
                    f"weights {run.info.features['digest']} then, {encoder.identity['digest']} now"
                )
        network = build_model(run.config.model, run.info.vocabulary_size, run.info.feature_size)
        if run.info.encoder_stored:  # then the run's file has its weights too
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
        """Return the captions of images from their features.

        Args:
            features: encoder output, (B, N, F).
            memory_mask: (B, N), True = attend; None: attend to all regions.
            options: decoding options; None: the run's.
            keys: a name per image for messages and the seeds of sampling.
            attention: return attention weights.

        Raises:
            ConfigError: the number of keys differs from that of images; or the members of an ensemble have different
                encoders.
            DataError: an image has no region.
        """
        mask = None if memory_mask is None else memory_mask.to(self.device)
        features = features.to(self.device)
        memory, projected_mask = self._project(features, mask, keys)
        settings = CaptionSettings(options, attention)
        state = self._with_pooled(init_state(self.decoder, memory, projected_mask, keys), features, mask)
        return self.generate(state, keys, settings)

    def trace(self, image: ImageInput, options: DecodingOptions | None = None) -> tuple[Caption, SearchTrace]:
        """Return an image's caption and every candidate of its search.

        Args:
            image: an image as in `caption`.
            options: decoding options; None: the run's.

        Raises:
            ImageError: the image cannot be read.
        """
        loaded = self.prepare(image)
        trace = SearchTrace()
        encoded = self.encode([loaded.inputs])
        return self.generate(encoded, [loaded.name], CaptionSettings(options), trace=trace)[0], trace

    @property
    def folders(self) -> tuple[Path, ...]:
        """The run folder."""
        return (self.run.folder,)

    @property
    def decoder(self) -> Decoder:
        """The decoder that generates tokens."""
        return self.model.step_decoder

    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing that the encoder needs.

        Raises:
            ConfigError: the model has no encoder.
        """
        if self.model.encoder is None:
            raise ConfigError(
                f"{self.run.folder} was trained on imported or joined features and has no encoder: "
                "it can be evaluated with those features, but cannot caption images"
            )
        return self.model.encoder.preprocessing

    @torch.inference_mode()
    def encode(self, inputs: Sequence[ModelInputs]) -> DecoderState:
        """Return the decoder's state before the start token, of B images."""
        features = self._features([view for (view,) in inputs])
        return self._with_pooled(init_state(self.decoder, *self._project(features)), features)

    @functools.cached_property
    def retrieval(self) -> RetrievalIndex | None:
        """The index of the training images in the run folder; None: it has none.

        Raises:
            CheckpointError: it is damaged, or was built before the encoder was trained further.
        """
        if not self._has_index:
            return None
        index = load_index(self.run.folder)
        index.require(self.run.info.features, trained_weights(self.run))
        return index

    @property
    def retrieve(self) -> int:
        """Number of images of `retrieval` whose captions are inputs of the network."""
        return self.run.config.model.retrieve

    def forget_index(self) -> None:
        """Load the index again when it is next used, because its files have changed."""
        self.__dict__.pop("retrieval", None)

    @torch.inference_mode()
    def pooled_features(self, inputs: Sequence[ModelInputs]) -> Floats:
        """Return the mean over regions of the encoder's features, (B, F), of B images."""
        return _pool(self._features([view for (view,) in inputs]))

    @torch.inference_mode()
    def generate(
        self,
        encoded: Any,
        names: Sequence[str] | None,
        settings: CaptionSettings = DEFAULT_SETTINGS,
        *,
        trace: SearchTrace | None = None,
    ) -> list[Caption]:
        """Return the captions of encoded images; see `SearchCaptioner.generate`."""
        return super().generate(encoded, names, settings, trace=trace)

    @torch.inference_mode()
    def take(self, encoded: Any, places: Sequence[int]) -> Any:
        """Return the decoder's state of the images at some positions."""
        return super().take(encoded, places)

    def close(self) -> None:
        """Free the memory of the network."""
        self.model = None  # type: ignore[assignment]
        return_freed_memory()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def _has_index(self) -> bool:
        return has_index(self.run.folder)

    def _with_pooled(
        self, state: DecoderState, features: torch.Tensor, mask: torch.Tensor | None = None
    ) -> DecoderState:
        """Return a state with the pooled features if there is an index, so that `take` selects them too."""
        if not self._has_index:
            return state
        pooled = torch.from_numpy(_pool(features, mask)).to(self.device)
        return replace(state, per_image={**state.per_image, _POOLED: pooled})

    def _split(self, encoded: DecoderState) -> tuple[DecoderState, Floats | None]:
        per_image = dict(encoded.per_image)
        pooled = per_image.pop(_POOLED, None)
        if pooled is None:
            return encoded, None
        return replace(encoded, per_image=per_image), pooled.cpu().numpy()

    def _project(
        self, features: torch.Tensor, mask: torch.Tensor | None = None, names: Sequence[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the memory (B, N, D) of features (B, N, F) and its mask, retrieved captions included.

        Args:
            features: the features.
            mask: (B, N), True = attend; None: attend to all regions.
            names: ids or paths of the images, which do not retrieve themselves; None: unknown.
        """
        captions = None
        if self.retrieve and self.retrieval is not None:
            query = self.retrieval.query(_pool(features, mask), names)
            found = self.retrieval.nearest_captions(query, self.retrieve)
            captions = pad_captions(found).to(self.device)
        features, mask = self.model.add_captions(features, mask, captions)
        return self.model.project(features), mask

    @property
    def _retrieved_captions(self) -> int:
        """Number of regions that are retrieved captions instead of parts of the image."""
        return self.retrieval.number_of_captions(self.retrieve) if self.retrieve and self.retrieval is not None else 0

    def _image_attention(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the weights (T, N) of the image's regions, normalised to sum to 1 if there are retrieved captions."""
        if not self._retrieved_captions:
            return weights
        regions = math.prod(self._grid) if self._grid else weights.shape[1] - self._retrieved_captions
        own = weights[:, :regions]
        return np.asarray(own / np.maximum(own.sum(1, keepdims=True), np.finfo(np.float32).tiny), np.float32)

    def _features(self, pixels: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        count = _CPU_ENCODER_BATCH if self.device.type == "cpu" else len(pixels)
        parts = [torch.from_numpy(np.stack(pixels[at : at + count])) for at in range(0, len(pixels), count)]
        features = torch.cat([self.model.encode(part.to(self.device)) for part in parts])
        # Rounded as by the feature store in training.
        return round_features(features) if self.run.config.encoder.encoder_training == "cached" else features


def _pool(features: torch.Tensor, mask: torch.Tensor | None = None) -> Floats:
    """Return the mean over regions (B, F) of features (B, N, F)."""
    return pool(features.cpu().numpy(), None if mask is None else mask.cpu().numpy())
