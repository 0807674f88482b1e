import json
from pathlib import Path

import pytest

from seesay.checkpoint import load_run
from seesay.config import resolve_config
from seesay.data.annotations import load_annotations
from seesay.demo import DemoResult, run_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoResult]:
    folder = tmp_path_factory.mktemp("demo")
    config = resolve_config(
        "scenes", overrides={"image_size": 48, "epochs": 5, "hidden_size": 64, "device": "cpu", "precision": "float32"}
    )
    return folder, run_demo(folder, seed=4, counts=(60, 8, 8), config=config)


def test_report_contains_six_test_scenes_with_their_captions(demo: tuple[Path, DemoResult]) -> None:
    folder, result = demo
    assert result.report == folder / "report.html"
    page = result.report.read_text(encoding="utf-8")
    assert page.count("<article") == 6
    predictions = [
        json.loads(line) for line in (folder / "run/predictions/test/predictions.jsonl").read_text().splitlines()
    ]
    in_report = [entry for entry in predictions if entry["id"] in page]
    assert len(in_report) == 6
    references = {item.id: item.captions for item in load_annotations(folder / "scenes").split("test")}
    for entry in in_report:
        assert entry["caption"] in page
        assert all(reference in page for reference in references[entry["id"]])
    words = sum(len(entry["caption"].split()) for entry in in_report)
    assert page.count('type="radio"') == words + 6
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_printed_numbers_are_those_of_the_run(demo: tuple[Path, DemoResult]) -> None:
    folder, result = demo
    saved = json.loads((folder / "run/predictions/test/scores.json").read_text())
    assert saved["scores"] == result.scores
    assert saved["images"] == 8
    assert load_run(folder / "run").info.progress["epochs"] == 5
    assert 0 <= result.grounding.unfounded <= 1
    assert result.grounding.ratio >= 0
    lines = result.lines()
    assert f"BLEU-4 {100 * result.scores['BLEU-4']:.1f}, CIDEr {100 * result.scores['CIDEr']:.1f} on" in lines[0]
    assert f"{result.grounding.ratio:.2f} on average over {result.grounding.nouns} nouns" in lines[1]
    assert str(result.report) in lines[-1]
