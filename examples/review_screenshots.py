"""Take the screenshots of docs/review.md: python examples/review_screenshots.py OUT.

The images are drawn scenes (`seesay data scenes`), with their captions as those of a model, some of them wrong. Needs
the extra `serve`, playwright and Debian's chromium.
"""

import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from seesay.bulk.rows import json_line
from seesay.captioners.caption import Caption
from seesay.data.annotations import load_annotations
from seesay.data.synthetic.scenes import make_scenes

CHROMIUM = "/usr/bin/chromium"
VIEWS = (
    ("review-desktop.png", "light", 1200, 800, False),
    ("review-dark.png", "dark", 1200, 800, True),
    ("review-phone.png", "light", 390, 844, False),
)


def write_captions(folder: Path) -> list[str]:
    """Draw scenes, write captions of them, some of another scene, and return correct ones."""
    make_scenes(folder / "scenes", train=40, val=4, test=4, size=320)
    items = load_annotations(folder / "scenes").items[:40]
    rng = random.Random(0)
    with (folder / "captions.jsonl").open("w", encoding="utf-8") as file:
        for item in items:
            text = rng.choice(items).captions[0] if rng.random() < 0.3 else item.captions[0]
            words = tuple(text.split())
            logs = tuple(-rng.random() for _ in words)
            caption = Caption(text, words, logs, -0.1, sum(logs), finished=True)
            file.write(json_line(os.path.relpath(item.image, folder), caption, several=False) + "\n")
    return [item.captions[-1] for item in items]


def take(browser: Browser, address: str, target: Path, view: tuple[str, str, int, int, bool]) -> None:
    name, scheme, width, height, single = view
    context = browser.new_context(
        color_scheme="dark" if scheme == "dark" else "light", viewport={"width": width, "height": height}
    )
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    if single:
        page.keyboard.press("j")  # the edited one
        page.keyboard.press("v")
    page.wait_for_timeout(1500)  # images load after scrolling has stopped
    page.screenshot(path=target / name)
    context.close()


def review_some(browser: Browser, address: str, correct: list[str]) -> None:
    """Accept, reject and edit the first captions with the keyboard."""
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    for key in ("a", "a", "r", "a"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.keyboard.type(correct[4])
    page.keyboard.press("Control+Enter")
    page.keyboard.press("Home")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.keyboard.type(correct[1])
    page.keyboard.press("Enter")
    page.wait_for_timeout(2500)  # saved
    page.close()


def main() -> None:
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        correct = write_captions(Path(name))
        command = [sys.executable, "-m", "seesay", "review", "captions.jsonl"]
        with subprocess.Popen(command, cwd=name, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                found = re.search(r"http://\S+", server.stdout.readline())
                assert found, "the server did not start"
                with sync_playwright() as playwright:
                    browser = playwright.chromium.launch(
                        executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
                    )
                    review_some(browser, found[0], correct)
                    for view in VIEWS:
                        take(browser, found[0], target, view)
                    browser.close()
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
