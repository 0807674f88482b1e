"""Captions generated again by a trained captioner."""

from pathlib import Path

import pytest

from seesay.captioners.base import Caption
from seesay.captioners.spec import ModelSpec
from seesay.errors import ConfigError, ImageError
from seesay.review.regeneration import Regenerator
from seesay.serving.errors import ApiError
from tests import tiny


@pytest.fixture
def regenerator(tmp_path: Path) -> Regenerator:
    return Regenerator(ModelSpec((str(tiny.random_run(tmp_path / "run", tiny.untrained())),), device="cpu"))


def test_captions_equal_those_of_the_captioner(regenerator: Regenerator, tmp_path: Path) -> None:
    for seed in range(2):
        tiny.image(seed).save(tmp_path / f"{seed}.png")
    sources = [str(tmp_path / name) for name in ("0.png", "missing.png", "1.png")]
    options = regenerator.options({"strategy": "beam", "beam_size": "4"})
    found = regenerator.caption(sources, options)
    assert isinstance(found[1], ImageError)
    direct = ModelSpec((str(tmp_path / "run"),), device="cpu").load()
    for source, caption in zip(sources[::2], found[::2], strict=True):
        assert isinstance(caption, Caption)
        assert caption.text == direct.caption(source, options).text


def test_a_trained_captioner_takes_no_prompt_and_goes_on_after_one(regenerator: Regenerator) -> None:
    assert not regenerator.takes_prompt
    with pytest.raises(ConfigError, match="takes no prompt"):
        regenerator.caption([], regenerator.defaults, "describe")
    assert regenerator.caption([], regenerator.defaults, "") == []


def test_options_are_those_of_the_service(regenerator: Regenerator) -> None:
    with pytest.raises(ApiError, match="beam_size"):
        regenerator.options({"strategy": "beam", "beam_size": "11"})
    assert regenerator.options({}) == regenerator.defaults
