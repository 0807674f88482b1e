import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seesay.bulk import Destination
from seesay.captioners.trained import TrainedCaptioner
from seesay.checkpoint import load_run, read_run, save_info, save_used_images, used_images
from seesay.config import DataConfig, DecodingOptions
from seesay.data.annotations import Annotation, Annotations, Box, load_annotations, load_dataset, write_annotations
from seesay.data.synthetic.scenes import make_scenes
from seesay.errors import CheckpointError, ConfigError, DataError, FeatureStoreError
from seesay.evaluation import captioning, evaluate, evaluate_human, read_predictions, save_evaluation, scoring
from seesay.evaluation.clipscore import ClipScorer
from seesay.evaluation.comparison import compare
from seesay.evaluation.eval_split import read_eval_split
from seesay.evaluation.evaluators import unfinished_runs
from seesay.features import JoinedStores, extract_features
from seesay.metrics import compute_metrics
from seesay.metrics.meteor import Meteor
from seesay.metrics.scores import missing_meteor
from seesay.training.train import train
from tests import foreign, tiny
from tests.bulk import outputs as written


def as_coco(path: Path, predictions: dict[str, str]) -> Path:
    path.write_text(json.dumps([{"image_id": name, "caption": text} for name, text in predictions.items()]))
    return path


def as_mapping(path: Path, predictions: dict[str, str]) -> Path:
    path.write_text(json.dumps(predictions))
    return path


def as_jsonl(path: Path, predictions: dict[str, str]) -> Path:
    lines = [json.dumps({"id": name, "caption": text}, ensure_ascii=False) for name, text in predictions.items()]
    path.write_text("\ufeff" + "\n\n".join(lines), encoding="utf-8")
    return path


def as_csv(path: Path, predictions: dict[str, str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("file_name", "extra", "text"), *((f"{n}.png", 1, t) for n, t in predictions.items())]
        )
    return path


def as_captioned(path: Path, predictions: dict[str, str], alternatives: tuple[str, ...] = ()) -> Path:
    """Writes predictions like `seesay caption --out`; the second part of a Parquet folder is unfinished."""
    output = Destination(path).output(1 + len(alternatives), lambda _: True)
    assert output is not None
    rows = [(f"photos/{name}.png", written.caption(text, *alternatives)) for name, text in predictions.items()]
    output.create()
    output.open()
    output.write(rows[:2])
    output.close()
    output.write(rows[2:])
    return path


def as_alternatives(path: Path, predictions: dict[str, str]) -> Path:
    return as_captioned(path, predictions, ("another", "a third"))


FORMATS = [
    *((as_coco, "p.json"), (as_mapping, "p.json"), (as_jsonl, "p.jsonl"), (as_csv, "p.csv")),
    # Bug: of the outputs of `caption` only .jsonl and .csv with one caption per image could be read.
    *(
        (write, f"c.{suffix}")
        for write in (as_captioned, as_alternatives)
        for suffix in ("jsonl", "csv", "tsv", "parquet")
    ),
]


def test_resplit_data_is_scored_on_the_test_images_of_training(colours: Path) -> None:
    config = DataConfig(resplit=True, split_fractions="50/25/25", split_seed=3)
    split = load_dataset(colours, config).split("test")
    eval_split = read_eval_split(colours, None, config)
    assert eval_split.items == split.items
    assert {item.id for item in split} != {item.id for item in load_dataset(colours, DataConfig()).split("test")}


def test_missing_images_do_not_change_the_split(tmp_path: Path) -> None:
    # Bug: training split the existing images, evaluation all images with captions.
    rows = "".join(f"{number}.jpg,caption {number}\n" for number in range(40))
    (tmp_path / "captions.csv").write_text(f"image,caption\n{rows}")
    for number in range(37):
        (tmp_path / f"{number}.jpg").touch()
    config = DataConfig(split_seed=1)
    assert read_eval_split(tmp_path, None, config).items == load_dataset(tmp_path, config).split("test").items
    for path in tmp_path.glob("*.jpg"):
        path.unlink()
    assert len(read_eval_split(tmp_path, None, config).items) == 4


