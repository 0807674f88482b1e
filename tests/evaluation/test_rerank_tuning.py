"""Reranking of a run from the command to the captions: the index, the tuned settings, every way to caption."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from seesay.captioners.caption import Caption
from seesay.captioners.ensemble import EnsembleCaptioner
from seesay.captioners.trained import TrainedCaptioner
from seesay.cli.main import main
from seesay.config import DecodingOptions, changed_decoding
from seesay.data.annotations import Annotations
from seesay.errors import CheckpointError, ConfigError, DataError
from seesay.evaluation import rerank_tuning
from seesay.evaluation.indexing import build_index
from seesay.evaluation.rerank_tuning import (
    CANDIDATES,
    NEIGHBOURS,
    WEIGHTS,
    RerankTrial,
    best_candidates,
    best_trials,
    tune_rerank,
)
from seesay.explanation.explain import explain, save_explanation
from seesay.metrics.cider import Cider
from seesay.retrieval.index import TunedRerank, load_index
from seesay.retrieval.rerank import search_options
from tests import tiny

PLAIN = DecodingOptions(strategy="beam", beam_size=6, num_return_sequences=6)
CONSENSUS = DecodingOptions(
    strategy="beam",
    rerank="consensus",
    rerank_candidates=6,
    rerank_neighbours=4,
    rerank_weight=1.0,
    rerank_similarity=-1.0,
)


@pytest.fixture(scope="module")
def tuning(
    tmp_path_factory: pytest.TempPathFactory, cached_run: Path, colours: Path
) -> tuple[Path, Sequence[RerankTrial]]:
    """A copy of a run with an index, and the trials of its tuning."""
    folder = shutil.copytree(cached_run, tmp_path_factory.mktemp("tuned") / "run")
    with TrainedCaptioner.load(folder, "cpu") as captioner:
        trials = tune_rerank(captioner, colours, features=cached_run.parent / "features")
    return folder, trials


@pytest.fixture(scope="module")
def tuned(tuning: tuple[Path, Sequence[RerankTrial]]) -> Path:
    return tuning[0]


@pytest.fixture(scope="module")
def trials(tuning: tuple[Path, Sequence[RerankTrial]]) -> Sequence[RerankTrial]:
    return tuning[1]


@pytest.fixture(scope="module")
def captioner(tuned: Path) -> TrainedCaptioner:
    return TrainedCaptioner.load(tuned, "cpu")


def texts(captions: Sequence[Caption]) -> list[str]:
    return [caption.text for caption in captions]


class TestTuning:
    def test_trials_cover_the_grid_and_the_best_are_stored(
        self, tuned: Path, captioner: TrainedCaptioner, trials: Sequence[RerankTrial]
    ) -> None:
        sizes = sorted({trial.settings.candidates for trial in trials})
        assert tuple(sizes) == CANDIDATES[: len(sizes)]
        assert len(trials) == len(sizes) * (1 + len(WEIGHTS) * (1 + len(NEIGHBOURS)))
        assert [trial.cider for trial in trials] == sorted((trial.cider for trial in trials), reverse=True)
        stored = json.loads((tuned / "retrieval.json").read_text())
        for kind in ("consensus", "mbr"):
            best = next(trial for trial in trials if trial.kind == kind)
            assert stored["tuned"][kind] == vars(best.settings)
        assert len(best_trials(trials)) == len(sizes) * (2 + len(NEIGHBOURS))
        assert captioner.retrieval is not None
        assert captioner.retrieval.info.tuned["mbr"].neighbours == 0

    @pytest.mark.parametrize(("best", "sizes"), [(5, (5, 10, 20)), (20, (5, 10, 20, 40)), (80, (5, 10, 20, 40, 80))])
    def test_wider_beams_are_tried_while_they_are_better(
        self,
        cached_run: Path,
        colours: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        best: int,
        sizes: tuple[int, ...],
    ) -> None:
        def rated(index: object, query: object, candidates: object, size: int) -> list[RerankTrial]:
            return [RerankTrial(kind, TunedRerank(size), -abs(size - best)) for kind in ("consensus", "mbr")]

        monkeypatch.setattr(rerank_tuning, "_trials", rated)
        monkeypatch.setattr(rerank_tuning, "_search", lambda *_: [])
        monkeypatch.setattr(rerank_tuning, "_score", lambda *_: None)
        run = shutil.copytree(cached_run, tmp_path / "run")
        with TrainedCaptioner.load(run, "cpu") as captioner:
            found = tune_rerank(captioner, colours, features=cached_run.parent / "features")
        assert {trial.settings.candidates for trial in found} == set(sizes)

    def test_of_equal_numbers_of_candidates_the_smaller_is_the_best(self) -> None:
        assert best_candidates([RerankTrial("consensus", TunedRerank(size), 50.0) for size in (10, 20)]) == 10

    def test_the_cider_of_a_trial_is_that_of_captioning_with_its_settings(
        self, captioner: TrainedCaptioner, trials: Sequence[RerankTrial], annotations: Annotations
    ) -> None:
        items = annotations.split("val").items
        words: dict[str, int] = {}
        ids = [[[words.setdefault(w, len(words)) for w in c.split()] for c in item.captions] for item in items]
        for trial in (trials[0], trials[-1], *(t for t in best_trials(trials) if t.kind != "consensus")):
            kind, size = trial.kind, trial.settings.candidates
            options = DecodingOptions(strategy="beam", beam_size=size)
            if kind != "none":
                options = options.replace(
                    rerank=kind, rerank_candidates=size, rerank_weight=trial.settings.weight,
                    **({"rerank_neighbours": trial.settings.neighbours} if kind == "consensus" else {}),
                )  # fmt: skip
            found = captioner.caption([item.image for item in items], options)
            tokens = [[words.setdefault(w, len(words)) for w in caption.words] for caption in found]
            assert 100 * Cider(ids).score(tokens).mean() == pytest.approx(trial.cider, rel=1e-6)

    def test_other_captions_than_those_of_the_training_are_an_error(
        self, captioner: TrainedCaptioner, tmp_path: Path
    ) -> None:
        tiny.make_colours(tmp_path, train=5, val=2, test=0)
        with pytest.raises(DataError, match="was trained on other captions than those of"):
            build_index(captioner, tmp_path)

    def test_a_trained_encoder_is_indexed_and_its_later_weights_are_noticed(
        self, loop_run: Path, colours: Path, tmp_path: Path, images: list[str]
    ) -> None:
        folder = shutil.copytree(loop_run, tmp_path / "run")
        index = build_index(TrainedCaptioner.load(folder, "cpu"), colours)
        assert len(index.ids) == 24
        index.save(folder)
        assert texts(TrainedCaptioner.load(folder, "cpu").caption(images[:2], CONSENSUS))
        with (folder / "model.safetensors").open("ab") as file:
            file.write(b" ")
        captioner = TrainedCaptioner.load(loop_run, "cpu")
        captioner.run = replace(captioner.run, folder=folder)
        with pytest.raises(CheckpointError, match="of another encoder or of earlier weights"):
            captioner.caption(images[:2], CONSENSUS)


class TestConsensus:
    def test_the_chosen_caption_is_closest_to_the_neighbours_captions(
        self, captioner: TrainedCaptioner, tuned: Path, images: list[str], annotations: Annotations
    ) -> None:
        """A plain loop over candidates, neighbours and their captions, with the CIDEr of seesay.metrics."""
        index = load_index(tuned)
        tokenizer = captioner.run.tokenizer
        training = [
            [tokenizer.encode(caption)[1:-1] for caption in item.captions] for item in annotations.split("train")
        ]
        cider = Cider(training)
        chosen = captioner.caption(images, CONSENSUS)
        plain = captioner.caption(images, PLAIN)
        differing = 0
        for image, found, before in zip(images, chosen, plain, strict=True):
            pooled = captioner.pooled_features([captioner.load_inputs(image)])
            nearest = index.search(index.query(pooled, [image]), 4)
            assert image not in [index.paths[place] for place in nearest.images[0][np.isfinite(nearest.similarity[0])]]
            gains = []
            for candidate in (before, *before.alternatives):
                tokens = tokenizer.encode(candidate.text)[1:-1]
                scores = [
                    (cider.score([tokens], [int(place)])[0], len(training[place]))
                    for place, similarity in zip(nearest.images[0], nearest.similarity[0], strict=True)
                    if np.isfinite(similarity)
                ]
                gains.append(sum(score * weight for score, weight in scores) / sum(weight for _, weight in scores))
            candidates = texts((before, *before.alternatives))
            # Of captions that are equally similar, rounding selects one.
            assert gains[candidates.index(found.text)] == pytest.approx(max(gains), rel=1e-9)
            differing += found.text != before.text
        assert differing > 0, "the same captions would prove nothing"

    def test_all_ways_to_caption_agree(
        self, captioner: TrainedCaptioner, images: list[str], annotations: Annotations, store: object
    ) -> None:
        import torch

        wanted = captioner.caption(images, CONSENSUS)
        assert texts([captioner.caption(image, CONSENSUS) for image in images]) == texts(wanted)
        ensemble = EnsembleCaptioner([captioner, captioner])
        assert texts(ensemble.caption(images, CONSENSUS)) == texts(wanted)
        ids = [item.id for item in annotations]
        features, _ = store.read(ids)  # type: ignore[attr-defined]
        stored = captioner.caption_features(torch.from_numpy(features), None, CONSENSUS, keys=ids)
        assert texts(stored) == texts(wanted)
        reordered = list(captioner.caption_each(images[::-1], CONSENSUS, batch_size=5))
        assert texts([caption for _, caption in reordered[::-1] if isinstance(caption, Caption)]) == texts(wanted)

    def test_an_ensemble_uses_the_index_of_the_first_member_that_has_one(
        self, captioner: TrainedCaptioner, cached_run: Path, images: list[str]
    ) -> None:
        without = TrainedCaptioner.load(cached_run, "cpu")
        found = EnsembleCaptioner([without, captioner]).caption(images[:8], CONSENSUS)
        assert texts(found) == texts(captioner.caption(images[:8], CONSENSUS))

    def test_several_captions_are_the_best_of_the_same_order(
        self, captioner: TrainedCaptioner, images: list[str]
    ) -> None:
        options = CONSENSUS.replace(num_return_sequences=3, beam_size=3)
        for one, several in zip(captioner.caption(images, CONSENSUS), captioner.caption(images, options), strict=True):
            assert several.text == one.text
            assert len({*texts([several]), *texts(several.alternatives)}) == 3

    def test_attention_and_scores_are_those_of_the_chosen_caption(
        self, captioner: TrainedCaptioner, images: list[str]
    ) -> None:
        for image in images[:6]:
            chosen = captioner.caption(image, CONSENSUS, attention=True, top_tokens=2)
            plain = captioner.caption(image, PLAIN, attention=True, top_tokens=2)
            same = next(each for each in (plain, *plain.alternatives) if each.text == chosen.text)
            assert chosen.score == pytest.approx(same.score, rel=1e-5)
            assert chosen.attention is not None
            assert same.attention is not None
            np.testing.assert_allclose(chosen.attention, same.attention, atol=1e-5)
            assert [place[0][0] for place in chosen.top_tokens] == [place[0][0] for place in same.top_tokens]

    def test_images_unlike_the_training_images_keep_the_model_s_caption(
        self, captioner: TrainedCaptioner, images: list[str]
    ) -> None:
        never = captioner.caption(images, CONSENSUS.replace(rerank_similarity=1.0))
        assert texts(never) == texts(captioner.caption(images, PLAIN))
        assert texts(never) != texts(captioner.caption(images, CONSENSUS))

    def test_tuned_settings_are_used_where_none_are_passed(self, captioner: TrainedCaptioner) -> None:
        assert captioner.retrieval is not None
        best = captioner.retrieval.info.tuned["consensus"]
        found = captioner.options(DecodingOptions(strategy="beam", rerank="consensus"))
        assert (found.rerank_candidates, found.rerank_neighbours, found.rerank_weight) == (
            best.candidates, best.neighbours, best.weight,
        )  # fmt: skip
        assert captioner.options(CONSENSUS).rerank_neighbours == 4
        assert captioner.options().rerank == "none"

    def test_a_run_without_an_index_names_the_command(self, cached_run: Path, images: list[str]) -> None:
        without = TrainedCaptioner.load(cached_run, "cpu")
        with pytest.raises(ConfigError, match="has no index of training images; build one with seesay evaluate"):
            without.caption(images[0], CONSENSUS)
        with pytest.raises(ConfigError, match="has no index"):
            without.check(CONSENSUS)
        assert without.caption(images[0], DecodingOptions(strategy="beam", rerank="mbr")).text


def test_explain_shows_similar_training_images(
    captioner: TrainedCaptioner, cached_run: Path, annotations: Annotations, tmp_path: Path
) -> None:
    item = annotations.split("train").items[0]
    explanation = explain(captioner, item.image)
    assert len(explanation.similar) == 6
    assert item.id not in [each.id for each in explanation.similar]
    captions = {each.id: each.captions for each in annotations.split("train")}
    assert all(each.captions == captions[each.id] for each in explanation.similar)
    similarities = [each.similarity for each in explanation.similar]
    assert similarities == sorted(similarities, reverse=True)
    save_explanation(explanation, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Similar training images" in page
    assert f"similarity {similarities[0]:.2f}" in page
    assert explain(TrainedCaptioner.load(cached_run, "cpu"), item.image).similar == ()
    gone = replace(explanation.similar[0], path="gone.png")
    assert gone.card() is None


def test_options_that_nothing_reads_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"rerank is 'mbr', which only a beam search reads; add --strategy beam"):
        DecodingOptions(rerank="mbr")
    with pytest.raises(
        ConfigError, match=r"rerank_neighbours is 5, which only consensus reranking reads; add --rerank"
    ):
        DecodingOptions(strategy="beam", rerank="mbr", rerank_neighbours=5)
    assert CONSENSUS.with_strategy("greedy") == DecodingOptions()


@pytest.mark.parametrize("strategy", ["greedy", "sample"])
def test_reranking_selects_the_beam_search(strategy: Literal["greedy", "sample"]) -> None:
    run = DecodingOptions().with_strategy(strategy)
    chosen = changed_decoding(run, {"rerank": "mbr", "rerank_candidates": 8, "num_return_sequences": 7})
    assert (chosen.strategy, chosen.rerank) == ("beam", "mbr")
    assert search_options(chosen).beam_size == 8
    assert search_options(chosen.replace(num_return_sequences=9)).beam_size == 9
    with pytest.raises(ConfigError, match=r"^rerank is read by strategy beam only; the strategy is greedy$"):
        changed_decoding(run, {"rerank": "mbr", "strategy": "greedy"})
    assert changed_decoding(chosen, {"strategy": "greedy"}) == DecodingOptions(num_return_sequences=7)


class TestCommands:
    def test_tune_then_evaluate_with_and_without(
        self, tuned: Path, colours: Path, features: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        shared = [str(colours), "--features", str(features), "--device", "cpu"]
        assert main(["evaluate", str(tuned), *shared, "--tune-rerank"]) == 0
        printed = capsys.readouterr().out
        assert "24 training images indexed" in printed
        assert "chosen for --rerank consensus: " in printed
        arguments = ["--metrics", "CIDEr", "--draws", "10", "--rerank", "consensus"]
        assert main(["evaluate", str(tuned), *shared, *arguments, "--out", str(tmp_path / "out")]) == 0
        assert "rerank=consensus" in capsys.readouterr().out
        assert main(["evaluate", str(tuned), *shared, "--strategy", "greedy", "--rerank", "consensus"]) == 2
        error = capsys.readouterr().err
        assert error == "seesay: error: --rerank is read by --strategy beam only; the strategy is greedy\n"

    def test_knn_copies_captions_of_training_images(
        self,
        colours: Path,
        features: Path,
        annotations: Annotations,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        store = next(features.glob("*.safetensors"))
        arguments = ["evaluate", "knn", str(colours), "--store", str(store), "--rerank-neighbours", "3"]
        assert main([*arguments, "--metrics", "CIDEr", "--draws", "10", "--out", str(tmp_path / "out")]) == 0
        assert "captions:knn(3)" in capsys.readouterr().out
        rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
        training = {caption for item in annotations.split("train") for caption in item.captions}
        assert len(rows) == 6
        assert {row["caption"] for row in rows} <= training

    def test_flags_that_tuning_does_not_read_are_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["evaluate", "runs/mine", "data/mine", "--tune-rerank", "--split", "test"]) == 2
        assert "drop --human, --out, --split and --metrics" in capsys.readouterr().err

    def test_flags_of_the_encoder_are_for_knn(
        self, tuned: Path, colours: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["evaluate", str(tuned), str(colours), "--encoder", "resnet18"]) == 2
        assert "--encoder is for knn" in capsys.readouterr().err
