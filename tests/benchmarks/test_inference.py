import argparse
from pathlib import Path

import pytest

import inference
from bench.images import SQUARE, draw_photographs, encoder_configs, random_encoder
from seesay.decoding import DecodingOptions
from tests import tiny


@pytest.fixture(scope="module")
def captioner() -> inference.RandomCaptioner:
    (config,) = encoder_configs(tiny.ENCODER, "", tiny.SIZE)
    return inference.RandomCaptioner(random_encoder(config))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return draw_photographs(tmp_path_factory.mktemp("images"), SQUARE, 6)


def test_stages_are_all_of_a_captions_time(captioner: inference.RandomCaptioner, files: list[str]) -> None:
    found = inference.measure(captioner, files, argparse.Namespace(rounds=1))
    stages = found["stages_ms"]
    assert set(stages) == set(inference.STAGES)
    assert min(stages.values()) > 0  # the rest too: nothing is counted twice
    assert found["p50_ms"] <= found["p95_ms"]
    assert found["folder_per_s"] > 0


def test_random_captions_end_as_trained_ones_do(captioner: inference.RandomCaptioner, files: list[str]) -> None:
    captions = captioner.caption(files, DecodingOptions("beam", beam_size=5))
    assert all(caption.finished for caption in captions)
    assert 5 < sum(len(caption.words) for caption in captions) / len(captions) < 15


def test_a_captioner_works_without_the_clocks_afterwards(
    captioner: inference.RandomCaptioner, files: list[str]
) -> None:
    spent = dict.fromkeys(inference.STAGES, 0.0)
    with inference.stages_timed(captioner, spent):
        timed = captioner.caption(Path(files[0]), inference.BEAM)
    before = dict(spent)
    assert [stage for stage, time in before.items() if time == 0] == ["the rest"]
    assert captioner.caption(Path(files[0]), inference.BEAM) == timed
    assert dict(spent) == before