class TestChangedData:
    """Data without splits whose images have changed since the run was trained."""

    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        self.write(tmp_path, range(40))
        return tmp_path

    @staticmethod
    def write(folder: Path, numbers: Iterable[int]) -> None:
        rows = "".join(f"{number}.jpg,caption {number}\n" for number in numbers)
        (folder / "captions.csv").write_text(f"image,caption\n{rows}")
        for number in numbers:
            (folder / f"{number}.jpg").touch()

    @staticmethod
    def used(data: Path, config: DataConfig) -> dict[str, str]:
        splits = load_dataset(data, config)
        return {item.id: split for split in ("train", "val") for item in splits.split(split)}

    @pytest.mark.parametrize("numbers", [range(39), range(1, 40), range(50), [*range(20), *range(30, 60)]])
    def test_no_image_of_training_is_scored(self, data: Path, numbers: Sequence[int]) -> None:
        # Bug: another random split was drawn, so that the test images included training images.
        config = DataConfig()
        used = self.used(data, config)
        self.write(data, numbers)
        found = read_eval_split(data, None, config, used=used)
        assert {item.id for item in found.items} == {f"{number}.jpg" for number in numbers} - used.keys()
        assert found.split == "test (images that training did not use)"
        assert found.training is not None
        val = read_eval_split(data, "val", config, used=used)
        assert {item.id for item in val.items} <= {image for image, split in used.items() if split == "val"}

    def test_unchanged_data_and_a_limited_training(self, data: Path) -> None:
        for config in (DataConfig(), DataConfig(limit_images=9)):
            used = self.used(data, config)
            found = read_eval_split(data, None, config, used=used)
            assert found == read_eval_split(data, None, config)
            assert found.split == "test (split 80/10/10, seed 0)"

    def test_data_of_others_is_scored_entirely(self, data: Path) -> None:
        used = {"elsewhere.jpg": "train"}
        assert len(read_eval_split(data, None, DataConfig(), used=used).items) == 40

    def test_training_images_in_a_split_of_the_data_are_reported(self, colours: Path) -> None:
        items = read_eval_split(colours, "test").items
        found = read_eval_split(colours, "test", used={items[0].id: "train", items[1].id: "val"})
        assert f"2 of the {len(items)} images were used in training; the scores are too high" in found.problems
        assert read_eval_split(colours, "train", used={items[0].id: "train"}).problems == ()


def test_a_run_records_the_images_that_it_uses(cached_run: Path, annotations: Annotations, tmp_path: Path) -> None:
    used = used_images([cached_run, tmp_path])
    for split in ("train", "val"):
        assert [image for image in used if used[image] == split] == [item.id for item in annotations.split(split)]
    save_used_images(tmp_path, {"train": ["a"], "val": ["b"]})
    other = tmp_path / "other"
    other.mkdir()
    save_used_images(other, {"train": ["b"], "val": ["a"]})
    assert used_images([tmp_path, other]) == {"a": "train", "b": "train"}
    (tmp_path / "images.json").write_text("[]")
    with pytest.raises(CheckpointError, match="is damaged"):
        used_images([tmp_path])


def test_an_unfinished_run_is_reported(cached_run: Path, tmp_path: Path) -> None:
    # Bug: it was scored like a finished one.
    run = shutil.copytree(cached_run, tmp_path / "run")
    assert unfinished_runs([run]) == []
    info = read_run(run).info
    save_info(run, replace(info, progress={"epochs": 3, "finished": False}))
    assert unfinished_runs([run]) == [f"the training of {run} is not finished: 3 of 20 epochs"]


@pytest.fixture(scope="module")
def predictions(annotations: Annotations) -> dict[str, str]:
    """Predictions for the test split: some correct, some wrong, one empty."""
    texts = {item.id: item.captions[index % len(item.captions)] for index, item in enumerate(annotations.split("test"))}
    names = list(texts)
    return {**texts, names[0]: "red beside, red", names[1]: "", names[2]: "two\u2028words"}


