"""The pipeline of all captioners: guard, second attempt, alt text."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seesay.captioners import guard, load_captioner
from seesay.captioners.caption import Caption
from seesay.captioners.trained import TrainedCaptioner
from seesay.config import DecodingOptions
from seesay.errors import CaptionError, ConfigError, ImageError
from seesay.tokenizer import END_ID
from tests import tiny
from tests.captioners.scripted import ScriptedCaptioner, caption

REFUSAL = "I'm sorry, but I can't assist with that."


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Images a to d, and e, which is white."""
    for number, name in enumerate("abcd"):
        tiny.image(number).save(tmp_path / f"{name}.png")
    Image.new("RGB", (40, 30), "white").save(tmp_path / "e.png")
    return sorted(map(str, tmp_path.iterdir()))


def found(captioner: ScriptedCaptioner, images: list[str], **options: object) -> list[str]:
    results = captioner.caption_each(images, **options)  # type: ignore[arg-type]
    return [f"error: {result}" if isinstance(result, ImageError) else result.text for _, result in results]


def test_an_unusable_caption_is_generated_once_more(photos: list[str]) -> None:
    captioner = ScriptedCaptioner(
        {
            "a": ["A dog."],
            "b": ["", "A cat."],
            "c": [REFUSAL, REFUSAL, "never reached"],
            "d": ["the the the the", "A fox."],
        }
    )
    assert found(captioner, photos[:4]) == [
        "A dog.",
        "A cat.",
        f"error: {photos[2]}: no usable caption: refusal ({REFUSAL!r})",
        "A fox.",
    ]
    beam = DecodingOptions(strategy="beam", no_repeat_ngram_size=3, min_length=1, max_length=20)
    sample = DecodingOptions(strategy="sample", temperature=0.7, sampling_seed=1, min_length=1, max_length=20)
    assert captioner.calls == [(["a", "b", "c", "d"], None), (["b", "d"], beam), (["c"], sample)]


def test_the_error_states_the_reason(photos: list[str]) -> None:
    captioner = ScriptedCaptioner({"a": ["!!!!"]})
    ((_, error),) = captioner.caption_each(photos[:1])
    assert isinstance(error, CaptionError)
    assert error.reason == guard.PUNCTUATION
    long = ScriptedCaptioner({"a": ["the " * 100]})
    assert len(found(long, photos[:1])[0]) < len(photos[0]) + 150


def test_without_guard_captions_are_unchanged(photos: list[str]) -> None:
    captioner = ScriptedCaptioner({"a": ["<think>"], "b": ["the the the the"]})
    assert found(captioner, photos[:2], guard=False) == ["<think>", "the the the the"]
    assert captioner.caption(photos[0], guard=False).rejected == ""
    assert len(captioner.calls) == 2


def test_caption_returns_the_text_with_the_reason(photos: list[str]) -> None:
    captioner = ScriptedCaptioner({"a": [REFUSAL, "also bad !!!!!!!!"], "b": ["A dog."]})
    single = captioner.caption(photos[0])
    assert (single.text, single.rejected) == (REFUSAL, guard.REFUSAL)
    several = captioner.caption(photos[:2])
    assert [each.rejected for each in several] == [guard.PUNCTUATION, ""]


def test_a_second_attempt_is_used_for_one_image(photos: list[str]) -> None:
    captioner = ScriptedCaptioner({"a": ["", "A dog."]})
    assert captioner.caption(photos[0]).text == "A dog."


def test_settings_that_the_captioner_refuses_are_skipped(photos: list[str]) -> None:
    captioner = ScriptedCaptioner({"a": ["", "A dog."]}, refused=["beam"])
    assert found(captioner, photos[:1]) == ["A dog."]
    assert [options and options.strategy for _, options in captioner.calls] == [None, "sample"]
    captioner = ScriptedCaptioner({"a": ["", "A dog."]}, refused=["beam", "sample"])
    assert found(captioner, photos[:1]) == [f"error: {photos[0]}: no usable caption: empty"]
    assert len(captioner.calls) == 1


def test_a_cut_caption_gets_twice_the_length(photos: list[str]) -> None:
    cut: Caption = caption("A dog on the", finished=False)
    captioner = ScriptedCaptioner({"a": [cut, "A dog on the grass."], "b": [cut]})
    assert found(captioner, photos[:2]) == [
        "A dog on the grass.",
        f"error: {photos[1]}: no usable caption: cut in mid-sentence ('A dog on the')",
    ]
    assert captioner.calls[1] == (["a", "b"], DecodingOptions(max_length=40))


