import json
from dataclasses import replace
from pathlib import Path

import pytest

from seesay.data.annotations import Annotations, write_annotations
from seesay.evaluation import Evaluation, evaluate
from seesay.evaluation.report import MAX_SHOWN, _examples, diversity_rows, write_evaluation_report


@pytest.fixture
def evaluation(colours: Path, annotations: Annotations, tmp_path: Path) -> Evaluation:
    predictions = {
        item.id: "grey" if index == 2 else item.captions[0] for index, item in enumerate(annotations.split("test"))
    }
    (tmp_path / "p.json").write_text(json.dumps(predictions))
    return evaluate(tmp_path / "p.json", colours)


def test_page_has_scores_intervals_and_the_best_and_worst_images(
    evaluation: Evaluation, cached_run: Path, tmp_path: Path
) -> None:
    write_evaluation_report(evaluation, tmp_path / "report.html", cached_run / "metrics.csv")
    page = (tmp_path / "report.html").read_text()
    for name, value, interval in evaluation.score_rows():
        assert f"<td>{name}</td><td>{value}</td><td>{interval}</td>" in page
    for name, value in diversity_rows(evaluation):
        assert name.replace("<", "&lt;").replace(">", "&gt;") in page
        assert value in page
    assert evaluation.signature in page
    assert page.count("<article") == len(evaluation.items) <= 3 * MAX_SHOWN
    worst = page.index(">Worst<")
    assert page.index(">grey<", worst) < page.index("</article>", worst)  # the first of them
    assert ">Training<" in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 11, 17, 18, 19, 100])
def test_no_image_is_shown_twice(count: int) -> None:
    """Bug: the galleries of the best, median and worst images of a small split showed the same ones."""
    galleries = [shown for _, shown in _examples(list(range(count)), "CIDEr")]
    shown = [image for gallery in galleries for image in gallery]
    assert len(set(shown)) == len(shown) == min(count, 3 * MAX_SHOWN)
    assert [gallery[0] for gallery in galleries[::2] if gallery] == ([0, count - 1][:count] if count else [])


def test_page_of_predictions_has_no_training_curves(evaluation: Evaluation, tmp_path: Path) -> None:
    write_evaluation_report(evaluation, tmp_path / "report.html", tmp_path / "metrics.csv")
    assert ">Training<" not in (tmp_path / "report.html").read_text()


def test_missing_images_have_a_placeholder(evaluation: Evaluation, annotations: Annotations, tmp_path: Path) -> None:
    gone = [replace(item, image=str(tmp_path / "gone.png")) for item in annotations.split("test")]
    write_annotations(gone, tmp_path / "data.jsonl")
    again = evaluate(tmp_path / "p.json", tmp_path / "data.jsonl")
    write_evaluation_report(again, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().count("<img") == len(gone) + 1


def test_absent_objects_have_a_row_only_with_boxes(evaluation: Evaluation) -> None:
    assert "mentioning an absent object" not in dict(diversity_rows(evaluation))
    known = replace(evaluation, absent_objects=0.25)
    assert dict(diversity_rows(known))["mentioning an absent object"] == "25.0 %"


def test_unusable_captions_are_scored_and_counted(colours: Path, annotations: Annotations, tmp_path: Path) -> None:
    good = {item.id: item.captions[0] for item in annotations.split("test")}
    first, second, third, *_ = good
    bad = {**good, first: "the the the the", second: "red red red red", third: "I'm sorry, but I can't help."}
    (tmp_path / "p.json").write_text(json.dumps(bad))
    result = evaluate(tmp_path / "p.json", colours)
    assert result.predictions == bad
    assert result.rejected == {"repetition": 2, "refusal": 1}
    assert result.rejections.endswith("3 rejected (2 repetition, 1 refusal)")
    assert result.to_dict()["rejected"] == {"repetition": 2, "refusal": 1}
    write_evaluation_report(result, tmp_path / "report.html")
    assert "3 rejected (2 repetition, 1 refusal)" in (tmp_path / "report.html").read_text()
    (tmp_path / "p.json").write_text(json.dumps(good))
    assert evaluate(tmp_path / "p.json", colours).rejections == ""
