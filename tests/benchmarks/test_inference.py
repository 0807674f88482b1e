import argparse
from pathlib import Path

import pytest

import inference
from bench.images import SQUARE, draw_images, encoder_configs, random_encoder
from seesay.decoding import DecodingOptions
from tests import tiny


@pytest.fixture(scope="module")
def captioner() -> inference.RandomCaptioner:
    (config,) = encoder_configs(tiny.ENCODER, "", tiny.SIZE)
    return inference.RandomCaptioner(random_encoder(config))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return draw_images(tmp_path_factory.mktemp("images"), SQUARE, 6)


def test_stages_add_up_to_a_captions_time(captioner: inference.RandomCaptioner, files: list[str]) -> None:
    result = inference.measure(captioner, files, argparse.Namespace(rounds=1))
    stages = result["stages_ms"]
    assert set(stages) == set(inference.STAGES)
    assert min(stages.values()) > 0  # "other" too: nothing is counted twice
    assert result["p50_ms"] <= result["p95_ms"]
    assert result["folder_per_s"] > 0


def test_random_captions_have_realistic_lengths(captioner: inference.RandomCaptioner, files: list[str]) -> None:
    captions = captioner.caption(files, DecodingOptions(strategy="beam", beam_size=5), guard=False)
    assert all(caption.finished for caption in captions)
    assert 5 < sum(len(caption.words) for caption in captions) / len(captions) < 15


def test_timing_is_removed_afterwards(captioner: inference.RandomCaptioner, files: list[str]) -> None:
    spent = dict.fromkeys(inference.STAGES, 0.0)
    with inference.stages_timed(captioner, spent):
        timed = captioner.caption(Path(files[0]), inference.BEAM)
    before = dict(spent)
    assert [stage for stage, time in before.items() if time == 0] == ["other"]
    assert captioner.caption(Path(files[0]), inference.BEAM) == timed
    assert dict(spent) == before
