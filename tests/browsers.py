"""Chromium for tests of web UIs: started once per module, with a check of every request and console message."""

import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.serving.servers import PATIENCE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))

NEEDS_CHROMIUM = [
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}; install Debian's chromium"),
]

Open = Callable[..., "Page"]
"""Opens an address with options of the browser context; `ready` is a selector to wait for."""


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Starts a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"], timeout=1000 * PATIENCE
        )
        yield started
        started.close()


@contextmanager
def visits(browser: "Browser") -> Iterator[Open]:
    """Yields a function that opens pages; checks that they send no request to another host and log no error."""
    from playwright.sync_api import expect

    expect.set_options(timeout=1000 * PATIENCE)
    contexts = []
    requested: list[str] = []
    errors: list[str] = []

    def record(message: "ConsoleMessage") -> None:
        if "status of 4" not in message.text:  # Chromium's message for a rejected request
            errors.append(message.text)

    def open_page(url: str, ready: str = "html[data-ready]", **options: Any) -> "Page":
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.on("request", lambda request: requested.append(request.url))
        page.on("console", record)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        page.wait_for_selector(ready)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [url for url in requested if not re.match(r"(http://127\.0\.0\.1:|blob:http://127\.0\.0\.1:)", url)] == []
    assert errors == []
