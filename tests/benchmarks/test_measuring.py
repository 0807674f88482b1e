import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.images import COCO, SQUARE, Kind, draw_photographs
from bench.material import GRID, VOCABULARY, load_material
from bench.measuring import Peak, alternate, median_ratio, peak_memory, print_result, seconds_since_start, show_table


def test_ways_take_turns_back_and_forth_and_warm_up_does_not_count() -> None:
    order: list[str] = []

    def way(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = alternate({"a": lambda: way("a"), "b": lambda: way("b")}, rounds=2)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [4.0, 5.0], "b": [3.0, 6.0]}


def test_a_ratio_is_the_median_of_those_inside_the_rounds() -> None:
    assert median_ratio([1.0, 20.0, 9.0], [1.0, 10.0, 3.0]) == 2.0  # the machine's speed changes tenfold between them


def test_peak_memory_is_that_of_the_work_and_not_of_what_was_there() -> None:
    there = np.ones(20_000_000, np.uint8)
    peak = peak_memory(lambda: np.ones(60_000_000, np.uint8).sum())
    assert 50 < peak.growth < 75
    assert peak.whole > peak.growth + len(there) / 2**20
    assert np.isfinite(peak).all()
    assert isinstance(peak, Peak)


def test_a_process_is_older_than_its_tests() -> None:
    first = seconds_since_start()
    assert 0 < first <= seconds_since_start() < 24 * 3600


def test_the_last_line_is_json_that_any_reader_takes(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("name", "n"), [("a", "1"), ("long", "100")])
    print_result("some", rate=1234.5678, none=float("nan"), rows=[{"a": (1, 2.00004)}])
    *table, line = capsys.readouterr().out.splitlines()
    assert table == ["name    n", "a       1", "long  100"]
    found = json.loads(line)
    assert found.items() >= {"benchmark": "some", "rate": 1235, "none": None, "rows": [{"a": [1, 2.0]}]}.items()
    assert found["cores"] >= 1


def test_made_up_captions_are_as_long_as_flickr8ks() -> None:
    material = load_material(None, None, 200)
    words = [len(caption) - 2 for example in material.examples for caption in example.tokens]
    assert material.captions == len(words) == 1000
    assert np.mean(words) == pytest.approx(10.8, abs=0.4)
    assert np.percentile(words, [5, 50, 95]) == pytest.approx([6, 10, 18], abs=1)
    assert len(material.tokenizer) == VOCABULARY
    assert max(word for example in material.examples for caption in example.tokens for word in caption) < VOCABULARY
    features, mask = material.features.read([material.examples[3].id, material.examples[1].id])
    assert features.shape == (2, *GRID)
    assert mask is None
    np.testing.assert_array_equal(features[1], material.features.features[1])
    assert material.features.pooled().read(["3"])[0].shape == (1, 1, GRID[1])


def test_a_store_needs_its_data() -> None:
    with pytest.raises(SystemExit, match="--data"):
        load_material(None, Path("store.safetensors"), 1)


@pytest.mark.parametrize("kind", [SQUARE, COCO])
def test_drawn_images_are_as_large_as_photographs(kind: Kind, tmp_path: Path) -> None:
    for path in draw_photographs(tmp_path, kind, 3):
        with Image.open(path) as image:
            assert (image.format, image.size) == ("JPEG", kind.size)
        assert Path(path).stat().st_size == pytest.approx(kind.bytes, rel=0.25)
