"""Each word's look is in the page, as an image that a reading of the HTML finds and that is the overlay itself."""

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seesay.errors import DataError
from seesay.visualise import Card, Gallery, WordByWord, overlay, upsample_attention, write_report

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
        self.looks: list[Image.Image] = []
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
        if tag == "img" and "look" in self._inside:
            data = str(values["src"]).partition("base64,")[2]
            self.looks.append(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
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


def test_every_word_has_its_look_and_the_first_button_is_the_bare_image(tmp_path: Path) -> None:
    section = WordByWord(IMAGE, ["<b>left", "right"], WEIGHTS, GRID, ["1 bit", "2 & 3"], "Looks", side=90)
    write_report(tmp_path / "page.html", "a page", [section])
    page = (tmp_path / "page.html").read_text()
    found = Buttons(page)
    assert found.words == ["the image", "<b>left", "right"]
    assert found.facts == ["1 bit", "2 & 3"]
    assert (found.checked, len(set(found.groups))) == ([0], 1)
    assert found.scripts == 0
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")
    np.testing.assert_array_equal(found.looks[0], IMAGE)
    for look, heat in zip(found.looks[1:], upsample_attention(WEIGHTS, GRID, IMAGE.size), strict=True):
        expected = overlay(IMAGE, heat, peak=max(5 / 6, float(heat.max())))
        assert np.abs(np.asarray(look, int) - np.asarray(expected, int)).mean() < 3, "JPEG at most"
    left, right = (np.asarray(look, int).sum(2) for look in found.looks[1:])
    assert left[:30, :30].mean() > left[30:, 60:].mean()
    assert right[30:, 60:].mean() > right[:30, :30].mean()


def test_two_on_a_page_are_walked_through_apart(tmp_path: Path) -> None:
    one = WordByWord(IMAGE, ["a", "b"], WEIGHTS, GRID)
    other = WordByWord(IMAGE, ["a", "c"], WEIGHTS, GRID)
    cards = Gallery([Card(IMAGE, "a b", attention=one), Card(IMAGE, "a c", attention=other)])
    write_report(tmp_path / "page.html", "a page", [cards])
    found = Buttons((tmp_path / "page.html").read_text())
    assert [found.groups.count(group) for group in sorted(set(found.groups))] == [3, 3]


def test_caption_without_words_is_the_image(tmp_path: Path) -> None:
    section = WordByWord(IMAGE, [], np.zeros((0, 6)), GRID)
    assert Buttons(section.html()).words == ["the image"]


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(DataError, match="1 words, attention for 2 and 1 facts"):
        WordByWord(IMAGE, ["a"], WEIGHTS, GRID).html()
    with pytest.raises(DataError, match="2 words, attention for 2 and 1 facts"):
        WordByWord(IMAGE, ["a", "b"], WEIGHTS, GRID, ["x"]).html()


def test_words_run_in_the_direction_of_their_language() -> None:
    """With dir="auto" the English legend decided."""
    arabic = WordByWord(IMAGE, ["قطة", "سوداء"], WEIGHTS, GRID, ["1 bit", "2 bits"]).html()
    assert '<fieldset dir="rtl"><legend dir="ltr">' in arabic
    assert '<span class="word" lang="ar">قطة</span>' in arabic
    assert '<span class="word">the image</span>' in arabic
    assert '<span class="fact" dir="ltr">1 bit</span>' in arabic
    assert '<fieldset dir="ltr">' in WordByWord(IMAGE, ["a", "b"], WEIGHTS, GRID).html()
