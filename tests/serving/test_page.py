"""The web UI in Chromium: everything that a user can do with it."""

import base64
import importlib.util
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.browsers import NEEDS_CHROMIUM, Open, chromium, visits
from tests.foreign import CAPTIONS
from tests.serving.conftest import Start
from tests.serving.servers import Running, blank, encoded, upload

pytestmark = NEEDS_CHROMIUM

if importlib.util.find_spec("playwright") is not None:
    from playwright.sync_api import Browser, FilePayload, Locator, Page, expect


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: "Browser", shared: Running) -> Iterator[Open]:
    """Opens the page, by default that of the shared server."""
    with visits(browser) as open_page:
        yield lambda url=shared.url, **options: open_page(url, **options)


def choose(page: "Page", *contents: bytes) -> "Locator":
    """Chooses files in the file dialog; returns their cards when all are captioned."""
    files = [FilePayload(name=f"{place}.png", mimeType="image/png", buffer=each) for place, each in enumerate(contents)]
    with page.expect_file_chooser() as dialog:
        page.get_by_role("button", name="Choose images").click()
    dialog.value.set_files(files)
    cards = page.locator("article.image:not([aria-busy])")
    expect(cards).to_have_count(len(contents))
    return cards


def api_result(server: Running, content: bytes, **fields: Any) -> dict[str, Any]:
    """The result of the API for an image, with the options of the page."""
    with server.client() as client:
        response = client.post("/v1/caption", **upload(content, attention=True, top_tokens=5, **fields))
    result: dict[str, Any] = response.json()["results"][0]
    return result


def words_of(row: "Locator") -> str:
    return " ".join(row.locator(".word:not(.end)").all_text_contents())


def test_several_images_get_the_captions_of_the_api(visit: Open, shared: Running) -> None:
    contents = [encoded(seed) for seed in range(5)]
    cards = choose(visit(), *contents)
    for place, content in enumerate(contents):
        card, wanted = cards.nth(place), api_result(shared, content)["captions"][0]
        expect(card.get_by_role("heading")).to_have_text(f"{place}.png")
        assert words_of(card) == wanted["text"]
        expect(card.locator("img")).to_have_attribute("alt", wanted["text"])
        probability = wanted["words"][0]["probability"]
        shown = f"{round(100 * probability)} %" if probability >= 0.095 else f"{100 * probability:.1f} %"
        label = f"{wanted['words'][0]['text']}, {shown}"
        expect(card.locator(".word").first).to_have_attribute("aria-label", label)


HEAT = ((0.0, (60, 20, 110)), (0.4, (170, 45, 110)), (0.75, (240, 125, 35)), (1.0, (255, 226, 120)))


def spread(pixels: int, cells: int) -> "np.ndarray[Any, Any]":
    """Interpolation weight of each cell in each pixel along one side, (pixels, cells)."""
    place = np.clip((np.arange(pixels) + 0.5) / pixels * cells - 0.5, 0, cells - 1)
    away = np.clip(1 - np.abs(place[:, None] - np.arange(cells)), 0, 1)
    share: np.ndarray[Any, Any] = away**2 * (3 - 2 * away)
    return share


def expected_overlay(weights: list[float], grid: tuple[int, int], width: int, height: int) -> "np.ndarray[Any, Any]":
    """The overlay (height, width, RGBA) in NumPy: smooth interpolation between the centres of the cells."""
    rows, columns = grid
    smooth = spread(height, rows)[:, None, :, None] * spread(width, columns)[None, :, None, :]
    smooth = (smooth * np.array(weights).reshape(rows, columns)).sum((-2, -1))
    strength = np.minimum(1, smooth / max(min(1, 5 / len(weights)), max(weights)))
    places = [place for place, _ in HEAT]
    colours = [np.interp(strength, places, [colour[channel] for _, colour in HEAT]) for channel in range(3)]
    overlay: np.ndarray[Any, Any] = np.stack([*colours, 255 * 0.85 * strength], -1)
    return overlay


