import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seesay.config import DecodingOptions
from seesay.data.annotations import Annotations, load_annotations, write_annotations
from seesay.errors import ConfigError, DataError
from seesay.evaluation import evaluate, save_evaluation
from seesay.evaluation.comparison import compare, difference_rows, save_comparison
from seesay.metrics import paired_bootstrap
from tests import foreign

Predictions = dict[str, str]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Predictions], Path]:
    def written(name: str, predictions: Predictions) -> Path:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(predictions))
        return path

    return written


@pytest.fixture
def correct(annotations: Annotations) -> Predictions:
    return {item.id: item.captions[0] for item in annotations.split("test")}


@pytest.fixture
def half(correct: Predictions) -> Predictions:
    """The same in reverse order, with wrong captions for the second half of the images."""
    texts = {name: text if index < 3 else "something wrong" for index, (name, text) in enumerate(correct.items())}
    return dict(reversed(texts.items()))


def test_differences_equal_the_paired_bootstrap(
    write: Callable[[str, Predictions], Path], correct: Predictions, half: Predictions, colours: Path
) -> None:
    paths = [write("right", correct), write("half", half)]
    found = compare(paths, data=colours)
    scores = [evaluate(path, colours).scores for path in paths]
    expected = paired_bootstrap(*scores)
    assert found.differences == (expected,)
    few = compare(paths, data=colours, draws=7)
    assert (few.differences, few.recipe) == ((paired_bootstrap(*scores, draws=7),), "bootstrap:draws=7,seed=0")
    assert found.differences[0]["CIDEr"].significant
    assert found.systems[0].name == str(paths[0])
    gains, losses = found.extremes[0]
    assert (gains, set(losses)) == ([], {name for name in correct if half[name] != correct[name]})
    change = scores[1].per_image["CIDEr"] - scores[0].per_image["CIDEr"]
    assert losses == [scores[0].ids[index] for index in np.argsort(change)[: len(losses)]]


def test_saved_evaluations_need_no_data(
    write: Callable[[str, Predictions], Path], correct: Predictions, half: Predictions, colours: Path, tmp_path: Path
) -> None:
    for name, predictions in (("a", correct), ("b", half)):
        save_evaluation(evaluate(write(name, predictions), colours), tmp_path / name)
    from_files = compare([tmp_path / "a.json", tmp_path / "b.json"], data=colours)
    from_folders = compare([tmp_path / "a", tmp_path / "b" / "per_image.parquet"])
    assert from_folders.differences == from_files.differences
    assert from_folders.extremes == from_files.extremes


def test_order_of_images_does_not_matter(
    write: Callable[[str, Predictions], Path], correct: Predictions, half: Predictions, annotations: Annotations
) -> None:
    path = write("half", half).parent
    save_evaluation(evaluate(write("right", correct), _data(path / "one.jsonl", annotations, 1)), path / "one")
    save_evaluation(evaluate(path / "half.json", _data(path / "two.jsonl", annotations, -1)), path / "two")
    found = compare([path / "one", path / "two"])
    assert found.systems[1].scores.ids == found.systems[0].scores.ids
    data = _data(path / "one.jsonl", annotations, 1)
    assert found.differences == compare([path / "right.json", path / "half.json"], data=data).differences


def _data(path: Path, annotations: Annotations, step: int) -> Path:
    write_annotations(list(annotations.split("test"))[::step], path)
    return path


