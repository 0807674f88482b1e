"""The strict build of the documentation, and its pages in a browser."""

import importlib.util
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.browsers import CHROMIUM, chromium, visits

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.site,
    pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed"),
]
in_browser = pytest.mark.skipif(
    importlib.util.find_spec("playwright") is None or not CHROMIUM.exists(), reason=f"needs playwright and {CHROMIUM}"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. The build is strict: it fails on broken links, pages without a place, files of other hosts."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(*_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_markers_are_replaced(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"&lt;!-- |<!-- (generated|tab): |/// |<p>:::", text), page
    assert "--beam-size" in (site / "reference/settings.html").read_text(encoding="utf-8")
    assert 'class="tabbed-set' in (site / "collections.html").read_text(encoding="utf-8")


@in_browser
def test_pages_request_nothing_from_outside_and_fit_a_phone(address: str) -> None:
    with chromium() as browser, visits(browser) as visit:
        for name in ("index", "collections", "results", "reference/settings", "reference/python"):
            page = visit(f"{address}/{name}.html", ready="h1", viewport={"width": 390, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, name


@in_browser
def test_search_finds_a_flag(address: str) -> None:
    with chromium() as browser, visits(browser) as visit:
        page = visit(f"{address}/index.html", ready="h1")
        page.locator(".md-search__input").fill("no-repeat-ngram-size")
        page.locator(".md-search-result__item a").first.wait_for()