def test_the_overlay_shows_the_attention_of_the_api(visit: Open, shared: Running) -> None:
    content = encoded(3)
    page = visit()
    card = choose(page, content).first
    result = api_result(shared, content)
    words = result["captions"][0]["words"]
    canvas = card.locator("canvas")
    expect(canvas).to_be_hidden()
    alphas = []
    for place, word in enumerate(words):
        card.locator(".word").nth(place).hover()
        expect(canvas).to_be_visible()
        data = canvas.evaluate("canvas => canvas.toDataURL('image/png')").partition(",")[2]
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)
        height, width = pixels.shape[:2]
        assert width / height == pytest.approx(result["width"] / result["height"], rel=0.02)
        wanted = expected_overlay(word["attention"], (2, 2), width, height)
        np.testing.assert_allclose(pixels[..., 3], wanted[..., 3], atol=1)
        strong = wanted[..., 3] > 40  # the browser stores imprecise colours for nearly transparent pixels
        assert strong.any()
        np.testing.assert_allclose(pixels[strong], wanted[strong], atol=5)
        alphas.append(pixels[..., 3])
    assert any(np.abs(alphas[0] - other).max() > 20 for other in alphas[1:]), "all words have the same map"
    image, drawn = card.locator("img").bounding_box(), canvas.bounding_box()
    assert image is not None
    assert drawn is not None
    for side in ("x", "y", "width", "height"):
        assert drawn[side] == pytest.approx(image[side], abs=1)
    page.mouse.move(0, 0)
    expect(canvas).to_be_hidden()


def test_the_screen_shows_the_overlay(visit: Open, shared: Running) -> None:
    """Over a black image only the overlay is visible, scaled by the browser."""
    page, content = visit(), blank(90, 60)
    card = choose(page, content).first
    (first, *_) = api_result(shared, content)["captions"][0]["words"]
    card.locator(".word").first.hover()
    expect(card.locator("canvas")).to_be_visible()
    page.wait_for_timeout(300)  # CSS transition of the image
    shot = np.asarray(Image.open(io.BytesIO(card.locator(".view").screenshot())).convert("RGB")).astype(float)
    drawn = expected_overlay(first["attention"], (2, 2), shot.shape[1], shot.shape[0])
    wanted = drawn[..., :3] * drawn[..., 3:] / 255
    inside = (slice(12, -12), slice(12, -12))  # rounded corners
    np.testing.assert_allclose(shot[inside], wanted[inside], atol=6)
    assert np.ptp(wanted[inside]) > 10


def test_arrow_keys_move_along_the_words_and_announce_them(visit: Open, shared: Running) -> None:
    page, content = visit(), encoded(3)
    card = choose(page, content).first
    words = api_result(shared, content)["captions"][0]["words"]
    group = card.get_by_role("group", name=re.compile("^Caption 1: "))
    group.locator("[tabindex='0']").focus()
    status = page.locator("[role=status]")
    for word in words[1:]:
        page.keyboard.press("ArrowRight")
        expect(page.locator(":focus")).to_have_text(word["text"])
        expect(status).to_contain_text(f"“{word['text']}”: ")
        expect(status).to_contain_text("attending to ")
        expect(status).to_contain_text("Instead: ")
        expect(card.locator("canvas")).to_be_visible()
    page.keyboard.press("End")
    expect(page.locator(":focus")).to_have_text("end")
    expect(card.locator("canvas")).to_be_hidden()  # the end has no attention map
    page.keyboard.press("Home")
    expect(page.locator(":focus")).to_have_text(words[0]["text"])
    page.keyboard.press("Enter")
    expect(page.locator(":focus")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.locator("[aria-pressed='true']")).to_have_count(0)
    expect(card.locator("canvas")).to_be_hidden()
    assert group.locator("[tabindex='0']").count() == 1, "a caption should be one tab stop"


def test_top_tokens_of_a_word_are_shown_with_their_probabilities(visit: Open, shared: Running) -> None:
    content = encoded(4)
    card = choose(visit(), content).first
    word = api_result(shared, content)["captions"][0]["words"][1]
    card.locator(".word").nth(1).click()
    rows = card.locator(".detail li")
    expect(rows).to_have_count(5)
    shown = [text if text is not None else "(end)" for text in (each["text"] for each in word["top_tokens"])]
    assert rows.locator("span:first-child").all_text_contents() == shown
    expect(rows.first).to_have_class("own")
    best = word["top_tokens"][0]["probability"]
    assert rows.first.locator(".amount").text_content() == f"{round(100 * best)} %"
    width = rows.first.locator(".share").evaluate("bar => bar.style.width")
    assert float(width.rstrip("%")) == pytest.approx(100 * best, abs=0.01)


def set_range(page: "Page", name: str, value: float) -> None:
    page.locator(f"#{name}").evaluate(
        "(field, value) => { field.value = value; field.dispatchEvent(new Event('input', {bubbles: true})); }",
        str(value),
    )


