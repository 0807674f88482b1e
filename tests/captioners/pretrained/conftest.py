"""Tiny models of every family, built once per session, and images for them."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from seesay.captioners.pretrained import PretrainedCaptioner, load_pretrained
from seesay.captioners.spec import ModelSpec
from tests.captioners.pretrained import models

Folders = Callable[[str], Path]
Captioners = Callable[[str], PretrainedCaptioner]
Images = list[NDArray[np.uint8]]


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The folder of a family's tiny model; tests must not change it."""

    @functools.cache
    def build(family: str) -> Path:
        folder = tmp_path_factory.mktemp("hub") / family
        folder.mkdir()
        with torch.random.fork_rng():
            models.FAMILIES[family](folder)
        return folder

    return build


@pytest.fixture(scope="session")
def captioner_of(folder_of: Folders) -> Captioners:
    """The captioner of a family's tiny model; tests must not close it."""
    return functools.cache(lambda family: load_pretrained(ModelSpec((str(folder_of(family)),), "cpu")))


@pytest.fixture(scope="session")
def images() -> Images:
    """Images of different sizes and colours, one of them tiny."""
    sizes = {(40, 50): (255, 20, 20), (64, 24): (20, 255, 60), (1, 3): (10, 10, 250), (100, 90): (255, 255, 255)}
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 40, (*size, 3)) for size in sizes]
    return [
        np.clip(np.array(colour) - each, 0, 255).astype(np.uint8)
        for colour, each in zip(sizes.values(), noise, strict=True)
    ]
