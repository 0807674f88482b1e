"""Displays of results in notebooks."""

import dataclasses
import http.server
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from seesay.captioners.caption import Caption
from seesay.metrics import compute_metrics
from seesay.notebook import ResultTable, caption_html
from tests import tiny
from tests.browsers import NEEDS_CHROMIUM, chromium, visits
from tests.captioners.scripted import ScriptedCaptioner

HOSTILE = "<script>document.title='owned'</script>\"'><b>[red]"
WORDS = ("a", HOSTILE, "dog")
ATTENTION = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=np.float32)


class Tags(HTMLParser):
    """The elements of a fragment, its text, and the addresses that it loads."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.text = ""
        self.loaded: list[str] = []
        self.feed(fragment)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text += data


def caption(**changes: object) -> Caption:
    found = Caption(" ".join(WORDS), WORDS, (-1.0, -1.0, -1.0), -0.5, -3.5, True, ATTENTION, (2, 2))
    return dataclasses.replace(found, **changes)  # type: ignore[arg-type]


def test_a_caption_of_a_file_shows_its_image_and_a_slider(tmp_path: Path) -> None:
    tiny.image(0).save(tmp_path / "a.png")
    tags = Tags(caption(source=str(tmp_path / "a.png"))._repr_html_())
    assert {"figure", "img", "input"} <= tags.names
    assert "script" not in tags.names
    assert HOSTILE in tags.text
    assert all(address.startswith("data:image/") for address in tags.loaded)
    assert "input" not in Tags(caption(source=str(tmp_path / "a.png"), attention=None)._repr_html_()).names


def test_a_caption_without_its_image_is_its_text(tmp_path: Path) -> None:
    for each in (caption(), caption(source=str(tmp_path / "moved.png"))):
        tags = Tags(each._repr_html_())
        assert tags.names == {"p"}
        assert HOSTILE in tags.text
    shown = caption(cropped=True).show(Image.new("RGB", (80, 40)))
    assert shown.image.size == (40, 40)
    assert "img" in Tags(shown._repr_html_()).names


def test_captions_know_files_but_keep_no_images(tmp_path: Path) -> None:
    tiny.image(0).save(tmp_path / "a.png")
    captioner = ScriptedCaptioner({"a": ["A dog."]})
    path = str(tmp_path / "a.png")
    alone = captioner.caption(path)
    assert alone.source == path
    (together,) = captioner.caption([path])
    assert together.source == path
    ((_, found),) = captioner.caption_each([path])
    assert found == alone
    assert isinstance(found, Caption)
    assert found.source == ""


def test_reprs_are_short() -> None:
    assert len(repr(caption(text="a dog"))) < 80
    assert repr(caption(text="a dog")) == "Caption('a dog', score=-3.50, attention=(3, 4))"
    scores = compute_metrics(["a dog runs"], [["a dog runs fast"]])
    assert len(repr(scores)) < 200
    assert scores.signature in scores._repr_html_()
    console = Console(width=120, record=True)
    console.print(scores)
    assert "CIDEr" in console.export_text()


def test_tables_escape_their_text() -> None:
    table = ResultTable(HOSTILE, (HOSTILE,), [(HOSTILE,)], HOSTILE)
    tags = Tags(table.html())
    assert tags.names == {"div", "p", "b", "table", "thead", "tbody", "tr", "th", "td", "small"}
    assert tags.text.count(HOSTILE) == 4
    console = Console(width=200, record=True)
    console.print(table.rich())
    assert console.export_text().count("[red]") == 4


@pytest.fixture
def page(tmp_path: Path) -> Iterator[str]:
    """Address of a page with a caption, as a notebook inserts it."""
    body = caption_html(" ".join(WORDS), tiny.image(0, 300, 200), WORDS, ATTENTION, (2, 2))
    (tmp_path / "index.html").write_text(f'<!doctype html><link rel="icon" href="data:,"><body>{body}', "utf-8")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/index.html"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("_", [pytest.param(0, marks=NEEDS_CHROMIUM)])
def test_the_slider_shows_the_attention_of_each_word(_: int, page: str) -> None:
    with chromium() as browser, visits(browser) as visit:
        opened = visit(page, ready="figure")
        shown = "m => [m.style.opacity, m.style.backgroundPositionY]"
        states = []
        for position in ("1", "2", "3", "0"):
            opened.locator("input").fill(position)
            states.append(opened.locator("[data-map]").evaluate(shown)[: 1 if position == "0" else 2])
        assert states == [["1", "0%"], ["1", "50%"], ["1", "100%"], ["0"]]
        opened.locator("input").fill("2")
        bold = "words => words.map(word => word.style.fontWeight === 'bold')"
        assert opened.locator("[data-word]").evaluate_all(bold) == [False, True, False]
        assert opened.locator("[data-word]").nth(1).text_content() == HOSTILE
        assert opened.title() == ""
