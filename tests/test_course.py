"""The course: its Python blocks run in the order of the pages, on fewer scenes and for fewer epochs."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

COURSE = Path(__file__).parents[1] / "docs/course"
PAGES = ("data", "features", "tokens", "attention", "training", "decoding", "scores", "maps", "mistakes")
SMALLER = {
    "train=1500, val=100, test=100": "train=24, val=6, test=6",
    'overrides={"epochs": 8}': 'overrides={"epochs": 1, "batch_captions": 16}',
}
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_index_lists_every_page_in_order() -> None:
    index = (COURSE / "index.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| \d\. \[.*?\]\((\w+)\.md\)", index, re.MULTILINE)) == PAGES
    assert {path.stem for path in COURSE.glob("*.md")} == {"index", *PAGES}


def test_every_page_links_to_the_next() -> None:
    for page, following in pairwise(PAGES):
        last = (COURSE / f"{page}.md").read_text(encoding="utf-8").strip().splitlines()[-1]
        assert f"({following}.md)" in last


def test_the_code_of_the_pages_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    replaced = set()
    for page in PAGES:
        text = (COURSE / f"{page}.md").read_text(encoding="utf-8")
        names = {"__name__": "course"}  # shared by the blocks of a page
        for match in PYTHON.finditer(text):
            block = match[1]
            for original, smaller in SMALLER.items():
                if original in block:
                    replaced.add(original)
                    block = block.replace(original, smaller)
            line = text[: match.start()].count("\n") + 1
            exec(compile("\n" * line + block, str(COURSE / f"{page}.md"), "exec"), names)
    assert replaced == set(SMALLER)
    assert (tmp_path / "course/attention.png").is_file()
