"""Captions generated again by a trained captioner."""

from pathlib import Path

import pytest

from seesay.captioners import load_captioner
from seesay.captioners.caption import Caption
from seesay.errors import ConfigError, ImageError
from seesay.review.regeneration import Regenerator
from seesay.serving.errors import ApiError
from tests import tiny


@pytest.fixture
def regenerator(tmp_path: Path) -> Regenerator:
    return Regenerator(load_captioner(tiny.random_run(tmp_path / "run", tiny.untrained()), "cpu"))


def test_captions_equal_those_of_the_captioner(regenerator: Regenerator, tmp_path: Path) -> None:
    for seed in range(2):
        tiny.image(seed).save(tmp_path / f"{seed}.png")
    sources = [str(tmp_path / name) for name in ("0.png", "missing.png", "1.png")]
    options = regenerator.options({"strategy": "beam", "beam_size": "4"})
    found = regenerator.caption(sources, options)
    assert isinstance(found[1], ImageError)
    direct = load_captioner(tmp_path / "run", "cpu")
    for source, caption in zip(sources[::2], found[::2], strict=True):
        assert isinstance(caption, Caption)
        assert caption.text == direct.caption(source, options).text


def test_a_trained_captioner_takes_no_prompt_and_works_after_one(regenerator: Regenerator) -> None:
    assert not regenerator.captioner.takes_prompts
    with pytest.raises(ConfigError, match="takes no prompt"):
        regenerator.caption([], None, "describe")
    assert regenerator.caption([], None, "") == []


def test_options_are_those_of_the_service(regenerator: Regenerator) -> None:
    with pytest.raises(ApiError, match="beam_size"):
        regenerator.options({"strategy": "beam", "beam_size": "11"})
    assert regenerator.options({}) == regenerator.captioner.defaults
