"""Small fixtures of several tests: configurations that train in a second, an encoder, images and runs."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image

from seesay.checkpoint import RunInfo, save_run, save_weights
from seesay.config import Config, ModelConfig, resolve_config
from seesay.data.annotations import Annotation, Annotations, write_annotations
from seesay.images.loading import resize_image
from seesay.models.captioning import build_model
from seesay.models.encoders import Encoder, build_encoder
from seesay.models.registry import decoder_options
from seesay.tokenizer import Tokenizer

COLOURS = {
    "red": (220, 30, 30),
    "green": (20, 160, 40),
    "blue": (30, 60, 220),
    "yellow": (240, 220, 30),
    "black": (10, 10, 10),
    "white": (245, 245, 245),
    "purple": (130, 20, 150),
}
SIZE = 48
ENCODER = "test_resnet"
SHARED = Path(__file__).parents[1] / "../shared"

_SMALL = {
    "image_size": SIZE,
    "projection_size": 24,
    "embedding_size": 16,
    "hidden_size": 32,
    "attention_size": 16,
    "output_size": 0,
    "batch_captions": 8,
    "learning_rate": 1e-2,
    "epochs": 2,
    "log_every": 3,
    "checkpoint_every": 4,
    "device": "cpu",
    "precision": "float32",
}


def in_loop(**overrides: Any) -> Config:
    """Return a configuration that trains a small encoder too."""
    values = {"encoder": "small-cnn", "encoder_weights": "none", "encoder_training": "full"}
    return resolve_config(overrides={**_SMALL, **values, **overrides})


def cached(weights: Path, **overrides: Any) -> Config:
    """Return a configuration with cached features of the encoder with weights from `write_encoder`."""
    return cached_preset("", weights, **overrides)


def cached_preset(preset: str, weights: Path, **overrides: Any) -> Config:
    """Return a preset with the settings of `cached`."""
    values = {"encoder": ENCODER, "encoder_weights": str(weights)}
    decoder = overrides.get("decoder") or resolve_config(preset).model.decoder
    return resolve_config(preset, overrides={**what_is_read(decoder, _SMALL), **values, **overrides})


def what_is_read(decoder: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings without those of the network that a decoder does not read."""
    unread = set(ModelConfig.model_fields) - decoder_options(decoder)
    return {name: value for name, value in settings.items() if name not in unread}


def untrained(**overrides: Any) -> Config:
    """Return a configuration like `cached`, of an encoder with random weights that are stored in the run."""
    return resolve_config(overrides={**_SMALL, "encoder": ENCODER, "encoder_weights": "none", **overrides})


def write_encoder(path: Path, seed: int = 0) -> Path:
    """Write random weights of a small timm model, with non-default preprocessing."""
    import timm

    torch.manual_seed(seed)
    network = timm.create_model(ENCODER, pretrained=False)
    metadata = {"mean": "(0.4, 0.5, 0.6)", "std": "(0.3, 0.2, 0.1)", "input_size": f"(3, {SIZE}, {SIZE})"}
    safetensors.torch.save_file(network.state_dict(), path, metadata=metadata)
    return path


def build(weights: Path) -> Encoder:
    """Return the encoder of `cached(weights)`."""
    return build_encoder(cached(weights).encoder)


def make_colours(folder: Path, train: int = 24, val: int = 6, test: int = 6) -> Annotations:
    """Write images of two colours side by side, with one to three captions each."""
    items = []
    pairs = [(left, right) for left in COLOURS for right in COLOURS if left != right]
    random.Random(0).shuffle(pairs)
    for number, (left, right) in enumerate(pairs[: train + val + test]):
        pixels = np.empty((32, 44, 3), np.uint8)
        pixels[:, :22], pixels[:, 22:] = COLOURS[left], COLOURS[right]
        path = folder / "images" / f"{left}-{right}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        captions = (f"{left} beside {right}", f"a {left} part and to its right {right}", f"{right} on the right")
        split = "train" if number < train else "val" if number < train + val else "test"
        items.append(Annotation(path.stem, str(path), captions[: 1 + number % 3], split))
    annotations = Annotations(tuple(items), str(folder), "jsonl")
    write_annotations(annotations, folder / "captions.jsonl")
    return annotations


def image(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    """Return a smooth image of random colours."""
    rough = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


def features(seed: int, *shape: int) -> NDArray[np.float16]:
    """Return random numbers of the given shape."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float16)


def random_run(folder: Path, config: Config, words: int = 20, scale: float = 3.0) -> Path:
    """Write an untrained run with weights scaled so that different images get different captions."""
    torch.manual_seed(0)
    encoder = build_encoder(config.encoder)
    pixels = np.stack([resize_image(image(seed), encoder.preprocessing) for seed in range(16)])
    tokenizer = Tokenizer.build([f"word{chr(97 + number)}" for number in range(words)], config.text)
    model = build_model(config.model, len(tokenizer), encoder.feature_size, encoder).eval()
    first = cast("torch.nn.Linear", cast("torch.nn.Sequential", model.projection)[0])
    with torch.no_grad():
        features = model.encode(torch.from_numpy(pixels)).flatten(0, 1)
        first.weight.div_(features.std(0).clamp(min=float(features.std(0).mean())))
        first.bias.sub_(first.weight @ features.mean(0))
        for parameter in model.decoder.parameters():
            parameter.mul_(scale)
    info = RunInfo(len(tokenizer), encoder.feature_size, encoder.grid, 12, encoder.identity, encoder_stored=True)
    save_run(folder, config, info, tokenizer)
    save_weights(folder, model.state_dict())
    return folder