class TestRuns:
    def test_scores_are_those_of_the_generated_captions(
        self, cached_run: Path, colours: Path, features: Path, annotations: Annotations
    ) -> None:
        """Captions from the store equal captions from the files, as in `seesay caption`."""
        result = evaluate(cached_run, colours, features=features, device="cpu")
        items = annotations.split("test").items
        captioner = TrainedCaptioner.load(cached_run, "cpu")
        captions = [caption.text for caption in captioner.caption([item.image for item in items])]
        assert result.predictions == {item.id: text for item, text in zip(items, captions, strict=True)}
        wanted = compute_metrics(captions, [item.captions for item in items])
        assert result.scores.corpus == wanted.corpus
        assert result.scores.signature == wanted.signature
        assert (result.split, result.decoding, result.problems) == ("test", captioner.options(), ())
        named = {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"}
        assert set(result.scores.corpus) == named | ({"METEOR"} if not missing_meteor("ptb") else set())

    def test_beam_finds_captions_at_least_as_likely(self, cached_run: Path, colours: Path, features: Path) -> None:
        options = DecodingOptions(strategy="beam", beam_size=4, length_penalty=0.0, max_length=12)
        result = evaluate(cached_run, colours, split="train", options=options, features=features, device="cpu")
        assert result.decoding == options
        images = [item.image for item in load_annotations(colours).split("train")]
        captioner = TrainedCaptioner.load(cached_run, "cpu")
        beam, greedy = (captioner.caption(images, decoding) for decoding in (options, options.with_strategy("greedy")))
        assert list(result.predictions.values()) == [caption.text for caption in beam]
        assert [caption.text for caption in beam] != [caption.text for caption in greedy]
        assert sum(a.score >= b.score - 1e-4 for a, b in zip(beam, greedy, strict=True)) >= len(images) - 1

    def test_a_run_with_an_uncached_encoder_reads_the_images(
        self, loop_run: Path, colours: Path, tmp_path: Path
    ) -> None:
        result = evaluate(loop_run, colours, split="validation", features=tmp_path / "features", device="cpu")
        assert len(result.predictions) == 6
        assert not (tmp_path / "features").exists()

    def test_captions_that_are_kept_give_the_same_scores(self, loop_run: Path, colours: Path, tmp_path: Path) -> None:
        splits: list[str] = []
        progress: list[tuple[int, int]] = []

        def unfinished(split: str) -> Path:
            splits.append(split)
            return tmp_path / "kept" / captioning.CAPTIONS_FILE

        wanted = evaluate(loop_run, colours, split="val", device="cpu", draws=20)
        for _ in range(2):  # the second time from the file alone
            found = evaluate(
                loop_run,
                colours,
                split="val",
                device="cpu",
                draws=20,
                unfinished=unfinished,
                progress=lambda done, total: progress.append((done, total)),
            )
            assert found.to_dict() == wanted.to_dict()
            assert found.predictions == wanted.predictions
            for image_id, caption in wanted.captions.items():
                kept = found.captions[image_id]
                assert (kept.text, kept.words, kept.finished) == (caption.text, caption.words, caption.finished)
                assert kept.log_probs == pytest.approx(caption.log_probs, abs=1e-6)
                assert kept.score == pytest.approx(caption.score, abs=1e-6)
        assert splits == ["val", "val"]
        assert progress == [(0, 6), (6, 6), (6, 6)]

    def test_only_the_images_of_the_split_are_encoded(self, cached_run: Path, colours: Path, tmp_path: Path) -> None:
        """Bug: scoring the test split encoded all images of the data set."""
        data = shutil.copytree(colours, tmp_path / "data")
        calls: list[tuple[int, int]] = []
        evaluate(
            cached_run, data, features=tmp_path / "f", device="cpu", progress=lambda *numbers: calls.append(numbers)
        )
        assert calls[-1] == (6, 6)

    def test_a_run_with_encoder_weights_from_a_file_reuses_its_store(
        self, cached_run: Path, colours: Path, features: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[tuple[int, int]] = []
        for _ in range(2):
            evaluate(cached_run, colours, features=features, device="cpu", progress=lambda *n: calls.append(n))
        assert not calls
        assert len(list(features.iterdir())) == 1

    @pytest.mark.parametrize("run", ["cached_run", "loop_run"])
    def test_an_unreadable_image_is_reported_and_not_scored(
        self, run: str, colours: Path, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        data = shutil.copytree(colours, tmp_path / "data")
        broken = Path(load_annotations(data).split("test")[2].image)
        broken.write_bytes(b"no image")
        result = evaluate(request.getfixturevalue(run), data, features=tmp_path / "f", device="cpu")
        assert len(result.predictions) == 5
        assert result.unscored == (broken.stem,)
        assert f"1 images of the split are not scored: {broken.stem}" in result.problems

    def test_a_missing_image_is_reported_and_not_scored(self, cached_run: Path, colours: Path, tmp_path: Path) -> None:
        """Bug: it was detected while the data was read but not reported."""
        data = shutil.copytree(colours, tmp_path / "data")
        gone = Path(load_annotations(data).split("test")[2].image)
        gone.unlink()
        result = evaluate(cached_run, data, features=tmp_path / "f", device="cpu")
        assert (len(result.predictions), result.unscored) == (5, (gone.stem,))
        assert not result.complete

    def test_limits_of_training_do_not_apply(
        self, cached_run: Path, colours: Path, features: Path, tmp_path: Path
    ) -> None:
        run = shutil.copytree(cached_run, tmp_path / "run")
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace("limit_images: 0", "limit_images: 3"))
        assert load_run(run).config.data.limit_images == 3
        assert len(evaluate(run, colours, features=features, device="cpu").predictions) == 6

    def test_stores_must_match_training(
        self,
        colours: Path,
        annotations: Annotations,
        cached_run: Path,
        weights: Path,
        store: JoinedStores,
        tmp_path: Path,
    ) -> None:
        own = store.stores[0].path
        images = {item.id: item.image for item in annotations}
        other = tiny.build(tiny.write_encoder(tmp_path / "other.safetensors", seed=1))
        extract_features(images, other, tmp_path / "s")
        assert evaluate(cached_run, colours, stores=[own], device="cpu").scores.corpus["CIDEr"] > 0
        with pytest.raises(FeatureStoreError, match="is of test_resnet"):
            evaluate(cached_run, colours, stores=[tmp_path / "s"], device="cpu")
        with pytest.raises(FeatureStoreError, match="2 feature stores passed"):
            evaluate(cached_run, colours, stores=[own, own], device="cpu")
        joined = [own, tmp_path / "s"]
        train(tiny.cached(weights, epochs=1), colours, tmp_path / "run", stores=joined)
        assert len(evaluate(tmp_path / "run", colours, stores=joined, device="cpu").predictions) == 6
        with pytest.raises(FeatureStoreError, match="is of test_resnet"):
            evaluate(tmp_path / "run", colours, stores=joined[::-1], device="cpu")
        with pytest.raises(DataError, match="pass them with --store"):
            evaluate(tmp_path / "run", colours, device="cpu")

    def test_an_empty_or_unknown_split_is_refused(
        self, cached_run: Path, annotations: Annotations, tmp_path: Path
    ) -> None:
        write_annotations(annotations.split("train"), tmp_path / "d.jsonl")
        with pytest.raises(DataError, match="no image in split 'test'; it has train"):
            evaluate(cached_run, tmp_path / "d.jsonl", device="cpu")
        with pytest.raises(DataError, match="no split 'tset'"):
            evaluate(cached_run, tmp_path / "d.jsonl", split="tset", device="cpu")

    def test_a_folder_that_is_not_a_run_is_refused(self, colours: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="not a run folder"):
            evaluate(tmp_path, colours)


class TestPredictions:
    @pytest.mark.parametrize(("write", "name"), FORMATS)
    def test_every_format_gives_the_same_scores(
        self,
        write: Callable[[Path, dict[str, str]], Path],
        name: str,
        predictions: dict[str, str],
        colours: Path,
        annotations: Annotations,
        tmp_path: Path,
    ) -> None:
        result = evaluate(write(tmp_path / name, predictions), colours)
        items = annotations.split("test").items
        wanted = compute_metrics([predictions[item.id] for item in items], [item.captions for item in items])
        assert result.predictions == predictions
        assert result.scores.corpus == wanted.corpus
        assert result.decoding is None
        assert result.problems == (f"1 captions are empty and score 0: {list(predictions)[1]}",)
        assert not result.complete

    def test_a_file_is_not_scored_against_itself(self, predictions: dict[str, str], tmp_path: Path) -> None:
        # Bug: `evaluate a/pred.csv a` used the predictions as references, with BLEU 100.
        (tmp_path / "a").mkdir()
        own = as_csv(tmp_path / "a" / "pred.csv", {name: text for name, text in predictions.items() if text})
        elsewhere = shutil.copy(own, tmp_path / "copy.csv")
        for data in (own, own.parent):
            with pytest.raises(DataError, match="scored against itself; pass the file of the human captions"):
                evaluate(own, data)
            with pytest.raises(DataError, match="would be scored against itself"):
                compare([elsewhere, own], data=data)
        warning = f"every caption of {elsewhere} is the only reference of its image; is it a copy of the references?"
        assert warning in evaluate(elsewhere, own.parent).problems

    @pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
    def test_names_that_are_not_utf8_are_matched_and_saved(self, tmp_path: Path, suffix: str) -> None:
        # Bug: saving the scores failed; names in Parquet files were not matched.
        names = [os.fsdecode(b"caf\xe9"), "k\u00e4se", os.fsdecode(b"\xff")]
        items = tuple(Annotation(name, f"photos/{name}.png", ("a dog",)) for name in names)
        write_annotations(Annotations(items, "d", "jsonl"), tmp_path / "d.jsonl")
        path = as_captioned(tmp_path / f"c.{suffix}", dict.fromkeys(names, "a cat"))
        result = evaluate(path, tmp_path / "d.jsonl")
        assert [item.id for item in result.items] == names
        save_evaluation(result, tmp_path / "saved")
        assert read_predictions(tmp_path / "saved/predictions.jsonl") == result.predictions
        compared = compare([tmp_path / "saved", path], data=tmp_path / "d.jsonl")
        assert [system.predictions for system in compared.systems] == [result.predictions] * 2

    def test_image_files_are_not_required(
        self, predictions: dict[str, str], annotations: Annotations, tmp_path: Path
    ) -> None:
        items = [replace(item, image=str(tmp_path / "gone" / f"{item.id}.png")) for item in annotations]
        write_annotations(items, tmp_path / "data.jsonl")
        assert evaluate(as_coco(tmp_path / "p.json", predictions), tmp_path / "data.jsonl").predictions == predictions

    def test_data_without_splits_is_scored_entirely_unless_a_split_is_requested(
        self, annotations: Annotations, tmp_path: Path
    ) -> None:
        """Bug: a random tenth was scored, as in training, although the predictions covered all images."""
        items = [Annotation(item.id, item.image, item.captions) for item in annotations]
        write_annotations(items, tmp_path / "data.jsonl")
        path = as_coco(tmp_path / "p.json", {item.id: item.captions[0] for item in items})
        result = evaluate(path, tmp_path / "data.jsonl")
        assert (len(result.predictions), result.split, result.problems) == (36, "all", ())
        split = evaluate(path, tmp_path / "data.jsonl", split="test")
        assert len(split.predictions) == 4
        assert split.split == "test (split 80/10/10, seed 0)"
        assert "|split:test (split 80/10/10, seed 0)|" in split.signature
        assert split.problems == ("32 predictions of images outside the split",)

    def test_the_only_split_is_the_default(self, annotations: Annotations, tmp_path: Path) -> None:
        items = annotations.split("val").items
        write_annotations(items, tmp_path / "data.jsonl")
        path = as_coco(tmp_path / "p.json", {item.id: item.captions[0] for item in items})
        assert evaluate(path, tmp_path / "data.jsonl").split == "val"

    def test_a_prediction_matches_one_image_only(self, tmp_path: Path) -> None:
        """Bug: images of one name in two folders shared a caption, and clip.0 got that of clip.1."""
        for ids, names in (
            (["cat/0", "dog/0"], ["cat/0.png"]),
            (["cat/0", "dog/0"], ["0"]),
            (["clip.0", "clip.1"], ["clip.1"]),
        ):
            items = [Annotation(name, f"images/{name}.png", ("a cat",), "test") for name in ids]
            write_annotations(items, tmp_path / "data.jsonl")
            path = as_coco(tmp_path / "p.json", dict.fromkeys(names, "a cat"))
            with pytest.raises(DataError, match=rf"no caption of {len(ids) - (names != ['0'])} of the 2 images"):
                evaluate(path, tmp_path / "data.jsonl")

    def test_coco_entries_are_matched_by_image_id(
        self, predictions: dict[str, str], colours: Path, tmp_path: Path
    ) -> None:
        """Bug: the annotation's id was used instead of the image's."""
        rows = [
            {"id": index, "image_id": name, "caption": text} for index, (name, text) in enumerate(predictions.items())
        ]
        (tmp_path / "p.json").write_text(json.dumps(rows))
        assert evaluate(tmp_path / "p.json", colours).predictions == predictions

    def test_images_without_references_are_reported_and_not_scored(self, tmp_path: Path) -> None:
        lines = [{"id": name, "image": f"{name}.png", "captions": ["a cat"], "split": "test"} for name in "abc"]
        lines[1]["captions"] = []
        (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = evaluate(as_coco(tmp_path / "p.json", dict.fromkeys("abc", "a cat")), tmp_path / "data.jsonl")
        assert result.unscored == ("b",)
        assert not result.complete
        assert "1 images of the split are not scored: b" in result.problems

    def test_references_without_words_are_reported(self, tmp_path: Path) -> None:
        items = [Annotation("x", "x.png", ("a cat", "..."), "test")]
        write_annotations(items, tmp_path / "data.jsonl")
        result = evaluate(as_coco(tmp_path / "p.json", {"x": "a cat"}), tmp_path / "data.jsonl")
        assert "1 images have references without words: x" in result.problems

    def test_a_missing_prediction_is_refused(self, predictions: dict[str, str], colours: Path, tmp_path: Path) -> None:
        first, *rest = predictions
        with pytest.raises(DataError, match=rf"no caption of 1 of the 6 images, such as {first}"):
            evaluate(as_coco(tmp_path / "p.json", {name: predictions[name] for name in rest}), colours)

    def test_only_the_captioned_images_are_scored_on_request(
        self, predictions: dict[str, str], colours: Path, tmp_path: Path
    ) -> None:
        # Bug: the message about missing captions named no remedy, and there was none.
        some = dict(list(predictions.items())[:4])
        path = as_coco(tmp_path / "p.json", some)
        with pytest.raises(DataError, match="score only the other images with --only-captioned"):
            evaluate(path, colours)
        result = evaluate(path, colours, only_captioned=True)
        assert (result.predictions, result.unscored) == (some, ())
        assert "|captions:file(4 of 6 images)|" in result.signature
        assert any("only the 4 captioned of 6 images are scored" in problem for problem in result.problems)
        whole = evaluate(as_coco(tmp_path / "p.json", predictions), colours, only_captioned=True)
        assert "|captions:file|" in whole.signature
        with pytest.raises(DataError, match=r"no caption of 6 of the 6 images, such as [^;]*$"):
            evaluate(as_coco(tmp_path / "p.json", {"x": "a dog"}), colours, only_captioned=True)

    def test_predictions_of_other_images_are_reported(
        self, predictions: dict[str, str], colours: Path, tmp_path: Path
    ) -> None:
        result = evaluate(as_coco(tmp_path / "p.json", {**predictions, "x": "x", "y": "y"}), colours)
        assert result.predictions == predictions
        assert "2 predictions of images outside the split" in result.problems

    def test_a_duplicate_prediction_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "p.jsonl").write_text('{"id": 1, "caption": "a"}\n{"id": "1", "caption": "b"}\n')
        with pytest.raises(DataError, match="two captions of image 1"):
            read_predictions(tmp_path / "p.jsonl")

    def test_two_predictions_under_different_names_are_refused(
        self, predictions: dict[str, str], colours: Path, tmp_path: Path
    ) -> None:
        """Bug: of "x" and "x.png" one was silently ignored."""
        first = next(iter(predictions))
        path = as_coco(tmp_path / "p.json", {**predictions, f"{first}.png": "another"})
        with pytest.raises(DataError, match=f"two captions of image {first}: {first} and {first}.png"):
            evaluate(path, colours)
        rest = {name: text for name, text in predictions.items() if name != first}
        path = as_coco(tmp_path / "p.json", {**rest, f"a/{first}.jpg": "one", f"b/{first}.jpg": "two"})
        with pytest.raises(DataError, match=f"two captions of image {first}: a/{first}.jpg"):
            evaluate(path, colours)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("p.json", b'[{"image_id": 1, "cap', "cannot be read as predictions"),
            ("p.json", b"5", "no list of predictions"),
            ("p.json", b"[5]", "entry 1 is not an object"),
            ("p.json", b"[]", "contains no predictions"),
            ("p.json", b"{}", "contains no predictions"),
            ("p.jsonl", b'{"id": 1}\n', "entry 1 has the fields id; expected one of image_id, id"),
            ("p.jsonl", b"\xff\xfe", "cannot be read as predictions"),
            ("p.txt", b"some words\n", "cannot be read as predictions"),
            ("p.csv", b"a,b\n1,2\n", "entry 1 has the fields a, b"),
            ("p.csv", b"id,caption\n1\n", "entry 1 has the fields id, caption"),
            ("p.csv", b"id,caption\n1,a,b,c\n2\n", "entry 2 has"),
            ("p.csv", b"", r"p.csv is empty \(0 bytes\)"),
            ("p.json", b"", r"p.json is empty \(0 bytes\)"),
            ("p.json", b'[{"image_id": 7, "caption": NaN}]', "the caption of image 7 is nan, not a text"),
            ("p.json", b'[{"image_id": 7, "caption": 3}]', "the caption of image 7 is 3, not a text"),
            ("p.json", b'[{"image_id": 7, "caption": null}]', "entry 1 has the fields image_id, caption; expected"),
            ("p.json", b'[{"image_id": 7, "caption": "\\ud800"}]', "image 7 contains a lone surrogate"),
            ("p.json", b"[" * 100_000, "cannot be read as predictions"),
            ("p.json", b'{"a": "x", "a": "y"}', "have 'a' twice in one object"),
        ],
    )
    def test_invalid_files_are_refused_with_one_line(
        self, tmp_path: Path, name: str, content: bytes, message: str
    ) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            read_predictions(tmp_path / name)
        assert "\n" not in str(caught.value)

    def test_a_missing_path_is_refused(self, colours: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="neither a run folder nor a prediction file"):
            evaluate(tmp_path / "gone", colours)


