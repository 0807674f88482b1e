from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seesay.captioners.trained import TrainedCaptioner
from seesay.data.annotations import Annotations, write_annotations
from seesay.data.records import Box
from seesay.errors import ConfigError, DataError, ImageError
from seesay.explanation import attention_entropy
from seesay.explanation.explain import explain, held_out_image, save_explanation
from seesay.training.train import train
from tests import tiny


@pytest.fixture(scope="module")
def captioner(cached_run: Path) -> TrainedCaptioner:
    return TrainedCaptioner.load(cached_run, "cpu")


def test_explanation_has_the_caption_with_its_attention(captioner: TrainedCaptioner, images: list[str]) -> None:
    explanation = explain(captioner, images[0], references=("a", "b"))
    assert explanation.caption.text == captioner.caption(images[0]).text
    assert explanation.caption.attention is not None
    assert explanation.references == ("a", "b")
    with Image.open(images[0]) as image:
        np.testing.assert_array_equal(explanation.image, image)
        again = explain(captioner, image).caption
    np.testing.assert_array_equal(again.attention, explanation.caption.attention)


def test_a_large_jpeg_has_the_same_caption_in_explanations(captioner: TrainedCaptioner, tmp_path: Path) -> None:
    """Bug: large JPEGs are decoded at reduced size, but explanations decoded them fully."""
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.jpg")
    explanation = explain(captioner, tmp_path / "large.jpg")
    # A search that returns attention may use another kernel, with other rounding.
    explained = pytest.approx(explanation.caption.log_probs, rel=1e-5, abs=1e-5)
    assert captioner.caption(tmp_path / "large.jpg").log_probs == explained
    assert explanation.image.size == (640, 480)
    with Image.open(tmp_path / "large.jpg") as image:
        assert captioner.caption(image).log_probs != explained, (
            "full decoding gives the same result, so that the test proves nothing"
        )


def test_an_image_of_another_mode_is_converted_to_rgb(captioner: TrainedCaptioner, images: list[str]) -> None:
    with Image.open(images[0]) as image:
        assert explain(captioner, image.convert("LA")).strip().mode == "RGB"


def test_files_contain_the_strip_and_the_arrays(captioner: TrainedCaptioner, images: list[str], tmp_path: Path) -> None:
    explanation = explain(captioner, images[0])
    out = tmp_path / "new" / "x.png"
    assert save_explanation(explanation, out) == [out]
    with Image.open(out) as strip:
        assert strip.width > strip.height > 0
    files = save_explanation(explanation, out, arrays=True)
    assert files == [out, out.with_suffix(".npz")]
    with np.load(files[1]) as arrays:
        assert arrays["words"].tolist() == list(explanation.caption.words)
        np.testing.assert_array_equal(arrays["attention"], explanation.caption.attention)
        assert arrays["grid"].tolist() == [2, 2]
        assert arrays["log_probs"].tolist() == list(explanation.caption.log_probs)


def test_the_page_is_self_contained_and_the_strip_is_beside_it(
    captioner: TrainedCaptioner, images: list[str], tmp_path: Path
) -> None:
    explanation = explain(captioner, images[0], references=("two <colours>",))
    files = save_explanation(explanation, tmp_path / "e.html", arrays=True)
    assert files == [tmp_path / "e.html", tmp_path / "e.png", tmp_path / "e.npz"]
    page = files[0].read_text()
    assert "<script" not in page
    assert "two &lt;colours&gt;" in page
    assert page.count('type="radio"') == len(explanation.caption.words) + 1
    entropies = attention_entropy(np.asarray(explanation.caption.attention))
    for log_prob, bits in zip(explanation.caption.log_probs, entropies, strict=True):
        assert f"probability {np.exp(log_prob):.2f}, attention entropy {bits:.1f} of 2.0 bits" in page
    with np.load(files[2]) as arrays:
        np.testing.assert_allclose(arrays["entropy"], entropies, rtol=1e-6)


def test_the_page_has_the_grounding_of_named_objects(captioner: TrainedCaptioner, images: list[str]) -> None:
    first = explain(captioner, images[0])
    word = next(word for word in first.caption.words if len(word) > 2)
    everywhere = Box(word, 0, 0, *map(float, first.image.size))
    explanation = explain(captioner, images[0], boxes=(everywhere,))
    (hit,) = explanation.grounding_hits
    assert (hit.label, hit.hit) == (word, True)
    assert hit.ratio == pytest.approx(1)
    table = explanation.sections()[1].html()
    assert "maximum on the named object for 1 of 1 words (1.0 at random)" in table
    assert first.grounding_hits == ()


def test_a_model_that_crops_has_the_crop(colours: Path, weights: Path, tmp_path: Path, images: list[str]) -> None:
    train(tiny.cached(weights, resize="crop", epochs=1), colours, tmp_path / "run", features=tmp_path / "features")
    boxes = (Box("a", 0, 0, 44, 32), Box("b", 0, 0, 5, 32))
    explanation = explain(TrainedCaptioner.load(tmp_path / "run", "cpu"), images[0], boxes=boxes)
    assert explanation.image.size == (48, 48)
    assert explanation.strip().width > 0
    assert explanation.boxes == (Box("a", 0, 0, 48, 48),), "the second is outside the centre square"


def test_decoder_without_attention_is_refused(colours: Path, weights: Path, tmp_path: Path, images: list[str]) -> None:
    config = tiny.cached(weights, decoder="pooled", projection_size=32, epochs=1)
    train(config, colours, tmp_path / "run", features=tmp_path / "features")
    with pytest.raises(ConfigError, match=r"the pooled decoder of .*run has no attention"):
        explain(TrainedCaptioner.load(tmp_path / "run", "cpu"), images[0])


def test_unreadable_image_is_refused(captioner: TrainedCaptioner, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        explain(captioner, tmp_path / "gone.png")


def test_regions_without_a_grid_are_refused(captioner: TrainedCaptioner, images: list[str]) -> None:

    gridless = TrainedCaptioner(
        replace(captioner.run, info=replace(captioner.run.info, grid=None)), captioner.model, captioner.device
    )
    with pytest.raises(ConfigError, match="have no grid"):
        explain(gridless, images[0])


class TestHeldOut:
    def test_the_image_is_of_the_test_split_and_reproducible(
        self, captioner: TrainedCaptioner, colours: Path, annotations: Annotations
    ) -> None:
        drawn = [held_out_image(captioner, colours, seed) for seed in range(12)]
        assert all(item in annotations.split("test").items for item in drawn)
        assert len({item.id for item in drawn}) > 2
        assert drawn == [held_out_image(captioner, colours, seed) for seed in range(12)]

    def test_the_validation_split_replaces_a_missing_test_split(
        self, captioner: TrainedCaptioner, annotations: Annotations, tmp_path: Path
    ) -> None:
        write_annotations([item for item in annotations if item.split != "test"], tmp_path / "d.jsonl")
        assert held_out_image(captioner, tmp_path / "d.jsonl", 0).split == "val"
        write_annotations(annotations.split("train"), tmp_path / "d.jsonl")
        with pytest.raises(DataError, match="no test or val image"):
            held_out_image(captioner, tmp_path / "d.jsonl", 0)
