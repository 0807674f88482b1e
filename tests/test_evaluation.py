import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from seesay import evaluation
from seesay.captioner import Captioner
from seesay.config import DecodingOptions
from seesay.data.annotations import Annotation, Annotations, load_annotations, write_annotations
from seesay.errors import CheckpointError, DataError, FeatureStoreError
from seesay.evaluation import evaluate, read_predictions, save_evaluation
from seesay.features import JoinedStores, extract_features
from seesay.metrics import compute_metrics
from seesay.training.fit import train
from tests import tiny


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


FORMS = [(as_coco, "p.json"), (as_mapping, "p.json"), (as_jsonl, "p.jsonl"), (as_csv, "p.csv")]


@pytest.fixture(scope="module")
def said(annotations: Annotations) -> dict[str, str]:
    """Predictions for the test split: some right, some wrong, one empty."""
    texts = {item.id: item.captions[place % len(item.captions)] for place, item in enumerate(annotations.split("test"))}
    names = list(texts)
    return {**texts, names[0]: "red beside, red", names[1]: "", names[2]: "two\u2028words"}


class TestRuns:
    def test_scores_are_those_of_the_captions_of_the_pictures(
        self, cached_run: Path, colours: Path, features: Path, annotations: Annotations
    ) -> None:
        """The same captions from the store as from the files, which is what `seesay caption` gives."""
        result = evaluate(cached_run, colours, features=features, device="cpu")
        items = annotations.split("test").items
        captioner = Captioner.load(cached_run, "cpu")
        captions = [caption.text for caption in captioner.caption([item.image for item in items])]
        assert result.predictions == {item.id: text for item, text in zip(items, captions, strict=True)}
        wanted = compute_metrics(captions, [item.captions for item in items])
        assert result.scores.corpus == wanted.corpus
        assert result.scores.signature == wanted.signature
        assert (result.split, result.decoding, result.problems) == ("test", captioner.options(), ())
        assert set(result.scores.corpus) == {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"}

    def test_beam_finds_captions_at_least_as_likely(self, cached_run: Path, colours: Path, features: Path) -> None:
        options = DecodingOptions(strategy="beam", beam_size=4, length_penalty=0.0, max_length=12)
        result = evaluate(cached_run, colours, split="train", options=options, features=features, device="cpu")
        assert result.decoding == options
        pictures = [item.image for item in load_annotations(colours).split("train")]
        captioner = Captioner.load(cached_run, "cpu")
        beam, greedy = (captioner.caption(pictures, replace(options, strategy=name)) for name in ("beam", "greedy"))
        assert list(result.predictions.values()) == [caption.text for caption in beam]
        assert [caption.text for caption in beam] != [caption.text for caption in greedy]
        assert sum(a.score >= b.score - 1e-4 for a, b in zip(beam, greedy, strict=True)) >= len(pictures) - 1

    def test_encoder_in_the_loop_sees_the_pictures(self, loop_run: Path, colours: Path, tmp_path: Path) -> None:
        result = evaluate(loop_run, colours, split="validation", features=tmp_path / "features", device="cpu")
        assert len(result.predictions) == 6
        assert not (tmp_path / "features").exists()

    def test_only_the_pictures_of_the_split_are_encoded(self, cached_run: Path, colours: Path, tmp_path: Path) -> None:
        """Scoring the test split of a large set of others once meant to encode all of it."""
        data = shutil.copytree(colours, tmp_path / "data")
        told: list[tuple[int, int]] = []
        evaluate(
            cached_run, data, features=tmp_path / "f", device="cpu", progress=lambda *numbers: told.append(numbers)
        )
        assert told[-1] == (6, 6)

    def test_run_whose_encoder_came_from_a_file_takes_its_own_store(
        self, cached_run: Path, colours: Path, features: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[tuple[int, int]] = []
        for _ in range(2):
            evaluate(cached_run, colours, features=features, device="cpu", progress=lambda *n: told.append(n))
        assert not told
        assert len(list(features.iterdir())) == 1

    @pytest.mark.parametrize("run", ["cached_run", "loop_run"])
    def test_unreadable_picture_is_named_and_left_out(
        self, run: str, colours: Path, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        data = shutil.copytree(colours, tmp_path / "data")
        broken = Path(load_annotations(data).split("test")[2].image)
        broken.write_bytes(b"no picture")
        result = evaluate(request.getfixturevalue(run), data, features=tmp_path / "f", device="cpu")
        assert len(result.predictions) == 5
        told = [line for line in result.problems if "are not in the scores" in line]
        assert told == [f"1 pictures could not be read and are not in the scores: {broken.stem}"]

    def test_given_stores_must_be_those_of_training(
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
        with pytest.raises(FeatureStoreError, match="was made by test_resnet"):
            evaluate(cached_run, colours, stores=[tmp_path / "s"], device="cpu")
        with pytest.raises(FeatureStoreError, match="2 feature stores are given"):
            evaluate(cached_run, colours, stores=[own, own], device="cpu")
        joined = [own, tmp_path / "s"]
        train(tiny.cached(weights, epochs=1), colours, tmp_path / "run", stores=joined)
        assert len(evaluate(tmp_path / "run", colours, stores=joined, device="cpu").predictions) == 6
        with pytest.raises(FeatureStoreError, match="was made by test_resnet"):
            evaluate(tmp_path / "run", colours, stores=joined[::-1], device="cpu")
        with pytest.raises(DataError, match="name them again with --store"):
            evaluate(tmp_path / "run", colours, device="cpu")

    def test_split_that_is_empty_or_unknown_is_refused(
        self, cached_run: Path, annotations: Annotations, tmp_path: Path
    ) -> None:
        write_annotations(annotations.split("train"), tmp_path / "d.jsonl")
        with pytest.raises(DataError, match="no picture in split 'test'; it has train"):
            evaluate(cached_run, tmp_path / "d.jsonl", device="cpu")
        with pytest.raises(DataError, match="no split 'tset'"):
            evaluate(cached_run, tmp_path / "d.jsonl", split="tset", device="cpu")

    def test_folder_that_is_no_run_is_refused(self, colours: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="not a run folder"):
            evaluate(tmp_path, colours)


class TestPredictions:
    @pytest.mark.parametrize(("write", "name"), FORMS)
    def test_every_form_scores_the_same(
        self,
        write: Callable[[Path, dict[str, str]], Path],
        name: str,
        said: dict[str, str],
        colours: Path,
        annotations: Annotations,
        tmp_path: Path,
    ) -> None:
        result = evaluate(write(tmp_path / name, said), colours)
        items = annotations.split("test").items
        wanted = compute_metrics([said[item.id] for item in items], [item.captions for item in items])
        assert result.predictions == said
        assert result.scores.corpus == wanted.corpus
        assert result.decoding is None
        assert result.problems == (f"1 captions are empty and score 0, such as that of {list(said)[1]}",)

    def test_pictures_need_not_be_there(self, said: dict[str, str], annotations: Annotations, tmp_path: Path) -> None:
        """Only their captions are compared."""
        items = [replace(item, image=str(tmp_path / "gone" / f"{item.id}.png")) for item in annotations]
        write_annotations(items, tmp_path / "data.jsonl")
        assert evaluate(as_coco(tmp_path / "p.json", said), tmp_path / "data.jsonl").predictions == said

    def test_data_without_splits_is_dealt_as_in_training(self, annotations: Annotations, tmp_path: Path) -> None:
        items = [Annotation(item.id, item.image, item.captions) for item in annotations]
        write_annotations(items, tmp_path / "data.jsonl")
        everything = {item.id: item.captions[0] for item in items}
        result = evaluate(as_coco(tmp_path / "p.json", everything), tmp_path / "data.jsonl")
        assert len(result.predictions) == 4
        assert result.problems == ("32 predictions are of pictures outside the split",)

    def test_missing_picture_is_refused(self, said: dict[str, str], colours: Path, tmp_path: Path) -> None:
        first, *rest = said
        with pytest.raises(DataError, match=rf"no caption of 1 of the 6 pictures, such as {first}"):
            evaluate(as_coco(tmp_path / "p.json", {name: said[name] for name in rest}), colours)

    def test_predictions_of_other_pictures_are_told_of(
        self, said: dict[str, str], colours: Path, tmp_path: Path
    ) -> None:
        result = evaluate(as_coco(tmp_path / "p.json", {**said, "x": "x", "y": "y"}), colours)
        assert result.predictions == said
        assert "2 predictions are of pictures outside the split" in result.problems

    def test_picture_twice_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "p.jsonl").write_text('{"id": 1, "caption": "a"}\n{"id": "1", "caption": "b"}\n')
        with pytest.raises(DataError, match="two captions of picture 1"):
            read_predictions(tmp_path / "p.jsonl")

    @pytest.mark.parametrize(
        ("name", "content", "told"),
        [
            ("p.json", b'[{"image_id": 1, "cap', "cannot be read as predictions"),
            ("p.json", b"5", "no list of predictions"),
            ("p.json", b"[5]", "entry 1 is not an object"),
            ("p.json", b"[]", "holds no predictions"),
            ("p.json", b"{}", "holds no predictions"),
            ("p.jsonl", b'{"id": 1}\n', "entry 1 has the fields id; wanted one of id, image_id"),
            ("p.jsonl", b"\xff\xfe", "cannot be read as predictions"),
            ("p.txt", b"some words\n", "cannot be read as predictions"),
            ("p.csv", b"a,b\n1,2\n", "entry 1 has the fields a, b"),
            ("p.csv", b"id,caption\n1\n", "entry 1 has the fields id, caption"),
            ("p.csv", b"id,caption\n1,a,b,c\n2\n", "entry 2 has"),
        ],
    )
    def test_file_of_anything_else_is_refused_in_one_line(
        self, tmp_path: Path, name: str, content: bytes, told: str
    ) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=told) as caught:
            read_predictions(tmp_path / name)
        assert "\n" not in str(caught.value)

    def test_what_is_not_there_is_neither_run_nor_predictions(self, colours: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="neither a run folder nor a file of predictions"):
            evaluate(tmp_path / "gone", colours)


def test_what_is_saved_is_read_again_as_predictions_with_the_same_scores(
    cached_run: Path, colours: Path, features: Path, tmp_path: Path
) -> None:
    result = evaluate(cached_run, colours, features=features, device="cpu")
    save_evaluation(result, tmp_path / "a" / "b")
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {"predictions.jsonl", "scores.json"}
    again = evaluate(tmp_path / "a" / "b" / "predictions.jsonl", colours)
    assert again.predictions == result.predictions
    assert again.scores.corpus == result.scores.corpus
    saved = json.loads((tmp_path / "a" / "b" / "scores.json").read_text())
    assert saved["scores"] == result.scores.corpus
    assert saved["signature"] == result.scores.signature
    assert (saved["pictures"], saved["split"], saved["decoding"]["strategy"]) == (6, "test", "greedy")


def test_large_splits_are_captioned_in_several_batches(
    cached_run: Path, colours: Path, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(cached_run, colours, split="train", features=features, device="cpu")
    monkeypatch.setattr(evaluation, "_BATCH", 5)
    assert (
        evaluate(cached_run, colours, split="train", features=features, device="cpu").predictions == whole.predictions
    )
