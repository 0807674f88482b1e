"""The review page in Chromium: with the mouse, with the keyboard alone, on a phone, and with 5,000 images."""

import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seesay.data.annotations import load_annotations
from seesay.review.regeneration import Regenerator
from tests.browsers import NEEDS_CHROMIUM, chromium, visits
from tests.review.conftest import TOKEN, Host, Open, make_images, read_rows, write_captions
from tests.review.scripted import ScriptedCaptioner

pytestmark = NEEDS_CHROMIUM

if importlib.util.find_spec("playwright") is not None:
    from playwright.sync_api import Browser, Locator, Page, expect

Visit = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: "Browser", folder: Path, review: Open, host: Host) -> Iterator[Visit]:
    """Opens the review of `captions.jsonl` with a scripted model."""
    with visits(browser) as open_page:

        def start(path: Path = folder / "captions.jsonl", **options: object) -> "Page":
            server = host(review(path), Regenerator(ScriptedCaptioner("default")))
            return open_page(f"{server.url}/{TOKEN}/", **options)

        yield start


def cards(page: "Page") -> "Locator":
    return page.get_by_role("listitem")


def card(page: "Page", row: int) -> "Locator":
    return page.locator(f".entry[data-row='{row}']")


def shown(page: "Page") -> list[str]:
    return page.locator(".entry .words-of").all_text_contents()


def saved(page: "Page", path: Path) -> list[tuple[str, str]]:
    """The captions and statuses in the file after saving."""
    expect(page.locator("#saved")).to_have_text("saved")
    return [(row["caption"], row.get("review", "")) for row in read_rows(path)]


def test_captions_are_edited_accepted_and_rejected_with_the_mouse(visit: Visit, folder: Path) -> None:
    page = visit()
    expect(card(page, 0).locator("img")).to_have_js_property("naturalWidth", 60)
    card(page, 1).get_by_text("a cat sits").click()
    page.get_by_role("textbox", name="Caption of image-001.png").fill("a person's text")
    card(page, 2).get_by_role("button", name="Accept").click()  # leaving the editor keeps the text
    card(page, 3).get_by_role("button", name="Reject").click()
    expect(card(page, 1)).to_have_attribute("data-review", "edited")
    expect(card(page, 2).locator(".badge")).to_have_text("accepted")
    expect(card(page, 3).locator(".badge")).to_have_text("rejected")
    page.get_by_role("button", name="Save").click()
    expected = [("a dog runs", ""), ("a person's text", "edited"), ("a dog and a cat", "accepted")]
    assert saved(page, folder / "captions.jsonl") == [*expected, ("two red dogs", "rejected")]
    page.get_by_role("button", name="Undo").click()
    expect(card(page, 3).locator(".badge")).to_have_text("not reviewed")
    expect(page.locator("#saved")).to_have_text("1 unsaved")
    assert saved(page, folder / "captions.jsonl")[3] == ("two red dogs", "")  # saved without a click
    page.reload()
    page.wait_for_selector("html[data-ready]")
    expect(card(page, 1).locator(".words-of")).to_have_text("a person's text")
    expect(page.get_by_role("button", name="Redo")).to_be_enabled()


def test_everything_is_done_with_the_keyboard_alone(visit: Visit, folder: Path) -> None:
    page = visit()
    press = page.keyboard.press
    expect(card(page, 0)).to_be_focused()
    press("a")
    expect(card(page, 1)).to_be_focused()
    press("r")
    press("Enter")
    page.keyboard.type("third, by a person")
    press("Control+Enter")
    expect(card(page, 3)).to_be_focused()
    press("Enter")
    page.keyboard.type("dropped")
    press("Escape")
    expect(card(page, 3)).to_be_focused()
    press("z")
    expect(card(page, 2).locator(".words-of")).to_have_text("a dog and a cat")
    expect(card(page, 2)).to_be_focused()  # what was undone
    press("Control+y")
    expect(card(page, 2)).to_have_attribute("data-review", "accepted")
    press("s")
    texts = [("a dog runs", "accepted"), ("a cat sits", "rejected"), ("third, by a person", "accepted")]
    assert saved(page, folder / "captions.jsonl") == [*texts, ("two red dogs", "")]
    press("Home")
    press("v")
    expect(page.locator("#single")).to_contain_text("1 of 4")
    press("j")
    press("j")
    expect(page.locator("#single")).to_contain_text("a dog and a cat")  # the model's text
    press("m")
    expect(page.locator("#single .words-of")).to_have_text("a dog and a cat")
    press("Enter")
    page.keyboard.type("again")
    press("Enter")
    expect(page.locator("#single .words-of")).to_have_text("again")
    press("Escape")
    expect(card(page, 2)).to_be_focused()
    press("x")
    press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    press("Escape")
    press("/")
    page.keyboard.type("dog RED")
    expect(cards(page)).to_have_count(1)
    press("Enter")
    expect(card(page, 3)).to_be_focused()
    press("Shift+A")
    expect(card(page, 3)).to_have_attribute("data-review", "accepted")
    press("c")
    expect(cards(page)).to_have_count(4)
    press("h")
    expect(page.get_by_role("textbox", name="Find")).to_be_focused()
    page.keyboard.type("dog")
    press("Tab")
    page.keyboard.type("bird")
    expect(page.locator("#replace-count")).to_have_text("found at 2 places in 2 captions")
    press("Enter")
    expect(card(page, 0).locator(".words-of")).to_have_text("a bird runs")
    press("g")
    expect(page.get_by_role("dialog", name="Generate again")).to_be_visible()
    page.get_by_label("Prompt").focus()
    press("Control+A")  # the captioner's own
    page.keyboard.type("asked")
    press("Tab")
    press("Tab")
    press("Enter")  # Cancel
    expect(page.get_by_role("dialog")).to_have_count(0)
    press("G")
    expect(card(page, 3).locator(".words-of")).to_have_text("asked beam 3 60")
    press("e")
    expect(page.locator("#problem")).to_be_hidden()


