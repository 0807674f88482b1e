"""Prompts: presets and variables per image."""

import io
from pathlib import Path

import numpy as np
import pytest

from seesay.captioners import ModelSpec
from seesay.captioners.prompts import PRESETS, VARIABLES, PromptTemplate, check_variables, prompt_variables
from seesay.errors import ConfigError
from tests import tiny
from tests.images.metadata.test_descriptions import XMP
from tests.images.metadata.test_facts import exif


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "holiday" / "IMG 1.jpg"
    path.parent.mkdir()
    tiny.image(0).save(path, exif=exif(), xmp=XMP)
    return str(path)


def test_variables_stand_for_facts_of_the_image(photo: str) -> None:
    names = " | ".join(f"{{{name}}}" for name in VARIABLES)
    assert PromptTemplate(names).render(photo) == "holiday | IMG 1 | 2024-05-17 | -33.8570, 151.2150 | dog"
    assert PromptTemplate(names).render(Path(photo)) == PromptTemplate(names).render(photo)


def test_variables_that_an_image_lacks_are_empty(photo: str, tmp_path: Path) -> None:
    template = PromptTemplate("Taken {exif.date} in {exif.place}{tags}{folder}.")
    tiny.image(0).save(tmp_path / "plain.png")
    assert template.render(str(tmp_path / "plain.png")) == f"Taken  in {tmp_path.name}."
    for image in (np.zeros((4, 4, 3), np.uint8), b"", io.BytesIO().getvalue(), tiny.image(0)):
        assert template.render(image) == "Taken  in ."
    assert template.render("https://example.org/a/b.jpg") == "Taken  in a."  # no request: the image is loaded once
    assert template.render(str(tmp_path / "missing.jpg")) == f"Taken  in {tmp_path.name}."


def test_columns_of_the_table_are_variables(photo: str) -> None:
    columns = {photo: {"who": "Eve {x}", "file name": "a", "stem": "from the table"}}
    template = PromptTemplate("{who} in {file name}, {stem}", columns=columns)
    assert template.render(photo) == "Eve {x} in a, from the table"
    assert template.render("other/b.jpg") == " in , b"


def test_braces_can_be_written(photo: str) -> None:
    template = PromptTemplate('Answer as {{"caption": "..."}} for {stem}.')
    assert template.render(photo) == 'Answer as {"caption": "..."} for IMG 1.'


def test_presets_have_names(photo: str) -> None:
    assert set(PRESETS) == {"short", "detailed", "alt-text", "tags", "training-caption"}
    for name, text in PRESETS.items():
        assert PromptTemplate(name).render(photo) == text
        assert prompt_variables(name) == set()


def test_the_language_is_asked_for(photo: str) -> None:
    assert PromptTemplate("short", "German").render(photo) == f"{PRESETS['short']} Answer in German."


@pytest.mark.parametrize("text", ["", "  ", "\n\t"])
def test_a_blank_prompt_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="the prompt is blank"):
        PromptTemplate(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{sten}", r"unknown variable \{sten\}; known: \{folder\}, \{stem\}, .*\{tags\}, \{who\} and the columns"),
        ("{}", r"unknown variable \{\}"),
        ("{0}", r"unknown variable \{0\}"),
        ("{stem.__class__}", r"unknown variable \{stem.__class__\}"),
        ("{stem!r}", r"unknown variable \{stem!r\}"),
        ("{stem:>9}", r"unknown variable \{stem:>9\}"),
        ('{"a": 1}', r"for braces write \{\{ and \}\}"),
        ("a { b", r"unmatched brace .*; for braces write \{\{ and \}\}"),
        ("a } b", r"unmatched brace"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_known_ones(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        PromptTemplate(text, columns={"a.jpg": {"who": "x"}})
    assert "\n" not in str(caught.value)


def test_columns_are_known_before_images() -> None:
    check_variables("{who}", ["who"])
    with pytest.raises(ConfigError):
        check_variables("{who}")


def test_columns_are_no_part_of_a_specification(photo: str) -> None:
    spec = ModelSpec(("m",), prompt="{who}", language="Latin", columns={photo: {"who": "Eve"}})
    assert "Eve" not in repr(spec)
    assert hash(spec) == hash(ModelSpec(("m",), prompt="{who}", language="Latin"))