def test_beam_size_temperature_and_number_of_captions_are_sent(visit: Open, shared: Running) -> None:
    page, content = visit(), encoded(5)
    card = choose(page, content).first
    expect(page.locator("#beam-field")).to_be_hidden()
    page.get_by_role("radio", name="Beam").check()
    set_range(page, "beam", 4)
    set_range(page, "captions", 3)
    expect(page.locator("#temperature-field")).to_be_hidden()
    with page.expect_response("**/v1/caption") as response:
        page.get_by_role("button", name="Caption again").click()
    options = response.value.json()["options"]
    assert (options["strategy"], options["beam_size"], options["num_return_sequences"]) == ("beam", 4, 3)
    rows = card.locator(".caption")
    expect(rows).to_have_count(3)
    wanted = api_result(shared, content, strategy="beam", beam_size=4, num_return_sequences=3)["captions"]
    assert [words_of(rows.nth(place)) for place in range(3)] == [caption["text"] for caption in wanted]
    set_range(page, "captions", 6)
    assert page.locator("#beam").input_value() == "6", "the beam must be as large as the number of captions"
    page.get_by_role("radio", name="Sampling").check()
    set_range(page, "temperature", 1.7)
    seeds = set()
    for _ in range(2):
        with page.expect_response("**/v1/caption") as response:
            page.get_by_role("button", name="Caption again").click()
        options = response.value.json()["options"]
        seeds.add(options["sampling_seed"])
        assert (options["strategy"], options["temperature"], options["num_return_sequences"]) == ("sample", 1.7, 6)
    assert len(seeds) == 2, "sampling again must use another seed"


def outline(result: Any) -> Any:
    """An image's entry with its numbers to the digits that do not depend on the batch."""
    if isinstance(result, dict):
        return {name: outline(value) for name, value in result.items() if name != "name"}
    if isinstance(result, list):
        return [outline(value) for value in result]
    return pytest.approx(result, rel=1e-3, abs=1e-5) if isinstance(result, float) else result


