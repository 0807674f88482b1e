"""Batches of images with different options, against each image alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from seesay.captioners.batching import CaptionRequest, generate_batch
from seesay.captioners.caption import Caption, CaptionSettings
from seesay.captioners.ensemble import EnsembleCaptioner
from seesay.captioners.trained import TrainedCaptioner
from seesay.config import DecodingOptions
from seesay.errors import ConfigError, ImageError, SeesayError
from seesay.images.sources import ImageBytes
from tests.captioners.scripted import ScriptedCaptioner

OPTIONS = (
    DecodingOptions(),
    DecodingOptions(num_return_sequences=3),
    DecodingOptions(strategy="sample", temperature=1.5, num_return_sequences=2),
    DecodingOptions(strategy="sample", sampling_seed=7, max_length=3),
    DecodingOptions(strategy="beam", beam_size=4, num_return_sequences=4, max_length=5),
    DecodingOptions(strategy="beam", beam_size=4, num_beam_groups=2, num_return_sequences=2),
    DecodingOptions(strategy="beam", force_words=("right",), bad_words=("red",)),
)


@pytest.fixture(scope="module")
def captioner(cached_run: Path) -> TrainedCaptioner:
    return TrainedCaptioner.load(cached_run, "cpu")


def in_memory(path: str) -> ImageBytes:
    return ImageBytes("upload", Path(path).read_bytes())


def requests(captioner: TrainedCaptioner, images: list[str]) -> list[CaptionRequest]:
    found = []
    for number, path in enumerate(images):
        options = OPTIONS[number % len(OPTIONS)]
        settings = CaptionSettings(options, number % 2 == 0, number % 3)
        found.append(CaptionRequest(captioner.prepare(in_memory(path)), settings))
    return found


def caption_together(captioner: TrainedCaptioner, batch: list[CaptionRequest]) -> list[Caption | SeesayError]:
    found: dict[int, Caption | SeesayError] = {}
    generate_batch(captioner, batch, found.__setitem__)
    return [found[number] for number in range(len(batch))]


def assert_same(found: object, wanted: Caption) -> None:
    assert isinstance(found, Caption)
    assert (found.text, found.words, found.finished) == (wanted.text, wanted.words, wanted.finished)
    assert found.log_probs == pytest.approx(wanted.log_probs, rel=1e-4, abs=1e-4)
    assert found.score == pytest.approx(wanted.score, rel=1e-4, abs=1e-4)
    assert (found.attention is None) == (wanted.attention is None)
    if found.attention is not None and wanted.attention is not None:
        np.testing.assert_allclose(found.attention, wanted.attention, atol=1e-4)
    assert [[word for word, _ in place] for place in found.top_tokens] == [
        [word for word, _ in place] for place in wanted.top_tokens
    ]
    for one, other in zip(found.alternatives, wanted.alternatives, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("kind", ["one", "ensemble"])
def test_captions_do_not_depend_on_the_batch(
    captioner: TrainedCaptioner, loop_run: Path, images: list[str], kind: str
) -> None:
    tested = captioner
    if kind == "ensemble":
        tested = EnsembleCaptioner([captioner, TrainedCaptioner.load(loop_run, "cpu")])
    found = caption_together(tested, requests(tested, images[:21]))
    for number, (path, caption) in enumerate(zip(images, found, strict=False)):
        options = OPTIONS[number % len(OPTIONS)]
        assert_same(caption, tested.caption(in_memory(path), options, attention=number % 2 == 0, top_tokens=number % 3))
    assert len({caption.text for caption in found if isinstance(caption, Caption)}) > 8


def test_images_are_encoded_together_and_decoded_per_set_of_options(
    captioner: TrainedCaptioner, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"encode": 0, "step": 0}
    real_encode, real_step = captioner.model.encode, captioner.decoder.step

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        calls["encode"] += 1
        return real_encode(pixels)

    def step(*arguments: object) -> object:
        calls["step"] += 1
        return real_step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(captioner.model, "encode", encode)
    monkeypatch.setattr(captioner.decoder, "step", step)
    options = [
        DecodingOptions(),
        DecodingOptions(strategy="beam"),
        DecodingOptions(strategy="sample"),
        DecodingOptions(max_length=5),
    ]
    caption_together(
        captioner,
        [
            CaptionRequest(captioner.prepare(in_memory(path)), CaptionSettings(options[n % 4]))
            for n, path in enumerate(images[:12])
        ],
    )
    assert calls["encode"] == 2  # batches of up to eight images
    assert calls["step"] <= 4 * 9  # at most eight words and the end


def test_invalid_options_fail_alone(captioner: TrainedCaptioner, images: list[str]) -> None:
    loaded = [captioner.prepare(in_memory(path)) for path in images[:3]]
    bad = DecodingOptions(strategy="beam", force_words=("red red red red red red red red red",))
    good = DecodingOptions(strategy="beam")
    found = caption_together(
        captioner,
        [
            CaptionRequest(loaded[0], CaptionSettings(good)),
            CaptionRequest(loaded[1], CaptionSettings(bad)),
            CaptionRequest(loaded[2], CaptionSettings(good)),
        ],
    )
    assert isinstance(found[1], ConfigError)
    assert "above max_length" in str(found[1])
    assert_same(found[0], captioner.caption(in_memory(images[0]), good))
    assert_same(found[2], captioner.caption(in_memory(images[2]), good))


def test_a_file_in_memory_gets_the_caption_of_the_file(captioner: TrainedCaptioner, images: list[str]) -> None:
    assert_same(captioner.caption(in_memory(images[0])), captioner.caption(images[0]))
    assert_same(captioner.caption([in_memory(images[0])])[0], captioner.caption(images[0]))
    with pytest.raises(ImageError, match="upload: the file is empty"):
        captioner.caption(ImageBytes("upload", b""))
    with pytest.raises(ImageError, match="upload: not an image"):
        captioner.prepare(ImageBytes("upload", b"no image"))


def test_top_tokens_contain_the_generated_words(captioner: TrainedCaptioner, images: list[str]) -> None:
    caption = captioner.caption(images[0], top_tokens=50)
    assert len(caption.top_tokens) == len(caption.words) + 1
    for place, word, log_prob in zip(
        caption.top_tokens, (*caption.words, None), (*caption.log_probs, caption.end_log_prob), strict=True
    ):
        assert place[0][0] == word, "greedy decoding selects the most probable word"
        assert place[0][1] == pytest.approx(log_prob, abs=1e-5)
        assert sum(np.exp(value) for _, value in place) == pytest.approx(1, abs=1e-4)
    assert captioner.caption(images[0]).top_tokens == ()


def test_the_guard_checks_captions_of_requests(images: list[str]) -> None:
    name = Path(images[0]).stem
    captioner = ScriptedCaptioner({name: ["", "A dog runs."], Path(images[1]).stem: [""]})
    requests = [CaptionRequest(captioner.prepare(path), CaptionSettings()) for path in images[:2]]
    found: dict[int, Caption | SeesayError] = {}
    generate_batch(captioner, requests, found.__setitem__)
    assert [(each.text, each.rejected) for each in found.values() if isinstance(each, Caption)] == [
        ("A dog runs.", ""),
        ("", "empty"),
    ]
