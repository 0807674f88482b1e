"""CLIPScore and RefCLIPScore (Hessel et al. 2021): similarity of a caption and its image in CLIP's embedding space.

CLIPScore needs no references; RefCLIPScore does. The model is loaded with transformers (extra `hub`) by hub name or
from a folder. The published figures are for ViT-B/32.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from seesay.devices import choose_device
from seesay.errors import CheckpointError, DataError, MissingDependencyError
from seesay.images.loading import read_image
from seesay.models.hub import hub_answers

if TYPE_CHECKING:
    from seesay.images.loading import ImageInput

CLIP_SCORE, REF_CLIP_SCORE = "CLIPScore", "RefCLIPScore"
DEFAULT_CLIP = "openai/clip-vit-base-patch32"
PROMPT = "A photo depicts "
WEIGHT = 2.5
"""The paper's w, which scales typical cosines to 0 to 1 (section 3.1)."""

_BATCH = 32

Floats = NDArray[np.float64]


class ClipScorer:
    """A CLIP model with its preprocessing.

    Args:
        model: a `CLIPModel` of transformers.
        processor: its `CLIPProcessor`.
        device: device of the model.
    """

    def __init__(self, model: Any, processor: Any, device: str = "cpu") -> None:
        self.model = model.to(device).eval()
        self.processor = processor
        self.device = device

    @classmethod
    def load(cls, model: str = DEFAULT_CLIP, device: str = "auto") -> "ClipScorer":
        """Loads a model by hub name or from a folder.

        Raises:
            MissingDependencyError: transformers is not installed.
            CheckpointError: the weights are not available.
        """
        try:
            from transformers import CLIPModel, CLIPProcessor
        except ImportError as error:
            raise MissingDependencyError("transformers", "hub", CLIP_SCORE) from error
        try:
            local = not Path(model).is_dir() and not hub_answers()  # else transformers retries for a minute
            loaded: Any = CLIPModel.from_pretrained(model, output_loading_info=True, local_files_only=local)
            network, loading = loaded
            if loading["missing_keys"]:  # transformers would initialise them at random and only log it
                raise ValueError(f"it lacks {len(loading['missing_keys'])} tensors of the model")
            processor = CLIPProcessor.from_pretrained(model, local_files_only=local)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().split("\n")[0]
            raise CheckpointError(
                f"{CLIP_SCORE} needs the CLIP weights {model}, which are not available: {reason}"
            ) from error
        return cls(network, processor, choose_device(device))

    def score(
        self, images: Sequence["ImageInput"], captions: Sequence[str], references: Sequence[Sequence[str]] | None = None
    ) -> tuple[Floats, Floats]:
        """Returns CLIPScore and RefCLIPScore of each image's caption, each (B,).

        CLIPScore = 2.5 * max(cos(caption, image), 0); RefCLIPScore is its harmonic mean with the largest cosine
        of the caption to a reference, not below 0 (section 3.2).

        Args:
            images: image inputs.
            captions: one caption per image.
            references: human captions of each image; None: RefCLIPScore is NaN.

        Raises:
            ImageError: an image cannot be read.
            DataError: the lists have different lengths.
        """
        if len(images) != len(captions) or (references is not None and len(references) != len(captions)):
            raise DataError("pass one caption and one list of references per image")
        image_vectors = self._images(images)
        caption_vectors = self._texts(captions)
        plain = WEIGHT * (image_vectors * caption_vectors).sum(-1).clamp(min=0)
        if references is None:
            return _numbers(plain), np.full(len(captions), np.nan)
        reference_vectors = self._texts([text for image in references for text in image])
        owner = torch.repeat_interleave(torch.arange(len(captions)), torch.tensor([len(r) for r in references]))
        cosines = (caption_vectors[owner] * reference_vectors).sum(-1)
        max_cosines = torch.zeros(len(captions), dtype=cosines.dtype).scatter_reduce(0, owner, cosines, "amax")
        harmonic_mean = 2 * plain * max_cosines / (plain + max_cosines).clamp(min=torch.finfo(plain.dtype).tiny)
        return _numbers(plain), _numbers(harmonic_mean)

    @torch.inference_mode()
    def _images(self, images: Sequence["ImageInput"]) -> Tensor:
        """Returns unit embeddings (B, E) of images."""
        found = []
        for begin in range(0, len(images), _BATCH):
            batch = images[begin : begin + _BATCH]
            opened = [image if isinstance(image, Image.Image) else read_image(image) for image in batch]
            inputs = self.processor(images=[image.convert("RGB") for image in opened], return_tensors="pt")
            found.append(_unit(self.model.get_image_features(**inputs.to(self.device))))
        return torch.cat(found)

    @torch.inference_mode()
    def _texts(self, texts: Sequence[str]) -> Tensor:
        """Returns unit embeddings (B, E) of captions with the prompt prefix."""
        found = []
        for begin in range(0, len(texts), _BATCH):
            prompted = [PROMPT + text for text in texts[begin : begin + _BATCH]]
            inputs = self.processor(text=prompted, return_tensors="pt", padding=True, truncation=True)
            found.append(_unit(self.model.get_text_features(**inputs.to(self.device))))
        return torch.cat(found)


def _unit(output: Any) -> Tensor:
    """Returns unit vectors in float64 of a tensor or of the pooled output of a model."""
    vectors: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return torch.nn.functional.normalize(vectors.double().cpu(), dim=-1)


def _numbers(values: Tensor) -> Floats:
    return np.asarray(values.numpy(), np.float64)
