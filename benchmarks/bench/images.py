"""ImageInput files to read, and the same images ready for a network."""

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
from seesay.images import load_pixels, normalise
from seesay.models.encoders import Encoder, build_encoder

Network = Callable[[Tensor], Tensor]
"""What gives maps of normalised images (B, 3, height, width)."""

BATCH = 32
"""Images a network is shown at once, in `extract_features` and in `TrainedCaptioner.caption_each`."""


class Kind(NamedTuple):
    """A usual kind of image file.

    Attributes:
        name: for tables.
        size: (width, height).
        bytes: of a file, on average.
    """

    name: str
    size: tuple[int, int]
    bytes: int


SQUARE = Kind("224 x 224", (224, 224), 14_700)
"""Flickr8k's images, squeezed to a square; the mean of 8,092 files."""
COCO = Kind("COCO size", (640, 480), 161_000)
"""COCO's; the mean of 159 files of val2017."""

USUAL_ENCODERS = (("tf_efficientnet_lite0", 256), ("inception_v3.tf_in1k", 299))


def encoder_configs(name: str, weights: str, size: int) -> list[EncoderConfig]:
    """Returns the encoder that was named, or the usual ones, whose weights are random: the speed is the same."""
    if not name:
        return [EncoderConfig(each, "none", image_size=side) for each, side in USUAL_ENCODERS]
    return [EncoderConfig(name, weights or "none", image_size=size)]


def random_encoder(config: EncoderConfig) -> Encoder:
    """Returns an encoder, its weights random where the configuration names none, and always the same."""
    torch.manual_seed(0)
    encoder = build_encoder(config)
    if config.encoder_weights == "none":
        settle(encoder)
    return encoder


@torch.no_grad()
def settle(encoder: Encoder) -> None:
    """Sets the means and spreads of an encoder's normalisations by noise; else features grow beyond float16."""
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    size = encoder.preprocessing.size
    encoder(torch.randint(0, 256, (8, size, size, 3), dtype=torch.uint8))
    for norm in norms:
        norm.eval()


def image_files(folder: Path | None, kind: Kind, count: int, scratch: Path) -> list[str]:
    """Returns image files of a folder, or drawn ones of a kind.

    Args:
        folder: where they are; None = draw some.
        kind: of the drawn ones.
        count: how many at most.
        scratch: where they are drawn.
    """
    if folder is not None:
        return [str(image) for image in find_images([str(folder)]).images[:count]]
    return draw_photographs(scratch / kind.name, kind, count)


def draw_photographs(folder: Path, kind: Kind, count: int) -> list[str]:
    """Returns JPEG files of shapes, shades and grain, about as large as photographs of that size are.

    How long a JPEG takes to decode depends on its size in bytes as much as on its pixels, so that the quality is
    chosen to give the kind's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random, files = np.random.default_rng(0), []
    images = (_photograph(random, kind.size) for _ in range(count))
    first = next(images)
    quality = min(range(50, 99), key=lambda level: abs(len(_jpeg(first, level)) - kind.bytes))
    for number, image in enumerate([first, *images]):
        path = folder / f"{number:05}.jpg"
        path.write_bytes(_jpeg(image, quality))
        files.append(str(path))
    return files


def _photograph(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
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


def ready_batches(encoder: Encoder, files: Sequence[str], batch: int = BATCH) -> list[Tensor]:
    """Returns images as the network takes them: normalised float32 (B, 3, height, width), channels last."""
    batches = []
    for begin in range(0, len(files), batch):
        pixels = np.stack([load_pixels(path, encoder.preprocessing) for path in files[begin : begin + batch]])
        images = normalise(torch.from_numpy(pixels), encoder.preprocessing)
        batches.append(images.contiguous(memory_format=torch.channels_last))
    return batches


def plain_network(encoder: Encoder) -> Network:
    """Returns the encoder's network, up to the layer that is used, as torch runs it for anybody."""
    return encoder._run_plainly


def fused_network(encoder: Encoder) -> Network:
    """Returns the same network as seesay runs it: each convolution with what follows it in one pass."""
    return encoder._run


def network_rate(network: Network, batches: Sequence[Tensor]) -> Callable[[], float]:
    """Returns a way to measure the images a second of a network alone."""

    @torch.inference_mode()
    def rate() -> float:
        taken = sum(seconds(lambda images=images: network(images)) for images in batches)  # type: ignore[misc]
        return sum(map(len, batches)) / taken

    return rate