def test_saved_predictions_give_the_same_scores(
    cached_run: Path, colours: Path, features: Path, tmp_path: Path
) -> None:
    result = evaluate(cached_run, colours, features=features, device="cpu")
    save_evaluation(result, tmp_path / "a" / "b")
    names = {path.name for path in (tmp_path / "a" / "b").iterdir()}
    assert names == {"predictions.jsonl", "per_image.parquet", "scores.json"}
    again = evaluate(tmp_path / "a" / "b" / "predictions.jsonl", colours)
    assert again.predictions == result.predictions
    assert again.scores.corpus == result.scores.corpus
    saved = json.loads((tmp_path / "a" / "b" / "scores.json").read_text())
    assert saved["scores"] == result.scores.corpus
    assert saved["signature"] == result.signature
    assert result.signature.startswith(f"{result.scores.signature}|split:test|captions:greedy(max_length=")
    assert saved["references"] == "1-3"
    assert (saved["images"], saved["split"], saved["decoding"]["strategy"]) == (6, "test", "greedy")


class TestHuman:
    def test_one_caption_is_scored_against_the_others(self, annotations: Annotations, tmp_path: Path) -> None:
        items = [item for item in annotations.split("test") if len(item.captions) > 1]
        write_annotations(items, tmp_path / "data.jsonl")
        result = evaluate_human(tmp_path / "data.jsonl", which="2")
        wanted = compute_metrics(
            [item.captions[1] for item in items], [[*item.captions[:1], *item.captions[2:]] for item in items]
        )
        assert result.scores.corpus == {**result.scores.corpus, **wanted.corpus}
        assert result.signature.endswith("|split:test|captions:human(2)|bootstrap:draws=10000,seed=0")
        assert result.items[0].captions == (*items[0].captions[:1], *items[0].captions[2:])

    def test_the_longest_caption_has_the_most_characters(self, tmp_path: Path) -> None:
        items = [Annotation("x", "x.png", ("a dog", "two large dogs .", "three big dogs"), "test")]
        write_annotations(items, tmp_path / "data.jsonl")
        assert evaluate_human(tmp_path / "data.jsonl", which="longest").predictions == {"x": "two large dogs ."}

    @pytest.mark.parametrize(
        ("captions", "which", "message"),
        [
            (("a",), "1", "image x has only one caption"),
            (("a", "b"), "3", "image x has no caption '3'; choose 1 to 2, or longest"),
            (("a", "b"), "0", "image x has no caption '0'"),
            (("a", "b"), "first", "image x has no caption 'first'"),
        ],
    )
    def test_invalid_captions_are_refused(
        self, tmp_path: Path, captions: tuple[str, ...], which: str, message: str
    ) -> None:
        write_annotations([Annotation("x", "x.png", captions, "test")], tmp_path / "data.jsonl")
        with pytest.raises(DataError, match=message):
            evaluate_human(tmp_path / "data.jsonl", which=which)


