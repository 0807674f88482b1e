"""CLIPScore and RefCLIPScore (Hessel et al. 2021): how near a caption lies to its image in CLIP's space.

They need no human captions, or only as a second opinion; the network comes from the transformers library (extra
`hub`), by its hub name or from a folder. The published figures are those of ViT-B/32.
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
from seesay.images import read_image
from seesay.models.hub import hub_answers

if TYPE_CHECKING:
    from seesay.captioner import ImageInput

CLIP_SCORE, REF_CLIP_SCORE = "CLIPScore", "RefCLIPScore"
DEFAULT_CLIP = "openai/clip-vit-base-patch32"
PROMPT = "A photo depicts "
WEIGHT = 2.5
"""The paper's w, which stretches usual cosines over 0 to 1 (section 3.1)."""

_BATCH = 32

Floats = NDArray[np.float64]


class ClipScorer:
    """A CLIP network with its preprocessing.

    Args:
        model: a `CLIPModel` of transformers.
        processor: its `CLIPProcessor`.
        device: where it computes.
    """

    def __init__(self, model: Any, processor: Any, device: str = "cpu") -> None:
        self.model = model.to(device).eval()
        self.processor = processor
        self.device = device

    @classmethod
    def load(cls, model: str = DEFAULT_CLIP, device: str = "auto") -> "ClipScorer":
        """Returns the scorer of a network by its hub name or folder.

        Raises:
            MissingDependencyError: transformers is not installed.
            CheckpointError: the weights cannot be had.
        """
        try:
            from transformers import CLIPModel, CLIPProcessor
        except ImportError as error:
            raise MissingDependencyError("transformers", "hub", CLIP_SCORE) from error
        try:
            local = not Path(model).is_dir() and not hub_answers()  # else transformers retries for a minute
            both: Any = CLIPModel.from_pretrained(model, output_loading_info=True, local_files_only=local)
            network, loading = both
            if loading["missing_keys"]:  # transformers would draw them at random, and say so only in its log
                raise ValueError(f"it lacks {len(loading['missing_keys'])} of the network's tensors")
            processor = CLIPProcessor.from_pretrained(model, local_files_only=local)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().split("\n")[0]
            raise CheckpointError(
                f"{CLIP_SCORE} needs the CLIP weights {model}, which cannot be had: {reason}"
            ) from error
        return cls(network, processor, choose_device(device))

    def score(
        self, images: Sequence["ImageInput"], captions: Sequence[str], references: Sequence[Sequence[str]] | None = None
    ) -> tuple[Floats, Floats]:
        """Returns CLIPScore and RefCLIPScore of each image's caption, each (B,).

        CLIPScore = 2.5 * max(cos(caption, image), 0); RefCLIPScore is its harmonic mean with the largest cosine
        of the caption to a reference, not below 0 (section 3.2).

        Args:
            images: what can be captioned.
            captions: one an image.
            references: the human captions of each; None = RefCLIPScore is NaN.

        Raises:
            ImageError: an image cannot be read.
            DataError: the lists do not fit together.
        """
        if len(images) != len(captions) or (references is not None and len(references) != len(captions)):
            raise DataError("give one caption, and one list of references, an image")
        seen = self._images(images)
        said = self._texts(captions)
        plain = WEIGHT * (seen * said).sum(-1).clamp(min=0)
        if references is None:
            return _numbers(plain), np.full(len(captions), np.nan)
        meant = self._texts([text for image in references for text in image])
        owner = torch.repeat_interleave(torch.arange(len(captions)), torch.tensor([len(r) for r in references]))
        cosines = (said[owner] * meant).sum(-1)
        nearest = torch.zeros(len(captions), dtype=cosines.dtype).scatter_reduce(0, owner, cosines, "amax")
        both = 2 * plain * nearest / (plain + nearest).clamp(min=torch.finfo(plain.dtype).tiny)
        return _numbers(plain), _numbers(both)

    @torch.inference_mode()
    def _images(self, images: Sequence["ImageInput"]) -> Tensor:
        """Returns unit vectors (B, E) of images."""
        found = []
        for begin in range(0, len(images), _BATCH):
            some = images[begin : begin + _BATCH]
            opened = [image if isinstance(image, Image.Image) else read_image(image) for image in some]
            inputs = self.processor(images=[image.convert("RGB") for image in opened], return_tensors="pt")
            found.append(_unit(self.model.get_image_features(**inputs.to(self.device))))
        return torch.cat(found)

    @torch.inference_mode()
    def _texts(self, texts: Sequence[str]) -> Tensor:
        """Returns unit vectors (B, E) of captions, with the prompt before each."""
        found = []
        for begin in range(0, len(texts), _BATCH):
            prompted = [PROMPT + text for text in texts[begin : begin + _BATCH]]
            inputs = self.processor(text=prompted, return_tensors="pt", padding=True, truncation=True)
            found.append(_unit(self.model.get_text_features(**inputs.to(self.device))))
        return torch.cat(found)


def _unit(output: Any) -> Tensor:
    """Returns unit vectors in float64 of what the network gives: a tensor, or an output that pools one."""
    vectors: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return torch.nn.functional.normalize(vectors.double().cpu(), dim=-1)


def _numbers(values: Tensor) -> Floats:
    return np.asarray(values.numpy(), np.float64)