def test_search_and_filters(visit: Visit, folder: Path) -> None:
    path = folder / "captions.jsonl"
    failed = [
        {
            "image": f"images/image-00{n}.png",
            "error": f"images/image-00{n}.png: no usable caption: repetition ('a {n}')",
        }
        for n in (8, 9)
    ]
    path.with_suffix(".errors.jsonl").write_text("".join(json.dumps(row) + "\n" for row in failed))
    page = visit()
    count = page.locator("#count")
    expect(count).to_have_text("6 of 6")
    page.get_by_role("searchbox").fill("image-002")
    expect(count).to_have_text("1 of 6")
    assert shown(page) == ["a dog and a cat"]
    page.get_by_role("searchbox").fill("")
    page.get_by_text("More").click()
    page.get_by_label("Fewest words").fill("1")
    page.get_by_label("Most words").fill("3")
    expect(count).to_have_text("3 of 6")
    page.get_by_role("spinbutton", name="Lowest score").fill("-2.5")
    expect(count).to_have_text("2 of 6")
    page.get_by_role("button", name="Clear the filters").click()
    page.get_by_label("Order").select_option("lowest score first")
    expect(page.locator(".entry .words-of").first).to_have_text("two red dogs")
    page.get_by_label("Reason").select_option("no usable caption: repetition (2)")
    expect(count).to_have_text("2 of 6")
    assert all("repetition" in text for text in shown(page))
    expect(card(page, 5)).to_contain_text("repetition ('a 9')")
    page.get_by_role("button", name="Clear the filters").click()
    page.get_by_label("Status").select_option("not reviewed (6)")
    page.keyboard.press("Escape")
    expect(page.locator(".entry:focus")).to_have_count(1)
    page.keyboard.press("Home")
    page.keyboard.press("a")
    page.keyboard.press("a")
    expect(count).to_have_text("4 of 6")  # accepted rows leave the list, and the next one has the focus
    expect(card(page, 2)).to_be_focused()
    page.get_by_role("searchbox").fill("nothing like this")
    expect(page.get_by_text("No caption matches the filters.")).to_be_visible()


def test_replacement_is_counted_first_and_reaches_the_shown_captions(visit: Visit) -> None:
    page = visit()
    page.get_by_role("searchbox").fill("runs")
    expect(page.locator("#count")).to_have_text("1 of 4")
    page.get_by_role("button", name="Replace…").click()
    page.get_by_label("Find", exact=True).fill("DOG")
    apply = page.get_by_role("button", name="Replace all")
    expect(page.locator("#replace-count")).to_have_text("found at 0 places in 0 captions")
    expect(apply).to_be_disabled()
    page.get_by_label("Match case").uncheck()
    expect(page.locator("#replace-count")).to_have_text("found at 1 place in 1 caption")
    page.get_by_label("Replace with").fill("fox")
    expect(apply).to_be_enabled()
    apply.click()
    expect(card(page, 0).locator(".words-of")).to_have_text("a fox runs")
    page.get_by_role("searchbox").fill("")
    expect(card(page, 3).locator(".words-of")).to_have_text("two red dogs")
    page.get_by_role("button", name="Undo").click()
    expect(card(page, 0).locator(".words-of")).to_have_text("a dog runs")


def test_generation_with_options_and_export(visit: Visit, folder: Path, tmp_path: Path) -> None:
    page = visit()
    card(page, 1).locator("img").click()
    page.get_by_role("button", name="Generate again").click()
    page.get_by_label("Strategy").select_option("beam search")
    page.get_by_label("Beam size").fill("5")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.locator("#single .words-of")).to_have_text("default beam 5 60")
    page.get_by_role("button", name="Generate again").click()
    page.get_by_label("Beam size").fill("50")
    page.get_by_role("dialog").evaluate("dialog => dialog.querySelector('form').noValidate = true")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("beam_size")
    page.get_by_role("link", name="Export").click()
    expect(page.get_by_role("alert")).to_contain_text("no caption is accepted yet")
    page.get_by_role("button", name="Accept (a)").click()
    expect(page.locator("#single")).to_contain_text("3 of 4")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export").click()
    download.value.save_as(tmp_path / "accepted.jsonl")
    assert [item.captions for item in load_annotations(tmp_path / "accepted.jsonl")] == [("default beam 5 60",)]


