"""An output records the model and options that made it, and a job that differs warns."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from seesay.bulk import Destination, caption_collection, ray_engine
from seesay.bulk.ray_engine import Cluster, caption_on_ray, describe_models
from seesay.captioners.identity import identify_folder
from seesay.captioners.spec import ModelSpec
from seesay.captioners.trained import TrainedCaptioner
from seesay.config import DecodingOptions
from seesay.errors import DataError
from tests import tiny
from tests.captioners.scripted import ScriptedCaptioner

BEAM = DecodingOptions(strategy="beam", beam_size=2)


@pytest.fixture(scope="module")
def captioner(cached_run: Path) -> TrainedCaptioner:
    return TrainedCaptioner.load(cached_run, "cpu")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> TrainedCaptioner:
    return TrainedCaptioner.load(tiny.random_run(tmp_path_factory.mktemp("other") / "run", tiny.untrained()), "cpu")


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Log lines of seesay, each once, even if an earlier test has configured its logger."""
    monkeypatch.setattr(logging.getLogger("seesay"), "propagate", False)
    monkeypatch.setattr(logging.getLogger("seesay"), "handlers", [caplog.handler])
    return caplog


def recipes(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(out.with_name(f"{out.name}.recipe.json").read_text())["seesay_recipes"]
    return found


@pytest.mark.parametrize("name", ["c.jsonl", "c.csv", "c.tsv", "c.parquet"])
def test_output_records_its_model_and_options_and_warns_about_others(
    captioner: TrainedCaptioner,
    other: TrainedCaptioner,
    images: list[str],
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
    name: str,
) -> None:
    # Bug: a resumed job mixed captions of two models or searches in one file without a warning.
    out = tmp_path / name
    caption_collection(captioner, images[:2], Destination(out))
    caption_collection(captioner, images[:4], Destination(out))
    assert log.messages == []
    (recorded,) = recipes(out)
    folder = captioner.run.folder
    assert recorded["models"] == [asdict(identify_folder(folder))]
    assert recorded["decoding"]["strategy"] == "greedy"
    assert recorded["decoding"]["max_length"] == captioner.run.info.max_length
    with pytest.raises(DataError, match=r"another model or other options \(model .*, now .*; choose another --out"):
        caption_collection(other, images[:6], Destination(out, strict=True))
    caption_collection(captioner, images[:5], Destination(out, strict=True))
    assert len(recipes(out)) == 1
    caption_collection(captioner, images[:6], Destination(out), BEAM)
    (warning,) = log.messages
    assert "strategy greedy, now beam; beam_size 3, now 2); captions of 1 more images are added" in warning
    assert [each["decoding"]["strategy"] for each in recipes(out)] == ["greedy", "beam"]


def test_output_without_a_recipe_warns_or_fails(
    captioner: TrainedCaptioner, images: list[str], tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "c.jsonl"
    caption_collection(captioner, images[:1], Destination(out))
    Path(f"{out}.recipe.json").unlink()
    with pytest.raises(DataError, match=r"\(not recorded\)"):
        caption_collection(captioner, images[:2], Destination(out, strict=True))
    caption_collection(captioner, images[:2], Destination(out))
    caption_collection(captioner, images[:2], Destination(out))
    assert ["not recorded" in line for line in log.messages] == [True, True]
    out.unlink()
    caption_collection(captioner, images[:1], Destination(out, strict=True))
    assert len(recipes(out)) == 1


def test_another_file_in_place_of_the_recipe_is_not_replaced(
    captioner: TrainedCaptioner, images: list[str], tmp_path: Path
) -> None:
    foreign = tmp_path / "c.jsonl.recipe.json"
    foreign.write_text('{"pancakes": 3}')
    with pytest.raises(DataError, match=r"c\.jsonl\.recipe\.json is not a recipe file"):
        caption_collection(captioner, images[:1], Destination(tmp_path / "c.jsonl"))
    assert foreign.read_text() == '{"pancakes": 3}'


def test_ray_records_the_same_recipe_as_the_local_engine(
    captioner: TrainedCaptioner, images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, spec = tmp_path / "c.parquet", ModelSpec((str(captioner.run.folder),))
    caption_collection(captioner, images[:2], Destination(out))
    monkeypatch.setattr(ray_engine, "_run", lambda *_: (_ for _ in list[object]()))  # no worker is started
    same, beam = describe_models(spec, lambda defaults: defaults), describe_models(spec, lambda _: BEAM)
    caption_on_ray(spec, images[:4], Destination(out, strict=True), same, Cluster())
    with pytest.raises(DataError, match="strategy greedy, now beam"):
        caption_on_ray(spec, images[:4], Destination(out, strict=True), beam, Cluster())


def test_ray_records_the_same_settings_of_reranking(
    indexed_run: Path, images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Bug: it recorded 0 candidates instead of those of the index, so that a job on both engines warned.
    out, spec = tmp_path / "c.parquet", ModelSpec((str(indexed_run),))
    options = DecodingOptions(strategy="beam", rerank="consensus")
    caption_collection(TrainedCaptioner.load(indexed_run, "cpu"), images[:2], Destination(out), options)
    monkeypatch.setattr(ray_engine, "_run", lambda *_: (_ for _ in list[object]()))  # no worker is started
    recipe = describe_models(spec, lambda _: options)
    assert (recipe.options.rerank_candidates, recipe.options.rerank_neighbours) == (6, 4)
    caption_on_ray(spec, images[:4], Destination(out, strict=True), recipe, Cluster())


def test_another_prompt_is_another_recipe(tmp_path: Path, images: list[str], log: pytest.LogCaptureFixture) -> None:
    class Prompted(ScriptedCaptioner):
        prompt_text = ""

    captioner, out = Prompted({Path(path).stem: ["A dog."] for path in images[:3]}), tmp_path / "c.jsonl"
    for count, prompt in enumerate(("Describe it.", "Describe it.", "Name it."), start=1):
        captioner.prompt_text = prompt
        caption_collection(captioner, images[:count], Destination(out))
    assert [recipe["prompt"] for recipe in recipes(out)] == ["Describe it.", "Name it."]
    (warning,) = log.messages
    assert "prompt Describe it., now Name it." in warning
