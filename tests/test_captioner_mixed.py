"""Pictures with options of their own in shared passes, against each picture alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from seesay import captioner_mixed
from seesay.captioner import Caption, Captioner
from seesay.captioner_ensemble import CaptionerEnsemble
from seesay.captioner_mixed import Wish, caption_mixed, is_same_in_company
from seesay.config import DecodingOptions
from seesay.errors import ConfigError, ImageError, SeesayError
from seesay.sources import PictureBytes

OPTIONS = (
    DecodingOptions(),
    DecodingOptions(num_captions=3),
    DecodingOptions("sample", temperature=1.5, num_captions=2),
    DecodingOptions("sample", sampling_seed=7, max_length=3),
    DecodingOptions("beam", 4, num_captions=4, max_length=5),
    DecodingOptions("beam", 4, beam_groups=2, num_captions=2),
    DecodingOptions("beam", require=("right",), ban=("red",)),
)


@pytest.fixture(scope="module")
def captioner(cached_run: Path) -> Captioner:
    return Captioner.load(cached_run, "cpu")


def held(path: str) -> PictureBytes:
    return PictureBytes("upload", Path(path).read_bytes())


def wishes(captioner: Captioner, pictures: list[str]) -> list[Wish]:
    found = []
    for number, path in enumerate(pictures):
        options = OPTIONS[number % len(OPTIONS)]
        found.append(Wish(*captioner.prepare(held(path)), options, number % 2 == 0, number % 3))
    return found


def mixed(captioner: Captioner, asked: list[Wish]) -> list[Caption | SeesayError]:
    found: dict[int, Caption | SeesayError] = {}
    caption_mixed(captioner, asked, found.__setitem__)
    return [found[number] for number in range(len(asked))]


def assert_same(found: object, wanted: Caption) -> None:
    assert isinstance(found, Caption)
    assert (found.text, found.words, found.finished) == (wanted.text, wanted.words, wanted.finished)
    assert found.log_probs == pytest.approx(wanted.log_probs, rel=1e-4, abs=1e-4)
    assert found.score == pytest.approx(wanted.score, rel=1e-4, abs=1e-4)
    assert (found.attention is None) == (wanted.attention is None)
    if found.attention is not None and wanted.attention is not None:
        np.testing.assert_allclose(found.attention, wanted.attention, atol=1e-4)
    assert [[word for word, _ in place] for place in found.likely] == [
        [word for word, _ in place] for place in wanted.likely
    ]
    for one, other in zip(found.alternatives, wanted.alternatives, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("kind", ["one", "ensemble"])
def test_every_picture_gets_the_caption_that_it_gets_alone(
    captioner: Captioner, loop_run: Path, pictures: list[str], kind: str
) -> None:
    speaker = captioner
    if kind == "ensemble":
        speaker = CaptionerEnsemble([captioner, Captioner.load(loop_run, "cpu")])
    found = mixed(speaker, wishes(speaker, pictures[:21]))
    for number, (path, caption) in enumerate(zip(pictures, found, strict=False)):
        options = OPTIONS[number % len(OPTIONS)]
        assert_same(caption, speaker.caption(held(path), options, attention=number % 2 == 0, likely=number % 3))
    assert len({caption.text for caption in found if isinstance(caption, Caption)}) > 8


def test_the_network_runs_as_often_for_all_as_for_the_longest(
    captioner: Captioner, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = 2 if is_same_in_company(captioner) else 12  # of up to eight, or each by itself
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
    options = [DecodingOptions(), DecodingOptions("beam"), DecodingOptions("sample"), DecodingOptions(max_length=5)]
    mixed(captioner, [Wish(*captioner.prepare(held(path)), options[n % 4]) for n, path in enumerate(pictures[:12])])
    assert calls["encode"] == passes
    assert calls["step"] <= 9  # the longest caption's eight words and its end


def test_on_a_card_all_pictures_are_seen_together() -> None:
    seen = []

    class OnCard:
        device = torch.device("cuda")

        def see(self, pictures: list[object]) -> tuple[torch.Tensor, None]:
            seen.append(len(pictures))
            return torch.zeros(len(pictures), 1, 1), None

    memory, mask = captioner_mixed._see(OnCard(), [()] * 5)  # type: ignore[arg-type]
    assert (seen, len(memory), mask) == ([5], 5, None)


@pytest.mark.parametrize("members", [1, 2])
def test_no_picture_s_features_depend_on_its_company(
    cached_run: Path, pictures: list[str], members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With two threads an encoder's last bits did, and one caption in fifty was another than alone.
    made = [Captioner.load(cached_run, "cpu") for _ in range(members)]
    captioner = made[0] if members == 1 else CaptionerEnsemble(made)
    for one in made:
        encode = one.model.encode
        monkeypatch.setattr(
            one.model, "encode", lambda pixels, encode=encode: encode(pixels) * (1 + 0.3 * (len(pixels) - 1))
        )
    assert not is_same_in_company(captioner)
    asked = wishes(captioner, pictures)
    for wish, found in zip(asked, mixed(captioner, asked), strict=True):
        (alone,) = mixed(captioner, [wish])
        assert isinstance(alone, Caption)
        assert_same(found, alone)


def test_what_an_encoder_does_in_company_is_measured_once(cached_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captioner = Captioner.load(cached_run, "cpu")
    encode, shown = captioner.model.encode, []

    def noting(pixels: torch.Tensor) -> torch.Tensor:
        shown.append(len(pixels))
        return torch.cat([encode(each[None]) for each in pixels])

    monkeypatch.setattr(captioner.model, "encode", noting)
    assert is_same_in_company(captioner)
    assert shown == [1] * 8 + [8] + [2, 3, 3]
    assert is_same_in_company(captioner)
    assert len(shown) == 12


def test_options_that_cannot_be_kept_are_an_answer_of_their_own(captioner: Captioner, pictures: list[str]) -> None:
    views = [captioner.prepare(held(path)) for path in pictures[:3]]
    bad = DecodingOptions("beam", require=("red red red red red red red red red",))
    good = DecodingOptions("beam")
    found = mixed(captioner, [Wish(*views[0], good), Wish(*views[1], bad), Wish(*views[2], good)])
    assert isinstance(found[1], ConfigError)
    assert "above max_length" in str(found[1])
    assert_same(found[0], captioner.caption(held(pictures[0]), good))
    assert_same(found[2], captioner.caption(held(pictures[2]), good))


def test_a_file_in_memory_gets_the_caption_of_the_file(captioner: Captioner, pictures: list[str]) -> None:
    assert_same(captioner.caption(held(pictures[0])), captioner.caption(pictures[0]))
    assert_same(captioner.caption([held(pictures[0])])[0], captioner.caption(pictures[0]))
    with pytest.raises(ImageError, match="upload: the file is empty"):
        captioner.caption(PictureBytes("upload", b""))
    with pytest.raises(ImageError, match="upload: not a picture"):
        captioner.prepare(PictureBytes("upload", b"no picture"))


def test_likely_words_hold_the_words_that_were_said(captioner: Captioner, pictures: list[str]) -> None:
    caption = captioner.caption(pictures[0], likely=50)
    assert len(caption.likely) == len(caption.words) + 1
    for place, word, log_prob in zip(
        caption.likely, (*caption.words, None), (*caption.log_probs, caption.end_log_prob), strict=True
    ):
        assert place[0][0] == word, "greedy decoding says the likeliest"
        assert place[0][1] == pytest.approx(log_prob, abs=1e-5)
        assert sum(np.exp(value) for _, value in place) == pytest.approx(1, abs=1e-4)
    assert captioner.caption(pictures[0]).likely == ()