def test_a_conflict_is_shown(visit: Visit, folder: Path) -> None:
    page = visit()
    (folder / "captions.jsonl").write_text("theirs")
    page.keyboard.press("a")
    page.keyboard.press("s")
    expect(page.get_by_role("alert")).to_contain_text("was changed by another program")
    expect(page.locator("#saved")).to_have_text("1 unsaved")


def test_texts_and_names_of_others_are_not_markup(visit: Visit, folder: Path) -> None:
    hostile = "<img src=x onerror=\"document.title='hacked'\"><b>bold</b>"
    path = write_captions(folder / "hostile.jsonl", {"images/<b>.png": hostile, "images/image-000.png": hostile})
    page = visit(path)
    assert shown(page) == [hostile, hostile]
    page.keyboard.press("v")
    expect(page.locator("#single .words-of")).to_have_text(hostile)
    expect(page.locator("#single")).to_contain_text("The image cannot be shown.")
    assert page.locator("#single b").count() == 0
    assert page.title() == f"{path} – seesay review"


def test_dark_mode_and_the_theme_button(visit: Visit) -> None:
    page = visit(color_scheme="dark")

    def brightness(selector: str) -> float:
        colour = page.locator(selector).first.evaluate("part => getComputedStyle(part).backgroundColor")
        return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3

    assert max(brightness(part) for part in ("body", ".entry", "#text", ".badge")) < 80
    page.get_by_role("button", name="Theme").click()  # light
    assert min(brightness(part) for part in ("body", ".entry", "#text", ".badge")) > 200


def test_a_phone_shows_everything_within_its_width(visit: Visit) -> None:
    page = visit(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    page.keyboard.press("a")
    for view in ("list", "single"):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        expect(page.locator(f"#{view}")).to_be_visible()
        for button in page.locator(f"#{view} button").all():
            box = button.bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) >= 32
            assert box["x"] + box["width"] <= 360
        page.locator(".frame").first.tap() if view == "list" else None
    page.locator("#single .entry-text").tap()
    page.get_by_role("textbox", name="Caption of").fill("typed on a phone")
    page.get_by_role("button", name="Accept (a)").tap()
    page.keyboard.press("v")
    expect(card(page, 0).locator(".words-of")).to_have_text("typed on a phone")


def test_reduced_motion_and_names_for_screen_readers(visit: Visit) -> None:
    page = visit(reduced_motion="reduce")
    assert page.evaluate("document.getAnimations().length") == 0
    controls = page.locator("button, input, select, summary, a")
    unnamed = controls.evaluate_all(
        """all => all.filter(one => one.checkVisibility())
            .filter(one => !(one.ariaLabel || one.textContent.trim() || one.labels?.length))
            .map(one => one.outerHTML)"""
    )
    assert unnamed == []
    assert card(page, 0).get_attribute("aria-label") == "a dog runs, not reviewed, image-000.png"
    assert (card(page, 0).get_attribute("aria-posinset"), card(page, 0).get_attribute("aria-setsize")) == ("1", "4")
    page.keyboard.press("ArrowRight")
    outline = card(page, 1).evaluate("part => getComputedStyle(part).outlineStyle")
    assert outline == "solid"


SCROLL = """async () => {
  const box = document.getElementById("list");
  const steps = [];
  for (let step = 0; step < 40; step += 1) {
    const start = performance.now();
    box.scrollTop += box.scrollHeight / 40;
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    steps.push(performance.now() - start);
  }
  const ended = box.scrollTop + box.clientHeight >= box.scrollHeight - 1;
  return { steps, ended, cards: document.querySelectorAll(".entry").length };
}"""


def test_five_thousand_images_scroll_fluently(visit: Visit, folder: Path) -> None:
    names = [str(path.relative_to(folder)) for path in make_images(folder / "images", 20)]
    for number in range(20, 5000):
        link = folder / f"images/link-{number}.png"
        link.symlink_to(f"image-{number % 20:03}.png")
        names.append(f"images/{link.name}")
    path = write_captions(folder / "many.jsonl", {name: f"caption {place}" for place, name in enumerate(names)})
    page = visit(path, viewport={"width": 1280, "height": 800})
    expect(page.locator("#count")).to_have_text("5,000 of 5,000")
    found = page.evaluate(SCROLL)
    assert found["ended"]
    assert found["cards"] <= 40
    assert found["steps"]  # their times are measured by benchmarks/review.py
    page.keyboard.press("End")
    expect(card(page, 4999)).to_be_focused()
    expect(card(page, 4999).locator("img")).to_have_js_property("naturalWidth", 60)
    page.get_by_role("searchbox").fill("caption 4321")
    expect(page.locator("#count")).to_have_text("1 of 5,000")
