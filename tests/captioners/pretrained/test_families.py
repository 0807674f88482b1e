"""Every family against transformers' own `generate` and a forward pass with teacher forcing."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from seesay.captioners import load_captioner
from seesay.captioners.base import Caption
from seesay.captioners.pretrained import PretrainedCaptioner
from seesay.cli import main as cli
from seesay.config import DecodingOptions
from seesay.errors import ConfigError
from tests.captioners.pretrained import models
from tests.captioners.pretrained.conftest import Captioners, Folders, Images

# Warnings of NumPy about what transformers does.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

LENGTH = 9
GREEDY = DecodingOptions(max_length=LENGTH)
BEAM = DecodingOptions(strategy="beam", beam_size=3, max_length=LENGTH)
ALL = sorted(models.FAMILIES)
CROSS_ATTENTION = ("blip", "florence2", "vision_encoder_decoder")
families = pytest.mark.parametrize("family", ALL)


def features_of(captioner: PretrainedCaptioner, image: Any) -> dict[str, Any]:
    """The arguments of `generate` for an image, computed by its processor."""
    part = captioner.encode([captioner.load_inputs(image)]).parts[0]
    return {name: value.clone() for name, value in part.features.items() if isinstance(value, torch.Tensor)}


def generated(captioner: PretrainedCaptioner, image: Any, **arguments: Any) -> list[int]:
    """The tokens that transformers generates for an image, without those of the prompt."""
    model, features = captioner.model, features_of(captioner, image)
    model.generation_config.forced_eos_token_id = None  # seesay marks truncated captions instead
    settings = {"num_beams": 1, "no_repeat_ngram_size": 0, "do_sample": False, **arguments}
    with torch.inference_mode():
        tokens: list[int] = model.generate(**features, **settings)[0].tolist()
    kind = model.config.model_type
    if kind in ("blip", "vision-encoder-decoder"):
        return tokens[1:]  # the start token
    if kind == "florence2":
        return tokens[2:]  # the start token and the one that is forced after it
    prompt: list[int] = features["input_ids"][0].tolist()
    return tokens[len(prompt) :] if tokens[: len(prompt)] == prompt else tokens


def shown(captioner: PretrainedCaptioner, tokens: Sequence[int]) -> tuple[str, tuple[str, ...]]:
    """The text and the words of tokens up to the end or the maximum length."""
    tokenizer = captioner.tokenizer
    ends = (tokenizer.eos_token_id, tokenizer.sep_token_id)
    length = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    kept = [token for token in tokens[: min(length, LENGTH)] if token not in tokenizer.all_special_ids]
    words = tuple(tokenizer.decode([token]).strip().removeprefix("##") for token in kept)
    return tokenizer.decode(kept, skip_special_tokens=True).strip(), words


@families
def test_greedy_captions_equal_those_of_transformers(captioner_of: Captioners, images: Images, family: str) -> None:
    captioner = captioner_of(family)
    found = captioner.caption(images, GREEDY)
    for image, caption in zip(images, found, strict=True):
        expected = shown(captioner, generated(captioner, image, max_new_tokens=LENGTH + 1))
        assert (caption.text, caption.words) == expected
        assert len(caption.words) == len(caption.log_probs)
    assert len({caption.text for caption in found}) > 1, "the model ignores its image"


@families
def test_beam_captions_equal_those_of_transformers(captioner_of: Captioners, images: Images, family: str) -> None:
    captioner = captioner_of(family)
    found = captioner.caption(images, BEAM)
    for image, caption in zip(images, found, strict=True):
        forced = int(family == "florence2")
        arguments = {"num_beams": 3, "length_penalty": 0.7, "max_new_tokens": LENGTH + 1 + forced}
        assert (caption.text, caption.words) == shown(captioner, generated(captioner, image, **arguments))
