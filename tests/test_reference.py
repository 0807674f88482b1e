"""The reference pages that are generated for the documentation, and the navigation."""

import re
from pathlib import Path

import reference
from seesay.config import field_paths, preset_names
from seesay.config.flags import flag_name

ROOT = Path(__file__).parents[1]


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


def test_every_page_is_in_the_navigation_once() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    docs = ROOT / "docs"
    listed: list[Path] = []
    for name in re.findall(r"[\w/*-]+\.md", navigation):
        listed += docs.glob(name) if "*" in name else [docs / name]
    assert sorted(listed) == sorted(docs.rglob("*.md"))
