"""A run with `model.retrieve`: training, its index, resuming, every way to caption with it, and refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seesay.captioners.caption import Caption
from seesay.captioners.ensemble import EnsembleCaptioner
from seesay.captioners.trained import TrainedCaptioner
from seesay.checkpoint import load_run
from seesay.config import DecodingOptions, replace
from seesay.data.annotations import Annotations
from seesay.errors import CheckpointError, ConfigError
from seesay.evaluation.indexing import build_index
from seesay.evaluation.rerank_tuning import tune_rerank
from seesay.explanation.explain import explain, save_explanation
from seesay.export import export_onnx
from seesay.features import JoinedStores
from seesay.retrieval.index import RetrievalIndex, load_index
from seesay.training.inputs import TrainingData, make_inputs
from seesay.training.retrieved import build_training_index, retrieve_captions
from seesay.training.train import train
from seesay.training.validation import check_config
from tests import tiny
from tests.training.outcomes import outcome
from tests.training.test_resume import train_and_fail

K = 3
GREEDY = DecodingOptions()


@pytest.fixture(scope="module")
def settings(weights: Path) -> Any:
    return tiny.cached(weights, retrieve=K, epochs=3, scheduled_sampling=0.2, scheduled_sampling_epochs=1)


@pytest.fixture(scope="module")
def run(settings: Any, colours: Path, features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with retrieved captions. Tests must not modify it."""
    folder = tmp_path_factory.mktemp("retrieved") / "run"
    train(settings, colours, folder, features=features)
    return folder


@pytest.fixture(scope="module")
def captioner(run: Path) -> TrainedCaptioner:
    return TrainedCaptioner.load(run, "cpu")


@pytest.fixture
def index(run: Path) -> RetrievalIndex:
    return load_index(run)


def test_examples_have_the_captions_of_other_similar_images(
    run: Path, index: RetrievalIndex, annotations: Annotations, store: JoinedStores
) -> None:
    tokenizer = load_run(run).tokenizer
    plain = make_inputs(TrainingData(annotations, None, store, "data"), tokenizer)
    built = build_training_index(plain, tokenizer)
    np.testing.assert_array_equal(built.vectors, index.vectors)
    assert built.info == index.info
    assert built.info.calibration == "5 % of 6 validation images are below"
    inputs = retrieve_captions(plain, built.with_similarity(-1.0, "all are like"), K)
    for split in ("train", "val"):
        for example in getattr(inputs, split):
            own = store.read([example.id])[0].astype(np.float32).mean(1)
            places = built.search(built.query(own, [example.id]), K).images[0]
            assert example.id not in [built.ids[place] for place in places]
            wanted = [tuple(caption) for place in places for caption in built.image_captions(int(place))]
            assert [caption for caption in example.retrieved if caption] == wanted
            assert len(example.retrieved) == built.number_of_captions(K)


def test_resuming_equals_uninterrupted_training(
    settings: Any, run: Path, colours: Path, features: Path, tmp_path: Path
) -> None:
    train_and_fail(9, settings, colours, tmp_path / "run", features=features)
    train(settings, colours, tmp_path / "run", features=features)
    assert outcome(tmp_path / "run") == outcome(run)
    assert (tmp_path / "run/retrieval.safetensors").read_bytes() == (run / "retrieval.safetensors").read_bytes()


def test_image_files_and_stored_features_give_the_same_captions(
    captioner: TrainedCaptioner, annotations: Annotations, images: list[str], store: JoinedStores
) -> None:
    ids = [item.id for item in annotations]
    array, _ = store.read(ids)
    stored = captioner.caption_features(torch.from_numpy(array), None, GREEDY, keys=ids, attention=True)
    found = captioner.caption_each(images, GREEDY, attention=True, guard=False)
    for (_, one), other in zip(found, stored, strict=True):
        assert isinstance(one, Caption)
        assert one.text == other.text
        assert one.score == pytest.approx(other.score, abs=1e-4)
        assert one.grid is not None
        assert one.attention is not None
        assert one.attention.shape[1] == one.grid[0] * one.grid[1]
        np.testing.assert_allclose(one.attention.sum(1), 1, atol=1e-5)


