"""Image files, and the same images preprocessed for a network."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bench.measuring import seconds
from seesay.bulk import find_images
from seesay.config import EncoderConfig
from seesay.images.loading import load_pixels
from seesay.models.encoders import Encoder, build_encoder
from seesay.models.products import prepack_weights

Network = Callable[[Tensor], Tensor]
"""Function from uint8 pixels (B, height, width, 3) to features (B, N, F)."""

BATCH = 32
"""Batch size of `extract_features` and of `TrainedCaptioner.caption_each`."""


class Kind(NamedTuple):
    """A common kind of image file.

    Attributes:
        name: for tables.
        size: (width, height) in pixels.
        bytes: mean file size.
    """

    name: str
    size: tuple[int, int]
    bytes: int


SQUARE = Kind("224 x 224", (224, 224), 14_700)
"""Flickr8k's images, resized to squares; the mean of 8,092 files."""
COCO = Kind("COCO size", (640, 480), 161_000)
"""COCO's images; the mean of 159 files of val2017."""

DEFAULT_ENCODERS = (("tf_efficientnet_lite0", 256), ("inception_v3.tf_in1k", 299))


def encoder_configs(name: str, weights: str, size: int) -> list[EncoderConfig]:
    """Return the named encoder, or the default ones with random weights, which are as fast."""
    if not name:
        return [EncoderConfig(encoder=each, encoder_weights="none", image_size=side) for each, side in DEFAULT_ENCODERS]
    return [EncoderConfig(encoder=name, encoder_weights=weights or "none", image_size=size)]


def random_encoder(config: EncoderConfig) -> Encoder:
    """Return an encoder; without weights in the configuration they are random with a fixed seed."""
    torch.manual_seed(0)
    encoder = build_encoder(config)
    if config.encoder_weights == "none":
        calibrate_batch_norms(encoder)
    return encoder


@torch.no_grad()
def calibrate_batch_norms(encoder: Encoder) -> None:
    """Set the statistics of an encoder's batch norms from noise; otherwise features overflow float16."""
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    size = encoder.preprocessing.size
    encoder(torch.randint(0, 256, (8, size, size, 3), dtype=torch.uint8))
    for norm in norms:
        norm.eval()


def image_files(folder: Path | None, kind: Kind, count: int, scratch: Path) -> list[str]:
    """Return image files of a folder, or generated ones.

    Args:
        folder: the folder; None = generate images.
        kind: of the generated images.
        count: maximum number of images.
        scratch: folder for the generated images.
    """
    if folder is not None:
        return [str(image) for image in find_images([str(folder)]).images[:count]]
    return draw_images(scratch / kind.name, kind, count)


def draw_images(folder: Path, kind: Kind, count: int) -> list[str]:
    """Return generated JPEG files with the file size of photographs of that kind.

    The time to decode a JPEG depends on its size in bytes as much as on its pixels, so the quality is chosen to match.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random, files = np.random.default_rng(0), []
    images = (_draw_image(random, kind.size) for _ in range(count))
    first = next(images)
    quality = min(range(50, 99), key=lambda level: abs(len(_jpeg(first, level)) - kind.bytes))
    for number, image in enumerate([first, *images]):
        path = folder / f"{number:05}.jpg"
        path.write_bytes(_jpeg(image, quality))
        files.append(str(path))
    return files


def _draw_image(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    width, height = size
    canvas = np.zeros((height, width, 3), np.float32)
    for cells, strength in ((4, 160.0), (16, 70.0), (64, 35.0)):
        rough = random.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8)
        smooth = Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)
        canvas += strength / 255 * np.asarray(smooth, np.float32)
    canvas += random.normal(0, 5, canvas.shape).astype(np.float32)
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))


def _jpeg(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def preprocessed_batches(encoder: Encoder, files: Sequence[str], batch: int = BATCH) -> list[Tensor]:
    """Return resized images: uint8 (B, height, width, 3)."""
    batches = []
    for begin in range(0, len(files), batch):
        pixels = [load_pixels(path, encoder.preprocessing) for path in files[begin : begin + batch]]
        batches.append(torch.from_numpy(np.stack(pixels)))
    return batches


def plain_network(encoder: Encoder) -> Network:
    """Return the encoder in torch, up to the layer that is used."""
    return encoder.encode_in_torch


def onnx_network(encoder: Encoder) -> Network:
    """Return the encoder as extraction and captioning run it: in ONNX Runtime."""
    prepack_weights(encoder)
    return encoder.forward


def network_rate(network: Network, batches: Sequence[Tensor]) -> Callable[[], float]:
    """Return a function that measures the images per second of a network alone."""

    @torch.inference_mode()
    def rate() -> float:
        taken = sum(seconds(lambda images=images: network(images)) for images in batches)  # type: ignore[misc]
        return sum(map(len, batches)) / taken

    return rate
