import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.images import COCO, SQUARE, Kind, draw_images
from bench.measuring import Peak, alternate, median_ratio, peak_memory, print_result, seconds_since_start, show_table
from bench.training_data import GRID, VOCABULARY, load_training_data


def test_variants_alternate_in_both_orders_and_warm_up_is_dropped() -> None:
    order: list[str] = []

    def variant(name: str) -> float:
        order.append(name)
        return float(len(order))

    results = alternate({"a": lambda: variant("a"), "b": lambda: variant("b")}, rounds=2)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert results == {"a": [4.0, 5.0], "b": [3.0, 6.0]}


def test_a_ratio_is_the_median_of_those_within_the_rounds() -> None:
    assert median_ratio([1.0, 20.0, 9.0], [1.0, 10.0, 3.0]) == 2.0  # the machine's speed changes tenfold between rounds


def test_peak_memory_excludes_earlier_memory() -> None:
    earlier = np.ones(20_000_000, np.uint8)
    peak = peak_memory(lambda: np.ones(60_000_000, np.uint8).sum())
    assert 50 < peak.growth < 75
    assert peak.total > peak.growth + len(earlier) / 2**20
    assert np.isfinite(peak).all()
    assert isinstance(peak, Peak)


def test_seconds_since_start_increase() -> None:
    first = seconds_since_start()
    assert 0 < first <= seconds_since_start() < 24 * 3600


def test_the_last_line_is_valid_json(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("name", "n"), [("a", "1"), ("long", "100")])
    print_result("some", rate=1234.5678, none=float("nan"), rows=[{"a": (1, 2.00004)}])
    *table, line = capsys.readouterr().out.splitlines()
    assert table == ["name    n", "a       1", "long  100"]
    result = json.loads(line)
    assert result.items() >= {"benchmark": "some", "rate": 1235, "none": None, "rows": [{"a": [1, 2.0]}]}.items()
    assert result["cores"] >= 1


def test_synthetic_captions_have_flickr8ks_lengths() -> None:
    data = load_training_data(None, None, 200)
    words = [len(caption) - 2 for example in data.examples for caption in example.tokens]
    assert data.captions == len(words) == 1000
    assert np.mean(words) == pytest.approx(10.8, abs=0.4)
    assert np.percentile(words, [5, 50, 95]) == pytest.approx([6, 10, 18], abs=1)
    assert len(data.tokenizer) == VOCABULARY
    assert max(word for example in data.examples for caption in example.tokens for word in caption) < VOCABULARY
    features, mask = data.features.read([data.examples[3].id, data.examples[1].id])
    assert features.shape == (2, *GRID)
    assert mask is None
    np.testing.assert_array_equal(features[1], data.features.features[1])
    assert data.features.pooled().read(["3"])[0].shape == (1, 1, GRID[1])


def test_a_store_needs_its_data() -> None:
    with pytest.raises(SystemExit, match="--data"):
        load_training_data(None, Path("store.safetensors"), 1)


@pytest.mark.parametrize("kind", [SQUARE, COCO])
def test_generated_images_have_the_file_size_of_photographs(kind: Kind, tmp_path: Path) -> None:
    for path in draw_images(tmp_path, kind, 3):
        with Image.open(path) as image:
            assert (image.format, image.size) == ("JPEG", kind.size)
        assert Path(path).stat().st_size == pytest.approx(kind.bytes, rel=0.25)