def test_an_image_unlike_the_training_images_has_no_retrieved_captions(run: Path, images: list[str]) -> None:
    unlike, without = (TrainedCaptioner.load(run, "cpu") for _ in range(2))
    index = unlike.retrieval
    assert index is not None
    unlike.__dict__["retrieval"] = index.with_similarity(-1.0, "all are like")
    with_captions = unlike.caption(images, GREEDY)
    unlike.__dict__["retrieval"] = index.with_similarity(2.0, "no image is like")
    without.model.retrieved = None
    for found, wanted, other in zip(unlike.caption(images), without.caption(images), with_captions, strict=True):
        assert found.text == wanted.text
        assert found.score == pytest.approx(wanted.score, abs=1e-5)
        assert found.score != pytest.approx(other.score, abs=1e-5)


def test_tuning_keeps_the_index_and_consensus_works(
    run: Path, colours: Path, features: Path, images: list[str], tmp_path: Path
) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    with TrainedCaptioner.load(folder, "cpu") as captioner:
        assert build_index(captioner, colours, features=features) is captioner.retrieval
        tune_rerank(captioner, colours, features=features)
        assert (folder / "retrieval.safetensors").read_bytes() == (run / "retrieval.safetensors").read_bytes()
        assert set(json.loads((folder / "retrieval.json").read_text())["tuned"]) == {"consensus", "mbr"}
        assert captioner.caption(images[0], DecodingOptions(strategy="beam", rerank="consensus")).text


def test_ensembles_retrieve_per_member(captioner: TrainedCaptioner, cached_run: Path, images: list[str]) -> None:
    twice = EnsembleCaptioner([captioner, captioner])
    wanted = captioner.caption(images[:6], GREEDY, attention=True)
    for found, one in zip(twice.caption(images[:6], GREEDY, attention=True), wanted, strict=True):
        assert found.text == one.text
        assert found.score == pytest.approx(one.score, abs=1e-4)
        assert found.attention is not None
        assert one.attention is not None
        np.testing.assert_allclose(found.attention, one.attention, atol=1e-4)
    plain = TrainedCaptioner.load(cached_run, "cpu")
    for members in ([captioner, plain], [plain, captioner]):
        mixed = EnsembleCaptioner(members)
        (found,) = mixed.caption(images[:1], GREEDY, attention=True)
        assert found.attention is not None
        np.testing.assert_allclose(found.attention.sum(1), 1, atol=1e-5)
        assert mixed.retrieve == K


def test_explain_tells_which_captions_were_inputs(
    captioner: TrainedCaptioner, images: list[str], tmp_path: Path
) -> None:
    index = captioner.retrieval
    assert index is not None
    captioner.__dict__["retrieval"] = index.with_similarity(-1.0, "all are like")
    explanation = explain(captioner, images[0])
    captioner.__dict__["retrieval"] = index
    assert [each.is_input for each in explanation.similar] == [True] * K + [False] * (6 - K)
    save_explanation(explanation, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("its captions were inputs of the model") == K


def test_a_second_stage_starts_from_such_a_run(
    settings: Any, run: Path, colours: Path, features: Path, tmp_path: Path
) -> None:
    second = replace(settings, init_from=str(run), scst_weight=0.5, epochs=1, learning_rate=1e-3)
    train(second, colours, tmp_path / "run", features=features)
    weights = TrainedCaptioner.load(tmp_path / "run", "cpu").model.retrieved
    before = TrainedCaptioner.load(run, "cpu").model.retrieved
    assert weights is not None
    assert before is not None
    assert 0 < float((weights.feature.weight - before.feature.weight).detach().abs().max()) < 0.2


def test_what_retrieval_does_not_support_is_refused_in_one_line(run: Path, weights: Path, tmp_path: Path) -> None:
    for mode in ("full", "frozen"):
        with pytest.raises(ConfigError, match=rf"model.retrieve is 3, .*encoder_training={mode} stores none; set it"):
            check_config(tiny.cached(weights, retrieve=3, encoder_training=mode))
    with pytest.raises(ConfigError, match=r"retrieve"):
        tiny.cached(weights, retrieve=51)
    with pytest.raises(ConfigError, match="train without --retrieve to export"):
        export_onnx(run, tmp_path / "onnx")
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "retrieval.json").unlink()
    with pytest.raises(CheckpointError, match=r"trained with model.retrieve but has no retrieval.json"):
        TrainedCaptioner.load(folder, "cpu")
