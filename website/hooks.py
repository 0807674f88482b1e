"""Hooks of MkDocs: pages of `docs/` are plain Markdown that also reads well on GitHub; the site adds what GitHub lacks.

- `<!-- generated: NAME -->` is replaced by the result of a function of `reference.py`.
- `<!-- tab: TITLE -->` ... `<!-- end of tabs -->` become tabs.
- Links that leave `docs/` point to the repository; a link whose text is a file name gets the title of that page.
"""

import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

import reference

REPOSITORY = "https://github.com/seesay/seesay/blob/main/"
ROOT = Path(__file__).parents[1]
GENERATORS: dict[str, Callable[[], str]] = {
    "settings": reference.settings,
    "presets": reference.preset_table,
    "commands": reference.commands,
    "http": reference.http_api,
    "changelog": reference.changelog,
}

_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_GENERATED = re.compile(r"<!-- generated: (\w+) -->")
_TAB = re.compile(r"<!-- tab: (.+?) -->\n(.*?)(?=<!-- (?:tab: |end of tabs -->))", re.DOTALL)
_LINK = re.compile(r"\]\((\.\./[^)\s]*)\)")
_NAMED = re.compile(r"\[[\w/-]+\.md\]\(([\w./-]+\.md)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the Markdown of a page into that of the site."""
    text = _GENERATED.sub(lambda match: GENERATORS[match[1]](), markdown)
    text = _TAB.sub(r"/// tab | \1\n\n\2\n///\n\n", text).replace("<!-- end of tabs -->", "")
    folder = (Path(config.docs_dir) / page.file.src_uri).parent
    parts = _FENCED.split(text)
    parts[::2] = [_LINK.sub(lambda match: f"]({_resolve(match[1], folder)})", part) for part in parts[::2]]
    parts[::2] = [_NAMED.sub(lambda match: _with_title(match, folder, files), part) for part in parts[::2]]
    if page.is_homepage:
        page.meta["hide"] = ["navigation"]  # it would list this page alone
    return "".join(parts)


def _with_title(match: re.Match[str], folder: Path, files: Files) -> str:
    """Return a link to a page with its title in the navigation as text."""
    path = (folder / match[1]).resolve()
    file = files.get_file_from_path(path.relative_to(ROOT / "docs").as_posix()) if path.is_relative_to(ROOT) else None
    title = file.page.title if file and file.page else None
    return f"[{title}]({match[1]}{match[2] or ''})" if title else match[0]


def _resolve(link: str, folder: Path) -> str:
    """Return a link that stays in `docs/` unchanged, and the address in the repository of any other."""
    target = (folder / link).resolve()
    if target.is_relative_to(ROOT / "docs") or not target.is_relative_to(ROOT):
        return link
    return REPOSITORY + target.relative_to(ROOT).as_posix()