def test_reasoning_is_removed_and_the_prompt_is_known(photos: list[str]) -> None:
    captioner = ScriptedCaptioner({"a": ["<think>hm</think> A dog."], "b": ["Describe this."]}, prompt="Describe this.")
    assert found(captioner, photos[:2])[0] == "A dog."
    assert "prompt echo" in found(captioner, photos[1:2])[0]


def test_unusable_alternatives_are_dropped(photos: list[str]) -> None:
    captioner = ScriptedCaptioner({"a": [caption("", "A dog.", "the the the the", "A cat.")]})
    best = captioner.caption(photos[0])
    assert [best.text, *(each.text for each in best.alternatives)] == ["A dog.", "A cat."]
    assert len(captioner.calls) == 1


def test_unreadable_images_stay_in_place(photos: list[str]) -> None:
    captioner = ScriptedCaptioner({"a": ["A dog."], "b": ["", "A cat."]})
    names = ["missing1", photos[0], "missing2", photos[1]]
    expected = ["error: missing1: no such file", "A dog.", "error: missing2: no such file", "A cat."]
    assert found(captioner, names, batch_size=3) == expected


def test_an_array_is_named_in_the_error() -> None:
    captioner = ScriptedCaptioner({"array": [""]})
    ((_, error),) = captioner.caption_each([np.zeros((4, 4, 3), np.uint8)])
    assert str(error) == "image: no usable caption: empty"


class TestAltText:
    def test_captions_are_alt_texts(self, photos: list[str]) -> None:
        captioner = ScriptedCaptioner({"a": [caption("an image of a dog", "a photo of a cat")], "e": ["white"]})
        (_, best), (_, blank) = captioner.caption_each([photos[0], photos[4]], style="alt-text")
        assert isinstance(best, Caption)
        assert isinstance(blank, Caption)
        assert [best.text, best.alternatives[0].text] == ["A dog.", "A cat."]
        assert (blank.text, blank.rejected) == ("", "")

    def test_a_blank_image_is_no_failure(self, photos: list[str]) -> None:
        captioner = ScriptedCaptioner({"e": [""]})
        assert found(captioner, photos[4:], style="alt-text") == [""]
        assert "no usable caption: empty" in found(captioner, photos[4:])[0]

    def test_blank_images_are_found_in_encoded_ones(self, photos: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        # The inputs of a model server are the bytes of an encoded image.
        monkeypatch.setattr(
            ScriptedCaptioner,
            "load_inputs",
            lambda _, image, prompt: (np.frombuffer(Path(image).read_bytes(), np.uint8), prompt, Path(image).stem),
        )
        captioner = ScriptedCaptioner({"a": ["a dog"], "e": ["white"]})
        assert found(captioner, [photos[0], photos[4]], style="alt-text") == ["A dog.", ""]

    def test_an_unusable_caption_is_an_error(self, photos: list[str]) -> None:
        captioner = ScriptedCaptioner({"a": ["the the the the the"]})
        (error,) = found(captioner, photos[:1], style="alt-text")
        assert error.endswith("no usable caption: repetition ('the the the the the')")  # as generated


class TestOwnRuns:
    def test_captions_of_maximum_length_are_usable(self, cached_run: Path, images: list[str]) -> None:
        captioner = TrainedCaptioner.load(cached_run, "cpu")
        options = DecodingOptions(max_length=2)
        cut = captioner.caption(images[0], options)
        assert not cut.finished
        assert cut.rejected == ""

    def test_an_empty_caption_is_generated_once_more(self, exported: Path) -> None:
        captioner = TrainedCaptioner.load(exported.parent, "cpu")
        *_, last = (part for part in captioner.model.decoder.modules() if isinstance(part, torch.nn.Linear))
        last.bias.data[END_ID] += 100.0
        image = tiny.image(0)
        assert captioner.caption(image, guard=False).text == ""
        again = captioner.caption(image)
        assert again.rejected == ""
        assert len(again.words) == 1  # a beam search with min_length 1


def test_an_unknown_keyword_names_the_known_ones() -> None:
    # Bug: decoding options as keywords raised a bare TypeError of CaptionSettings.__init__.
    captioner = ScriptedCaptioner({}, "own")
    known = r"known are options, attention, top_tokens, guard, style, prompt$"
    with pytest.raises(ConfigError, match=rf"options=DecodingOptions\(strategy=\.\.\.\)\); {known}"):
        captioner.caption("photo.jpg", strategy="beam")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match=rf"^unknown argument 'beem'; {known}"):
        list(captioner.caption_each(["photo.jpg"], beem=3))  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"^unknown argument 'colour'; known are precision, endpoint, prompt, "):
        load_captioner("nope", colour=True)
