"""The page contains the overlay of each word."""

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seesay.errors import DataError
from seesay.explanation import Card, Gallery, WordByWord, overlay, upsample_attention, write_report

GRID = (2, 3)
WEIGHTS = np.array([[0.9, 0.02, 0.02, 0.02, 0.02, 0.02], [0.02, 0.02, 0.02, 0.02, 0.02, 0.9]])
IMAGE = Image.new("RGB", (90, 60), (120, 160, 90))


class Buttons(HTMLParser):
    """The radio buttons of a page with their group, word, image and fact."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.groups: list[str] = []
        self.checked: list[int] = []
        self.words: list[str] = []
        self.overlays: list[Image.Image] = []
        self.facts: list[str] = []
        self.scripts = 0
        self._inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.scripts += tag == "script"
        if tag == "input":
            assert values["type"] == "radio"
            self.groups.append(str(values["name"]))
            if "checked" in values:
                self.checked.append(len(self.groups) - 1)
        if tag == "img" and "overlay" in self._inside:
            data = str(values["src"]).partition("base64,")[2]
            self.overlays.append(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
        if tag == "span":
            self._inside.append(str(values.get("class")))

    def handle_endtag(self, tag: str) -> None:
        if tag == "span":
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if self._inside[-1:] == ["word"]:
            self.words.append(data)
        if self._inside[-1:] == ["fact"]:
            self.facts.append(data)


def test_every_word_has_its_overlay_and_the_first_button_is_the_plain_image(tmp_path: Path) -> None:
    section = WordByWord(IMAGE, ["<b>left", "right"], WEIGHTS, GRID, ["1 bit", "2 & 3"], "Attention", side=90)
    write_report(tmp_path / "page.html", "a page", [section])
    page = (tmp_path / "page.html").read_text()
    found = Buttons(page)
    assert found.words == ["the image", "<b>left", "right"]
    assert found.facts == ["1 bit", "2 & 3"]
    assert (found.checked, len(set(found.groups))) == ([0], 1)
    assert found.scripts == 0
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")
    np.testing.assert_array_equal(found.overlays[0], IMAGE)
    for result, heat in zip(found.overlays[1:], upsample_attention(WEIGHTS, GRID, IMAGE.size), strict=True):
        expected = overlay(IMAGE, heat, peak=max(5 / 6, float(heat.max())))
        assert np.abs(np.asarray(result, int) - np.asarray(expected, int)).mean() < 3, (
            "differs by more than JPEG compression"
        )
    left, right = (np.asarray(result, int).sum(2) for result in found.overlays[1:])
    assert left[:30, :30].mean() > left[30:, 60:].mean()
    assert right[30:, 60:].mean() > right[:30, :30].mean()


def test_two_sections_have_separate_groups(tmp_path: Path) -> None:
    one = WordByWord(IMAGE, ["a", "b"], WEIGHTS, GRID)
    other = WordByWord(IMAGE, ["a", "c"], WEIGHTS, GRID)
    cards = Gallery([Card(IMAGE, "a b", attention=one), Card(IMAGE, "a c", attention=other)])
    write_report(tmp_path / "page.html", "a page", [cards])
    found = Buttons((tmp_path / "page.html").read_text())
    assert [found.groups.count(group) for group in sorted(set(found.groups))] == [3, 3]


def test_caption_without_words_is_the_image(tmp_path: Path) -> None:
    section = WordByWord(IMAGE, [], np.zeros((0, 6)), GRID)
    assert Buttons(section.html()).words == ["the image"]


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="1 words, attention for 2 and 1 facts"):
        WordByWord(IMAGE, ["a"], WEIGHTS, GRID).html()
    with pytest.raises(DataError, match="2 words, attention for 2 and 1 facts"):
        WordByWord(IMAGE, ["a", "b"], WEIGHTS, GRID, ["x"]).html()


def test_words_have_the_direction_of_their_language() -> None:
    """Bug: with dir="auto" the English legend determined the direction."""
    arabic = WordByWord(IMAGE, ["قطة", "سوداء"], WEIGHTS, GRID, ["1 bit", "2 bits"]).html()
    assert '<fieldset dir="rtl"><legend dir="ltr">' in arabic
    assert '<span class="word" lang="ar">قطة</span>' in arabic
    assert '<span class="word">the image</span>' in arabic
    assert '<span class="fact" dir="ltr">1 bit</span>' in arabic
    assert '<fieldset dir="ltr">' in WordByWord(IMAGE, ["a", "b"], WEIGHTS, GRID).html()
