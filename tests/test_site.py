"""The site of the documentation: generated reference pages, and the strict build in a browser."""

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

import reference
from seesay.config import field_paths, preset_names
from seesay.config.flags import flag_name
from tests.browsers import NEEDS_CHROMIUM, chromium, visits

ROOT = Path(__file__).parents[1]
NEEDS_MKDOCS = pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")


def test_settings_lists_every_setting() -> None:
    page = reference.settings()
    for name in field_paths():
        assert page.count(f"| `{flag_name(name)}` |") == 1


def test_presets_lists_every_preset_that_is_not_a_variant() -> None:
    header = reference.preset_table().splitlines()[0]
    assert {f"`{name}`" for name in preset_names() if "tutorial" not in name} <= set(header.split())


def test_commands_lists_every_command_and_flag() -> None:
    page, described = reference.commands(), reference.settings()
    for name, command in reference.walk():
        assert f"## `{name}`\n" in page
        section = page.partition(f"## `{name}`\n")[2].partition("\n## ")[0]
        for argument in command.assemble_argument_collection(parse_docstring=True):
            if argument.show and argument.index is None and f"| `{argument.name}` |" not in section:
                assert f"| `{argument.name}` |" in described
                assert "(settings.md#" in section


def test_a_flag_of_a_command_with_the_name_of_a_setting_is_described() -> None:
    caption = reference.commands().partition("## `seesay caption`\n")[2].partition("\n## ")[0]
    assert "| `--device` |" in caption  # also a setting of training
    assert "| `--beam-size` |" not in caption


def test_http_lists_every_route_and_field() -> None:
    page = reference.http_api()
    for name in ("`POST /v1/caption`", "`GET /metrics`", "`images`", "`beam_size`", "`top_tokens`"):
        assert name in page


def test_every_environment_variable_is_documented() -> None:
    page = (ROOT / "docs/reference/environment.md").read_text(encoding="utf-8")
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    assert set(re.findall(r"\bSEESAY_[A-Z_]+\b", source)) == set(re.findall(r"`(SEESAY_[A-Z_]+)`", page))
    read = re.findall(r"environ(?:\.get\(|\.setdefault\(|\[)\"(\w+)\"", source)
    assert set(read) - {"MASTER_ADDR", "MASTER_PORT", "RAY_BACKEND_LOG_LEVEL"} <= set(re.findall(r"`(\w+)`", page))


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
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@NEEDS_MKDOCS
def test_markers_are_replaced(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"&lt;!-- |<!-- (generated|tab): |/// |<p>:::", text), page
    assert "--beam-size" in (site / "reference/settings.html").read_text(encoding="utf-8")
    assert 'class="tabbed-set' in (site / "collections.html").read_text(encoding="utf-8")


class TestBrowser:
    pytestmark = [*NEEDS_CHROMIUM, NEEDS_MKDOCS]

    def test_pages_request_nothing_from_outside_and_fit_a_phone(self, address: str) -> None:
        with chromium() as browser, visits(browser) as visit:
            for name in ("index", "collections", "results", "reference/settings", "reference/python"):
                page = visit(f"{address}/{name}.html", ready="h1", viewport={"width": 390, "height": 844})
                assert page.evaluate("document.documentElement.scrollWidth") <= 390, name

    def test_search_finds_a_flag(self, address: str) -> None:
        with chromium() as browser, visits(browser) as visit:
            page = visit(f"{address}/index.html", ready="h1")
            page.locator(".md-search__input").fill("no-repeat-ngram-size")
            page.locator(".md-search-result__item a").first.wait_for()
