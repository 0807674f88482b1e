"""Take the screenshots of the web UI in docs/serving.md: python examples/page_screenshots.py RUN IMAGE OUT.

Needs the extra `serve`, playwright and Debian's chromium. Pass an image that may be published.
"""

import re
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

CHROMIUM = "/usr/bin/chromium"
TIMEOUT = 600_000.0  # milliseconds
VIEWS = (
    ("serve-light.png", "light", 1120, 860, 1.0),
    ("serve-phone.png", "dark", 390, 844, 1.5),
)


def take(browser: Browser, address: str, image: Path, target: Path, view: tuple[str, str, int, int, float]) -> None:
    name, scheme, width, height, scale = view
    context = browser.new_context(
        color_scheme="dark" if scheme == "dark" else "light",
        viewport={"width": width, "height": height},
        device_scale_factor=scale,
    )
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    page.get_by_role("radio", name="Beam").check()
    page.locator("#captions").evaluate(
        "field => { field.value = 2; field.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    page.locator("#files").set_input_files(image)
    card = page.locator("article.image:not([aria-busy])")
    card.locator(".word").nth(2).click()
    page.wait_for_timeout(500)  # the colours of the image fade in
    if width < 500:
        card.scroll_into_view_if_needed()
        card.evaluate("card => window.scrollTo(0, card.offsetTop - 12)")
    page.screenshot(path=target / name)
    context.close()


def main() -> None:
    run, image, target = (Path(argument) for argument in sys.argv[1:4])
    command = [sys.executable, "-m", "seesay", "serve", str(run), "--port", "0", "--device", "cpu"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found, "the server did not start"
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=TIMEOUT
            )
            for view in VIEWS:
                take(browser, found[0], image, target, view)
            browser.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
