"""Selection of fonts by glyphs; fonts included in Matplotlib represent installed ones."""

import logging
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image

from seesay.explanation import attention_strip, fonts
from seesay.explanation.beam_tree import draw_beam_tree
from tests.explanation.test_beam_tree import OPTIONS, traced
from tests.foreign import CAPTIONS

BUNDLED = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
ARC, SEGMENT = "\u2312", "\u2313"  # in DejaVu Sans Mono, not in DejaVu Sans


@pytest.fixture(autouse=True)
def clear_caches() -> Iterator[None]:
    """Clears the caches of installed fonts and warnings."""
    for cached in (fonts._installed, fonts._warn):
        cached.cache_clear()
    yield
    for cached in (fonts._installed, fonts._warn):
        cached.cache_clear()


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_installed", tuple)


@pytest.fixture
def mono(monkeypatch: pytest.MonkeyPatch) -> str:
    """The only installed font besides DejaVu Sans and the placeholder font."""
    path = str(BUNDLED / "DejaVuSansMono.ttf")
    monkeypatch.setattr(fonts, "_installed", lambda: (str(BUNDLED / "LastResortHE-Regular.ttf"), path))
    return path


def strip(*words: str, title: str = "") -> Image.Image:
    return attention_strip(Image.new("RGB", (60, 40)), words, np.full((len(words), 4), 0.25), (2, 2), title=title)


@pytest.mark.parametrize("language", ["de", "ar", "en"])
def test_only_dejavu_is_used_if_it_has_the_characters(language: str, no_fonts: None) -> None:
    texts = [text for image in CAPTIONS[language] for text in image]
    assert fonts.find_fonts([*texts, "e\u0301 \u200d\n"]) == [fonts.default_font()]


def test_a_font_with_the_characters_is_found(mono: str, caplog: pytest.LogCaptureFixture) -> None:
    """The placeholder font of Matplotlib is not used."""
    assert fonts.find_fonts(["a dog", f"a {ARC}"]) == [fonts.default_font(), mono]
    assert fonts.find_families([ARC]) == ["DejaVu Sans", "DejaVu Sans Mono"]
    assert caplog.messages == []


def test_strips_use_a_font_with_the_characters(mono: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert strip(ARC, title=SEGMENT) != strip(SEGMENT, title=SEGMENT)
    assert strip("a", title=ARC) != strip("a", title=SEGMENT)
    monkeypatch.setattr(fonts, "_installed", tuple)
    assert strip(ARC) == strip(SEGMENT)  # boxes


def test_beam_trees_use_a_font_with_the_characters(mono: str) -> None:
    _, trace, (caption, *_) = traced(OPTIONS)
    assert draw_beam_tree(trace, lambda _: ARC, caption, 0.7) != draw_beam_tree(trace, lambda _: SEGMENT, caption, 0.7)
    assert draw_beam_tree(trace, str, caption, 0.7, ARC) != draw_beam_tree(trace, str, caption, 0.7, SEGMENT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("一只狗", "no installed font has CJK: figures show boxes; install one, such as Debian's fonts-noto-cjk"),
        ("หมา", "no installed font has Thai: figures show boxes; install one, such as Debian's fonts-noto-core"),
        ("\U0001f9ae", "has some symbols: figures show boxes; install one, such as Debian's fonts-symbola"),
    ],
)
def test_missing_glyphs_are_logged_once_with_a_package(
    text: str, message: str, no_fonts: None, caplog: pytest.LogCaptureFixture
) -> None:
    _, trace, (caption, *_) = traced(OPTIONS)
    with caplog.at_level(logging.WARNING):
        strip(text, title=text)
        strip(text)
        draw_beam_tree(trace, lambda _: text, caption, 0.7, text)  # Matplotlib would warn for each character
    assert len(caplog.messages) == 1
    assert message in caplog.messages[0]


def test_fonts_that_are_not_in_matplotlibs_list_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cached list may be older than an installed font."""

    class Listed:
        def __init__(self) -> None:
            self.ttflist: list[font_manager.FontEntry] = []

        def addfont(self, path: str) -> None:
            if not Path(path).exists():
                raise RuntimeError("no font")
            self.ttflist.append(font_manager.FontEntry(fname=path, name="any", weight=400))

    path = str(BUNDLED / "DejaVuSansMono.ttf")
    monkeypatch.setattr(font_manager, "fontManager", Listed())
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [path, str(BUNDLED / "none.ttf")])
    assert fonts.find_fonts([ARC]) == [fonts.default_font(), path]


def test_a_title_without_spaces_wraps(no_fonts: None) -> None:
    """Bug: it was truncated with an ellipsis."""
    text = "".join(caption for image in CAPTIONS["zh"] for caption in image)
    assert strip("a", title=text).height > strip("a", title=text[:5]).height + 60
    assert fonts.split_characters("ที่สุด") == ["ที่", "สุ", "ด"]


def test_dollar_signs_are_not_parsed_as_a_formula() -> None:
    _, trace, (caption, *_) = traced(OPTIONS)
    assert draw_beam_tree(trace, str, caption, 0.7, "a sign for $5 and for $_6")