class TestDiversity:
    def test_verbatim_training_captions_are_counted(self, colours: Path, tmp_path: Path) -> None:
        annotations = load_annotations(colours)
        known = annotations.split("train")[0].captions[0]
        items = annotations.split("test").items
        predictions = {item.id: known if index < 3 else "something new" for index, item in enumerate(items)}
        assert evaluate(as_coco(tmp_path / "p.json", predictions), colours).diversity.in_training == 0.5

    def test_in_training_is_none_for_the_training_split(self, colours: Path, tmp_path: Path) -> None:
        predictions = {item.id: "x" for item in load_annotations(colours).split("train")}
        assert evaluate(as_coco(tmp_path / "p.json", predictions), colours, split="train").diversity.in_training is None

    def test_absent_objects(self, tmp_path: Path) -> None:
        cat, dog = Box("cat", 0, 0, 5, 5), Box("dog", 0, 0, 5, 5)
        items = [Annotation(name, f"{name}.png", ("a cat",), "test", (box,)) for name, box in (("x", cat), ("y", dog))]
        write_annotations(items, tmp_path / "data.jsonl")
        result = evaluate(as_coco(tmp_path / "p.json", {"x": "two cats", "y": "a cat"}), tmp_path / "data.jsonl")
        assert result.absent_objects == 0.5

    def test_absent_objects_of_scenes(self, tmp_path: Path) -> None:
        scenes = make_scenes(tmp_path / "scenes", train=0, val=0, test=6, size=48)
        correct = {item.id: f"a {item.boxes[0].label} somewhere" for item in scenes}
        path = as_coco(tmp_path / "p.json", correct)
        assert evaluate(path, tmp_path / "scenes").absent_objects == 0.0
        wrong = {name: text.replace("a ", "a blue red ") for name, text in correct.items()}
        path = as_coco(tmp_path / "p.json", wrong)
        assert evaluate(path, tmp_path / "scenes").absent_objects == 1.0

    def test_diagnosis_of_one_caption_for_every_image(self, colours: Path, tmp_path: Path) -> None:
        predictions = {item.id: "a red part" for item in load_annotations(colours).split("test")}
        assert (
            '100% of the images have the caption "a red part"'
            in evaluate(as_coco(tmp_path / "p.json", predictions), colours).diagnosis
        )

    def test_intervals_contain_the_values(self, predictions: dict[str, str], colours: Path, tmp_path: Path) -> None:
        result = evaluate(as_coco(tmp_path / "p.json", predictions), colours)
        assert result.intervals.keys() == result.scores.corpus.keys()
        for name, interval in result.intervals.items():
            assert interval.low <= result.scores.corpus[name] <= interval.high


