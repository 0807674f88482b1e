"""The HTML report: well-formed, self-contained and safe."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seesay.errors import DataError, ImageError, SeesayError
from seesay.explanation import Card, Figure, Gallery, Section, Table, Text, write_report
from tests.foreign import CAPTIONS

VOID = {"meta", "img", "br", "hr", "link", "input"}
HOSTILE = "<script>alert('1')</script> & \"quoted\" onerror=x --> {braces}"
RED = Image.new("RGB", (24, 16), (200, 30, 30))


class Page(HTMLParser):
    """A strict parser: elements must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute of {tag} is given twice"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self._open[-1] if self._open else "", " ".join(data.split())))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text_of(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def render(folder: Path, *sections: Section, title: str = "A run") -> Page:
    path = folder / "report.html"
    write_report(path, title, sections)
    return Page(path.read_text(encoding="utf-8"))


def all_sections(text: str = "a dog") -> Sequence[Section]:
    card = Card(RED, text, references=(text, "x"), attention=RED, scores={text: 0.5}, name=text)
    return (
        Text(f"{text}\n\nsecond", heading=text),
        Table([text, "n"], [[text, 1], ["b", None]], caption=text, heading=text),
        Figure(RED, alt=text, caption=text, heading=text),
        Gallery([card, Card(RED, text)], heading=text),
        Text(text),
    )


def embedded(page: Page) -> list[tuple[str, bytes, Image.Image]]:
    found: list[tuple[str, bytes, Image.Image]] = []
    for attributes in page.all("img"):
        matched = re.fullmatch(r"data:image/(png|jpeg);base64,([A-Za-z0-9+/=]+)", attributes["src"])
        assert matched is not None
        data = base64.b64decode(matched[2], validate=True)
        image = Image.open(io.BytesIO(data))
        image.load()
        assert (str(image.width), str(image.height)) == (attributes["width"], attributes["height"])
        found.append((matched[1], data, image))
    return found


def test_a_page_of_all_sections_is_well_formed_and_labelled(tmp_path: Path) -> None:
    page = render(tmp_path, *all_sections())
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert page.all("html") == [{"lang": "en"}]
    assert page.text_of("title") == page.text_of("h1") == ["A run"]
    assert page.text_of("h2") == ["a dog"] * 4
    ids = [attributes["id"] for attributes in page.all("h2")]
    assert len(set(ids)) == 4
    assert [section.get("aria-labelledby") for section in page.all("section")] == [*ids, None]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")


def test_hostile_text_is_escaped_everywhere(tmp_path: Path) -> None:
    page = render(tmp_path, *all_sections(HOSTILE), title=HOSTILE)
    assert {tag for tag, _ in page.elements} <= {
        *(
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "main",
            "section",
            "h1",
            "h2",
            "p",
            "div",
            "table",
        ),
        *(
            "caption",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "figure",
            "figcaption",
            "img",
            "article",
            "ul",
            "li",
        ),
        *("dl", "dt", "dd"),
    }
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    for tag in ("title", "h1", "h2", "p", "caption", "th", "td", "figcaption", "li", "dt"):
        assert HOSTILE in page.text_of(tag), tag
    assert HOSTILE in [image["alt"] for image in page.all("img")]


def test_the_page_makes_no_requests(tmp_path: Path) -> None:
    page = render(tmp_path, *all_sections())
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//\w|url\(|@import", re.sub(r"base64,[^\"]+", "", text))
    addresses = [a[name] for _, a in page.elements for name in ("src", "href", "srcset") if name in a]
    assert len(addresses) == 4
    assert all(address.startswith("data:image/") for address in addresses)
    (policy,) = (meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'")


def test_light_and_dark_schemes_define_the_same_colours(tmp_path: Path) -> None:
    render(tmp_path, Text("x"))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{([^}]*)\}", text)
    assert "@media (prefers-color-scheme: dark)" in text
    names = [re.findall(r"(--\w+):", block) for block in (light, dark)]
    assert names[0] == names[1]
    assert set(re.findall(r"var\((--\w+)\)", text)) == set(names[0])
    assert text.count("{") == text.count("}")


def test_every_class_on_the_page_has_a_style(tmp_path: Path) -> None:
    page = render(tmp_path, *all_sections())
    style = (tmp_path / "report.html").read_text(encoding="utf-8").split("</style>")[0]
    used = {name for _, attributes in page.elements for name in attributes.get("class", "").split()}
    assert {"card", "wide", "gallery", "number", "generated"} <= used
    assert used == {name for name in used if f".{name} " in style}


def test_images_are_embedded_and_drawings_are_lossless(tmp_path: Path) -> None:
    page = render(tmp_path, Figure(RED, alt="red"), Gallery([Card(RED, "red", attention=RED)]))
    images = embedded(page)
    assert len(images) == 3
    for _, _, image in images:
        assert image.convert("RGB").getcolors() == [(24 * 16, (200, 30, 30))]