def test_three_systems_are_compared_with_the_first(
    write: Callable[[str, Predictions], Path], correct: Predictions, half: Predictions, colours: Path, tmp_path: Path
) -> None:
    found = compare([write("a", correct), write("b", half), write("c", correct)], data=colours)
    assert len(found.differences) == 2
    assert not any(difference.significant for difference in found.differences[1].values())
    save_comparison(found, tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert saved["bootstrap"] == {"draws": 10_000, "seed": 0}
    assert saved["against_the_first"][0]["differences"]["CIDEr"]["significant"] is True
    assert saved["systems"][2] == {
        "name": str(tmp_path / "c.json"),
        "signature": found.systems[2].signature,
        "scores": found.systems[2].scores.corpus,
    }
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "bootstrap:draws=10000,seed=0" in page
    assert "something wrong" in page
    assert page.count("<article") == len(found.extremes[0][1])


def test_an_evaluated_run_is_found_by_its_folder(
    cached_run: Path, colours: Path, features: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = evaluate(cached_run, colours, features=features, device="cpu")
    save_evaluation(result, run / "predictions" / "test")
    found = compare([run, run / "predictions" / "test"])
    assert found.systems[0].predictions == result.predictions


def test_predictions_use_the_tokenization_of_the_evaluations(
    write: Callable[[str, Predictions], Path], tmp_path: Path
) -> None:
    foreign.make_data(tmp_path / "data", "zh")
    path = write("p", {str(number): captions[0] for number, captions in enumerate(foreign.CAPTIONS["zh"])})
    result = evaluate(path, tmp_path / "data", split="all", tokenization="characters", metrics=("CIDEr",))
    save_evaluation(result, tmp_path / "run")
    found = compare([path, tmp_path / "run"], data=tmp_path / "data", split="all", metrics=("CIDEr",))
    assert {system.scores.tokenization for system in found.systems} == {"characters"}
    assert found.warnings == []
    words = compare([path, path], data=tmp_path / "data", split="all", metrics=("CIDEr",))
    assert len(words.warnings) == 1
    assert "pass --tokenization characters" in words.warnings[0]
    assert words.to_dict()["warnings"] == words.warnings


class TestRefused:
    def test_no_draws(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="bootstrap draws is 0; it must be at least 1"):
            compare([tmp_path / "gone", tmp_path], draws=0)

    def test_one_system(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="pass at least two systems"):
            compare([tmp_path])

    def test_run_without_scores(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"has no scores on val yet; first run: seesay evaluate .* --split val"):
            compare([tmp_path, tmp_path], split="val")

    def test_a_missing_path(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="gone does not exist"):
            compare([tmp_path / "gone", tmp_path])

    def test_other_splits(
        self, write: Callable[[str, Predictions], Path], correct: Predictions, colours: Path, tmp_path: Path
    ) -> None:
        save_evaluation(evaluate(write("a", correct), colours), tmp_path / "a")
        with pytest.raises(DataError, match="has split test, not val; evaluate it on val"):
            compare([tmp_path / "a", tmp_path / "a"], split="val")

    def test_predictions_without_data(self, write: Callable[[str, Predictions], Path], correct: Predictions) -> None:
        path = write("a", correct)
        with pytest.raises(DataError, match="pass its references with --data DATA"):
            compare([path, path])

    def test_other_images(
        self, write: Callable[[str, Predictions], Path], correct: Predictions, colours: Path, tmp_path: Path
    ) -> None:
        items = load_annotations(colours).split("test").items
        write_annotations(items[1:], tmp_path / "fewer.jsonl")
        path = write("a", correct)
        save_evaluation(evaluate(path, colours), tmp_path / "all")
        save_evaluation(evaluate(path, tmp_path / "fewer.jsonl"), tmp_path / "fewer")
        with pytest.raises(DataError, match=f"1 are in only one of them, such as {items[0].id}"):
            compare([tmp_path / "all", tmp_path / "fewer"])

    def test_other_references(
        self, write: Callable[[str, Predictions], Path], correct: Predictions, colours: Path, tmp_path: Path
    ) -> None:
        items = list(load_annotations(colours).split("test"))
        write_annotations([replace(items[0], captions=("something else",)), *items[1:]], tmp_path / "other.jsonl")
        path = write("a", correct)
        save_evaluation(evaluate(path, colours), tmp_path / "a")
        save_evaluation(evaluate(path, tmp_path / "other.jsonl"), tmp_path / "b")
        with pytest.raises(DataError, match=f"have different references of image {items[0].id}"):
            compare([tmp_path / "a", tmp_path / "b"])

    def test_other_tokens(
        self, write: Callable[[str, Predictions], Path], correct: Predictions, colours: Path, tmp_path: Path
    ) -> None:
        path = write("a", correct)
        save_evaluation(evaluate(path, colours), tmp_path / "a")
        save_evaluation(evaluate(path, colours, tokenization="characters"), tmp_path / "b")
        with pytest.raises(
            DataError, match=r"was scored on characters tokens, .* on ptb; evaluate both with one tokenization"
        ):
            compare([tmp_path / "a", tmp_path / "b"])

    def test_table_of_another_program(self, tmp_path: Path) -> None:
        table = pa.table({"id": ["a"], "image": ["a"], "caption": ["a"], "references": [["a"]]})
        pq.write_table(table.replace_schema_metadata({b"seesay": b'{"split": "test"}'}), tmp_path / "per_image.parquet")
        with pytest.raises(DataError, match="is not a per-image table"):
            compare([tmp_path, tmp_path])

    @pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
    def test_an_invalid_table(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "per_image.parquet").write_bytes(content)
        with pytest.raises(DataError, match="is not a per-image table of `seesay evaluate`; evaluate again"):
            compare([tmp_path, tmp_path])


def test_missing_scores_are_reported(
    write: Callable[[str, Predictions], Path], correct: Predictions, colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no java
    path = write("a", correct)
    found = compare([path, path], data=colours, metrics=("BLEU", "SPICE"))
    assert found.missing.keys() == {"SPICE"}
    assert "SPICE" not in found.differences[0]


def test_different_decoding_is_reported(cached_run: Path, colours: Path, features: Path, tmp_path: Path) -> None:
    """Bug: a run with beam search was compared with a greedy one without a remark."""
    for strategy in ("greedy", "beam"):
        options = DecodingOptions(strategy=strategy)
        save_evaluation(evaluate(cached_run, colours, options=options, features=features), tmp_path / strategy)
    found = compare([tmp_path / "greedy", tmp_path / "beam"])
    assert any(line.startswith("the captions were generated differently: captions:greedy(") for line in found.warnings)
    save_comparison(found, tmp_path / "comparison")
    page = (tmp_path / "comparison/comparison.html").read_text()
    assert f"{tmp_path / 'greedy'}: " not in page.partition("gains most")[2]  # Bug: listed under "Human captions"


def test_rows_of_differences(
    write: Callable[[str, Predictions], Path], correct: Predictions, half: Predictions, colours: Path
) -> None:
    found = compare([write("a", correct), write("b", half)], data=colours)
    rows = {row[0]: row for row in difference_rows(found.differences[0])}
    assert rows["CIDEr"][-1] == "yes"
    assert float(rows["CIDEr"][3]) == pytest.approx(float(rows["CIDEr"][2]) - float(rows["CIDEr"][1]), abs=0.011)