class TestMissingScores:
    def test_each_is_reported_and_does_not_affect_others(
        self, predictions: dict[str, str], colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))  # no java

        def absent(name: str) -> ClipScorer:
            raise CheckpointError(f"CLIPScore needs the CLIP weights {name}, which are not available: no network")

        monkeypatch.setattr(ClipScorer, "load", absent)
        path = as_coco(tmp_path / "p.json", predictions)
        wanted = ("BLEU", "METEOR-jar", "SPICE", "CLIPScore", "CIDEr")
        result = evaluate(path, colours, metrics=wanted)
        assert result.missing_scores.keys() == {"METEOR-jar", "SPICE", "CLIPScore"}
        plain = evaluate(path, colours, metrics=("BLEU", "CIDEr"))
        assert result.scores.corpus == plain.scores.corpus
        assert set(result.missing_scores.values()) <= set(result.problems)

    def test_spice_has_a_warning(
        self, predictions: dict[str, str], colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = np.linspace(0.1, 0.6, 6)
        monkeypatch.setattr(scoring, "jar_scores", lambda *_: (float(values.mean()), values, "spice-1.0:x"))
        result = evaluate(as_coco(tmp_path / "p.json", predictions), colours, metrics=("CIDEr", "SPICE"))
        assert result.scores.corpus["SPICE"] == pytest.approx(0.35)
        assert result.intervals["SPICE"].low < 0.35 < result.intervals["SPICE"].high  # a mean, which can be resampled
        assert "|spice-1.0:x|" in result.signature
        assert any("has not been compared with published values" in problem for problem in result.problems)

    def test_an_unknown_score_is_refused(self, predictions: dict[str, str], colours: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="unknown metric 'BLUE'; choose from BLEU"):
            evaluate(as_coco(tmp_path / "p.json", predictions), colours, metrics=("BLUE",))

    def test_without_any_score_the_reason_is_the_error(
        self, predictions: dict[str, str], colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("seesay.metrics.meteor.tables.find_spec", lambda name: None)
        monkeypatch.setattr("seesay.metrics.scores._meteor", Meteor.load)
        with pytest.raises(DataError, match=r"METEOR needs pycocoevalcap.*seesay\[coco\]"):
            evaluate(as_coco(tmp_path / "p.json", predictions), colours, metrics=("METEOR",))

    def test_damaged_tables_of_meteor_do_not_affect_other_scores(
        self, predictions: dict[str, str], colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def damaged() -> Meteor:
            raise DataError("METEOR's paraphrase-en.gz is truncated")

        monkeypatch.setattr("seesay.metrics.scores._meteor", damaged)
        result = evaluate(as_coco(tmp_path / "p.json", predictions), colours)
        assert result.missing_scores == {"METEOR": "METEOR's paraphrase-en.gz is truncated"}
        assert result.scores.corpus["CIDEr"] > 0

    @pytest.mark.parametrize("name", ["METEOR", "METEOR-jar", "SPICE"])
    def test_english_scores_are_not_computed_for_other_tokens(
        self, name: str, predictions: dict[str, str], colours: Path, tmp_path: Path
    ) -> None:
        path = as_coco(tmp_path / "p.json", predictions)
        result = evaluate(path, colours, tokenization="characters", metrics=("CIDEr", name))
        assert result.missing_scores == {name: f"{name} requires English PTB tokens, not characters; skipped"}
        assert (result.diversity.truncated, result.diversity.repeats) == (None, None)
        assert result.scores.lengths[-1] == len("".join(list(predictions.values())[-1].split()))


class TestOtherLanguages:
    def test_character_run_is_scored_in_characters(self, tmp_path: Path) -> None:
        run = tiny.random_run(tmp_path / "run", tiny.untrained(level="character"))
        foreign.make_data(tmp_path / "data", "zh")
        result = evaluate(run, tmp_path / "data", metrics=("CIDEr", "METEOR"), features=tmp_path, device="cpu")
        assert "|tok:characters|" in result.signature
        assert result.problems == ("METEOR requires English PTB tokens, not characters; skipped",)
        as_requested = evaluate(
            run, tmp_path / "data", tokenization="ptb", metrics=("CIDEr",), features=tmp_path, device="cpu"
        )
        assert "|tok:ptb|" in as_requested.signature
        assert (result.unit, as_requested.unit) == ("characters", "words")
        assert "ptb tokens are phrases" in as_requested.problems[0]

    @pytest.mark.parametrize("language", foreign.WITHOUT_SPACES)
    def test_predictions_without_spaces_warn(self, language: str, tmp_path: Path) -> None:
        foreign.make_data(tmp_path / "data", language)
        path = as_coco(tmp_path / "p.json", {str(n): texts[0] for n, texts in enumerate(foreign.CAPTIONS[language])})
        result = evaluate(path, tmp_path / "data", split="all")
        assert "METEOR" in result.missing_scores
        assert any("pass --tokenization characters" in line for line in result.problems)
        result = evaluate(path, tmp_path / "data", split="all", tokenization="characters", metrics=("CIDEr",))
        assert result.problems == ()
        human = evaluate_human(tmp_path / "data", split="all", metrics=("CIDEr",))
        assert any("pass --tokenization characters" in line for line in human.problems)

    @pytest.mark.parametrize("name", ["METEOR-jar", "SPICE", "CLIPScore"])
    def test_english_scores_of_another_language_warn(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for part in ("_with_jar", "_with_clip"):
            monkeypatch.setattr(scoring, part, lambda scores, *_: scores.with_score(name, np.zeros(1)))
        for language, word in (("de", "language (de): not reliable"), ("ar", "English, but"), ("en", "")):
            items = [Annotation("a", "a.png", foreign.CAPTIONS[language][0])]
            scores, missing = scoring.score_captions(items, ["x"], metrics=("CIDEr", name))
            messages = "; ".join((*scores.warnings, *missing.values()))
            assert word in messages
            assert bool(word) == bool(messages)


def test_captions_do_not_depend_on_the_batch_size(
    cached_run: Path, colours: Path, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate(cached_run, colours, split="train", features=features, device="cpu")
    monkeypatch.setattr(captioning, "_BATCH", 5)
    assert (
        evaluate(cached_run, colours, split="train", features=features, device="cpu").predictions
        == expected.predictions
    )