def test_photographs_are_reduced(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 1500, 3), dtype=np.uint8)
    photograph = Image.fromarray(noise)
    ((kind, data, image),) = embedded(render(tmp_path, Figure(photograph, alt="noise")))
    assert photograph.size == (1500, 300)  # the argument is unchanged
    assert kind == "jpeg"
    assert image.size == (1280, 256)
    assert len(data) < 1280 * 256 * 2


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_encoded_images_are_embedded_unchanged(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    RED.save(buffer, kind)
    ((found, data, _),) = embedded(render(tmp_path, Figure(buffer.getvalue(), alt="red")))
    assert (found, data) == (kind, buffer.getvalue())


@pytest.mark.parametrize("data", [b"", b"<svg onload=alert(1)>", b"GIF89a"])
def test_invalid_image_bytes_are_refused_before_writing(tmp_path: Path, data: bytes) -> None:
    write_report(tmp_path / "report.html", "old", [])
    old = (tmp_path / "report.html").read_bytes()
    with pytest.raises(ImageError, match="neither PNG nor JPEG"):
        render(tmp_path, Figure(data, alt="x"))
    assert (tmp_path / "report.html").read_bytes() == old


def test_every_image_has_an_alternative_text(tmp_path: Path) -> None:
    cards = [
        Card(RED, "", attention=RED),
        Card(RED, "c", name="7.jpg"),
        Card(RED, "c", references=["a red wall"]),
    ]
    alts = [image["alt"] for image in render(tmp_path, Gallery(cards)).all("img")]
    assert all(alts)
    assert alts[2:] == ["7.jpg", "a red wall"]


def test_a_card_shows_caption_references_scores_and_name(tmp_path: Path) -> None:
    card = Card(RED, "a red wall", ("a wall", "it is red"), None, {"CIDEr": 1.234, "BLEU-4": float("nan")}, "7.jpg")
    page = render(tmp_path, Gallery([card]))
    assert "a red wall" in page.text_of("p")
    assert "7.jpg" in page.text_of("p")
    assert page.text_of("li") == ["a wall", "it is red"]
    assert page.text_of("dt") == ["CIDEr", "BLEU-4"]
    assert page.text_of("dd") == ["1.23", "–"]
    assert len(page.all("img")) == 1


def test_an_empty_caption_has_a_note(tmp_path: Path) -> None:
    assert render(tmp_path, Gallery([Card(RED, " ")])).text_of("em") == ["(an empty caption)"]


def test_a_table_has_a_caption_headers_and_right_aligned_numbers(tmp_path: Path) -> None:
    rows: list[list[str | float | None]] = [["greedy", 12, 48.123], ["beam", None, float("nan")]]
    page = render(tmp_path, Table(["search", "images", "CIDEr"], rows, caption="Scores"))
    assert page.text_of("caption") == ["Scores"]
    assert [head["scope"] for head in page.all("th")] == ["col"] * 3
    assert page.text_of("td") == ["greedy", "12", "48.12", "beam", "–", "–"]
    assert [cell.get("class") for cell in page.all("td")] == [None, "number", "number"] * 2


def test_an_empty_table_and_an_empty_report(tmp_path: Path) -> None:
    assert len(render(tmp_path, Table(["a", "b"], [])).all("th")) == 2
    assert render(tmp_path).all("section") == []


def test_a_ragged_table_is_refused() -> None:
    with pytest.raises(DataError, match="row 2 of a report table has 1 cells for 2 headers"):
        Table(["a", "b"], [[1, 2], [3]])


def test_text_is_split_into_paragraphs_at_empty_lines(tmp_path: Path) -> None:
    page = render(tmp_path, Text("one\nstill one\n\n\n\ntwo\n"))
    assert page.text_of("p") == ["one still one", "two"]


def test_paragraphs_with_windows_line_endings_are_split(tmp_path: Path) -> None:
    assert render(tmp_path, Text("one\r\n\r\ntwo\n \nthree")).text_of("p") == ["one", "two", "three"]


def test_a_custom_section(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Rule:
        heading: str = "Mine"

        def html(self) -> str:
            return "<hr>"

    page = render(tmp_path, Rule())
    assert page.text_of("h2") == ["Mine"]
    assert len(page.all("hr")) == 1


def test_captions_of_any_script_and_invalid_file_names(tmp_path: Path) -> None:
    page = render(tmp_path, Gallery([Card(RED, "狗在跑 كلب 🐕", name="caf\udce9.jpg")]))
    assert "狗在跑 كلب 🐕" in page.text_of("p")
    assert "caf?.jpg" in page.text_of("p")


def test_the_report_is_written_to_a_new_folder_without_other_files(tmp_path: Path) -> None:
    path = tmp_path / "demo" / "out" / "report.html"
    write_report(path, "one", [])
    write_report(path, "two", [])
    assert Page(path.read_text(encoding="utf-8")).text_of("h1") == ["two"]
    assert list(path.parent.iterdir()) == [path]


def test_a_report_that_cannot_be_written_is_an_error_and_leaves_no_files(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(SeesayError, match=r"cannot write .*report\.html"):
        write_report(tmp_path / "report.html", "x", [])
    (tmp_path / "file").write_text("")
    with pytest.raises(SeesayError, match="cannot write"):
        write_report(tmp_path / "file" / "report.html", "x", [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "report.html"]


@pytest.mark.parametrize(
    ("language", "attributes"),
    [
        ("ar", {"lang": "ar", "dir": "rtl"}),
        ("ja", {"lang": "ja", "dir": "auto"}),
        ("zh", {"lang": "zh", "dir": "auto"}),
        ("th", {"lang": "th", "dir": "auto"}),
        ("de", {"lang": "de", "dir": "auto"}),
        ("en", {"dir": "auto"}),
    ],
)
def test_language_and_direction_follow_the_text(language: str, attributes: dict[str, str], tmp_path: Path) -> None:
    text = CAPTIONS[language][4][0]
    page = render(tmp_path, *all_sections(text), title=text)
    assert page.all("html") == [{"lang": "en"}]  # the language of the page
    for tag in ("h1", "figcaption"):
        assert page.all(tag) == [attributes]
    assert page.all("p")[0] == attributes
    assert {**attributes, "class": "generated"} in page.all("p")
    assert page.all("li")[0] == attributes
    assert page.all("title") == [{name: tag for name, tag in attributes.items() if name == "lang"}]
    assert page.all("img")[0].get("lang") == attributes.get("lang")
    assert page.all("td")[0] == ({} if text.isascii() else attributes)