def test_captions_are_copied_and_downloaded(visit: Open, shared: Running, tmp_path: Path) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    contents = [encoded(6), encoded(7)]
    cards = choose(page, *contents)
    wanted = [api_result(shared, content) for content in contents]
    text = wanted[0]["captions"][0]["text"]
    cards.first.get_by_role("button", name=f"Copy: {text}").click()
    expect(cards.first.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == text
    with page.expect_download() as download:
        cards.first.get_by_role("button", name="Download the captions of 0.png").click()
    download.value.save_as(tmp_path / "one.json")
    assert download.value.suggested_filename == "0.json"
    one = json.loads((tmp_path / "one.json").read_text())
    assert [outline(each) for each in one["results"]] == [outline(wanted[0])]
    with page.expect_download() as download:
        page.get_by_role("button", name="Download all").click()
    download.value.save_as(tmp_path / "all.json")
    everything = json.loads((tmp_path / "all.json").read_text())
    assert [outline(each["results"][0]) for each in everything] == [outline(each) for each in wanted]


@pytest.mark.parametrize("size", [(60, 40), (40, 200), (900, 300)])
@pytest.mark.parametrize("phone", [False, True])
def test_images_keep_their_shape(visit: Open, size: tuple[int, int], phone: bool) -> None:
    width, height = size
    page = visit(viewport={"width": 360 if phone else 1100, "height": 740})
    card = choose(page, encoded(0, "PNG", width, height)).first
    card.locator(".word").first.click()
    for part in (card.locator("img"), card.locator("canvas")):
        box = part.bounding_box()
        assert box is not None
        assert box["width"] / box["height"] == pytest.approx(width / height, rel=0.02)
        assert box["height"] <= 0.71 * 740


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_images_are_pasted_and_dropped(visit: Open, shared: Running, kind: str) -> None:
    page, content = visit(), encoded(8)
    page.evaluate(
        """([kind, bytes]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "pasted.png", {type: "image/png"}));
            const event = kind === "paste"
                ? new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true})
                : new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true});
            document.body.dispatchEvent(event);
        }""",
        [kind, list(content)],
    )
    card = page.locator("article.image:not([aria-busy])")
    expect(card).to_have_count(1)
    assert words_of(card) == api_result(shared, content)["captions"][0]["text"]


def test_unreadable_files_show_an_error_and_the_others_a_caption(visit: Open) -> None:
    page = visit()
    cards = choose(page, encoded(0), b"no image", encoded(1, "JPEG", 300, 200)[:900])
    expect(cards.nth(0).locator(".caption")).to_have_count(1)
    expect(cards.nth(1).get_by_role("alert")).to_contain_text("1.png: not an image of a known format (JPEG, PNG")
    expect(cards.nth(2).get_by_role("alert")).to_contain_text("2.png: damaged or truncated")
    cards.nth(1).get_by_role("button", name="Remove 1.png").click()
    expect(page.locator("article.image")).to_have_count(2)


def test_a_file_that_is_too_large_is_not_sent(visit: Open, tmp_path: Path) -> None:
    page = visit()
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(21_000_000)
    sent = []
    page.on("request", lambda request: sent.append(request.url) if "caption" in request.url else None)
    page.locator("#files").set_input_files(tmp_path / "large.png")
    cards = page.locator("article.image:not([aria-busy])")
    expect(cards.get_by_role("alert")).to_contain_text("21 MB, more than the 20 allowed")
    assert sent == []


def test_a_name_that_looks_like_markup_is_text(visit: Open) -> None:
    page = visit()
    name = "<img src=x onerror=alert(1)>.png"
    with page.expect_file_chooser() as dialog:
        page.get_by_role("button", name="Choose images").click()
    dialog.value.set_files(FilePayload(name=name, mimeType="image/png", buffer=b"no image"))
    expect(page.get_by_role("alert")).to_contain_text("onerror=alert(1)>.png: not an image")
    expect(page.get_by_role("heading", level=2)).to_have_text([name])
    assert page.locator("article img").count() <= 1


def test_the_page_asks_for_the_key(visit: Open, start: Start) -> None:
    server = start(api_key="sesame")
    page = visit(server.url, ready="dialog[open]")
    refused = page.get_by_role("alert")
    expect(refused).to_have_count(0)
    for key in ("wrong", "sesame"):
        page.get_by_role("textbox", name="Key").fill(key)
        page.get_by_role("button", name="Use key").click()
        if key == "wrong":  # Bug: the dialog was shown again as if no key had been sent
            expect(refused).to_contain_text("refused this key")
    page.wait_for_selector("html[data-ready]")
    expect(choose(page, encoded(0)).locator(".caption")).to_have_count(1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_or_the_users_choice(visit: Open, scheme: Any) -> None:
    page = visit(color_scheme=scheme)

    def brightness() -> float:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return float(np.mean([int(part) for part in re.findall(r"\d+", colour)[:3]]))

    assert (brightness() > 128) == (scheme == "light")
    theme = page.get_by_role("button", name=re.compile("^Theme: "))
    theme.click()
    assert brightness() > 128
    theme.click()
    assert brightness() < 128
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert brightness() < 128, "the choice must be stored"


def test_all_colours_have_enough_contrast(visit: Open) -> None:
    """WCAG 2.1, 1.4.3: the contrast ratio of text and background is at least 4.5."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme)
        names = ("ink", "soft", "accent", "on-accent", "bad", "paper", "card", "wash", "bad-wash")
        colours = page.evaluate(
            "names => names.map(n => getComputedStyle(document.documentElement).getPropertyValue(`--${n}`).trim())",
            list(names),
        )
        luminances = dict(zip(names, map(luminance, colours), strict=True))
        pairs = [("ink", "paper"), ("ink", "card"), ("soft", "paper"), ("soft", "card"), ("accent", "card")]
        pairs += [("accent", "wash"), ("on-accent", "accent"), ("bad", "bad-wash")]
        for text, background in pairs:
            low, high = sorted((luminances[text], luminances[background]))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, text, background)


def test_the_page_fits_a_phone_and_words_can_be_tapped(visit: Open) -> None:
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    cards = choose(page, encoded(3), encoded(4))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    word = cards.first.locator(".word").nth(1)
    word.tap()
    expect(cards.first.locator("canvas")).to_be_visible()
    expect(cards.first.locator(".detail")).to_contain_text("attending to")
    for button in page.locator("button:visible").all():
        box = button.bounding_box()
        assert box is not None
        assert box["height"] >= 32, "too small to tap"


def test_captions_have_the_direction_of_their_script(visit: Open) -> None:
    """`lang` and `dir` follow the caption, and so do the arrow keys."""
    page = visit()
    page.evaluate(
        """async ([text]) => {
            const { ImageCard } = await import("/results.js");
            const image = new ImageCard(new File([], "كلب.png"), { announce() {}, remove() {} });
            const words = text.split(" ").map((word) => ({ text: word, probability: 0.5 }));
            const end = { probability: 0.5, top_tokens: [] };
            image.showResult({}, { captions: [{ text, words, end, probability: 0.1, finished: true }] });
            document.getElementById("images").append(image.card);
        }""",
        ["قطة سوداء تجلس"],
    )
    words = page.locator(".words")
    expect(words).to_have_attribute("lang", "ar")
    expect(words).to_have_css("direction", "rtl")
    words.locator("button").first.focus()
    page.keyboard.press("ArrowLeft")
    expect(words.locator("button").nth(1)).to_be_focused()
    languages = page.evaluate(
        """async (texts) => {
            const { textAttributes } = await import("/dom.js");
            return texts.map((text) => textAttributes(text).lang ?? "");
        }""",
        [CAPTIONS[language][0][0] for language in ("zh", "ja", "th", "ar", "de", "en")],
    )
    assert languages == ["zh", "ja", "th", "ar", "", ""]
