"""`seesay caption` around the model: guard, alt text and prompts, with a captioner whose captions are scripted."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from seesay.captioners import ModelSpec
from seesay.captioners.pretrained.families.chat import Chat
from seesay.images.metadata import read_description
from tests import tiny
from tests.bulk.outputs import lines
from tests.captioners.scripted import ScriptedCaptioner, caption
from tests.cli.test_main import Seesay, seesay

__all__ = ["seesay"]  # a fixture

REFUSAL = "I'm sorry, but I can't assist with that."
SCRIPT = {
    "a": ["an image of a dog"],
    "b": [""],
    "c": [REFUSAL],
    "d": ["the the the the the", "a photo of two cats"],
    "e": ["a white wall"],
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images a to d, and e, which is white."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate("abcd"):
        tiny.image(number).save(folder / f"{name}.png")
    Image.new("RGB", (40, 30), "white").save(folder / "e.png")
    return folder


@pytest.fixture
def specs(monkeypatch: pytest.MonkeyPatch) -> list[ModelSpec]:
    """Replace loading; returns what was loaded."""
    found: list[ModelSpec] = []

    def load(spec: ModelSpec) -> ScriptedCaptioner:
        found.append(spec)
        return ScriptedCaptioner(SCRIPT)

    monkeypatch.setattr(ModelSpec, "load", load)
    return found


pytestmark = pytest.mark.usefixtures("specs")
MODEL = ("--model", "someone/captioner")


class TestGuard:
    def test_unusable_captions_are_listed_and_never_written(self, seesay: Seesay, photos: Path, tmp_path: Path) -> None:
        result = seesay("caption", photos, *MODEL, "--out", "c.jsonl")
        assert result.code == 1
        assert {Path(row["image"]).stem: row["caption"] for row in lines(tmp_path / "c.jsonl")} == {
            "a": "an image of a dog",
            "d": "a photo of two cats",
            "e": "a white wall",
        }
        listed = {Path(row["image"]).stem: row["error"] for row in lines(tmp_path / "c.errors.jsonl")}
        assert listed == {
            "b": f"{photos}/b.png: no usable caption: empty",
            "c": f'{photos}/c.png: no usable caption: refusal ("{REFUSAL}")',
        }
        assert result.out[0] == (
            "3 captioned, 0 already there, 0 failed, 2 rejected (1 empty, 1 refusal) "
            "(reasons in c.errors.jsonl): c.jsonl"
        )

    def test_rejected_images_are_tried_again(
        self, seesay: Seesay, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seesay("caption", photos, *MODEL, "--out", "c.csv")
        better = {**SCRIPT, "b": ["a fox"], "c": ["a car"]}
        monkeypatch.setattr(ModelSpec, "load", lambda _: ScriptedCaptioner(better))
        result = seesay("caption", photos, *MODEL, "--out", "c.csv")
        assert (result.code, result.out[0]) == (0, "2 captioned, 3 already there, 0 failed: c.csv")
        assert not (tmp_path / "c.errors.jsonl").exists()

    def test_without_guard_everything_is_written(self, seesay: Seesay, photos: Path, tmp_path: Path) -> None:
        result = seesay("caption", photos, *MODEL, "--out", "c.jsonl", "--no-guard")
        assert result.code == 0
        assert [row["caption"] for row in lines(tmp_path / "c.jsonl")] == [each[0] for each in SCRIPT.values()]

    def test_printed_captions_are_checked(self, seesay: Seesay, photos: Path) -> None:
        result = seesay("caption", photos, *MODEL)
        assert result.code == 1
        assert len(result.out) == 3
        assert result.err[-1] == "seesay: 2 rejected (1 empty, 1 refusal)"
        assert seesay("caption", photos / "b.png", *MODEL).err == [f"seesay: {photos}/b.png: no usable caption: empty"]


class TestAltText:
    @pytest.mark.parametrize("name", ["c.jsonl", "c.csv"])
    def test_alt_text_is_written_in_place_of_the_caption(
        self, seesay: Seesay, photos: Path, tmp_path: Path, name: str
    ) -> None:
        images = [photos / f"{stem}.png" for stem in "ade"]
        result = seesay("caption", *images, *MODEL, "--out", name, "--style", "alt-text")
        assert (result.code, result.out[0]) == (0, f"3 captioned (1 blank), 0 already there, 0 failed: {name}")
        if name == "c.jsonl":
            written = [row["caption"] for row in lines(tmp_path / name)]
        else:
            with (tmp_path / name).open(newline="") as file:
                written = [row["caption"] for row in csv.DictReader(file)]
        assert written == ["A dog.", "Two cats.", ""]
        recipe = json.loads((tmp_path / f"{name}.recipe.json").read_text())["seesay_recipes"][-1]
        assert recipe["style"] == "alt-text"
        again = seesay("caption", *images, *MODEL, "--out", name, "--style", "alt-text")
        assert again.out[0] == f"0 captioned, 3 already there, 0 failed: {name}"

    def test_alt_text_is_printed(self, seesay: Seesay, photos: Path) -> None:
        assert seesay("caption", photos / "a.png", *MODEL, "--style", "alt-text").out == ["A dog."]
        assert seesay("caption", photos / "e.png", *MODEL, "--style", "alt-text").out == [""]
        jsonl = seesay("caption", photos / "d.png", *MODEL, "--style", "alt-text", "--format", "jsonl").out
        assert json.loads(jsonl[0])["caption"] == "Two cats."

    def test_sidecars_and_metadata_have_the_alt_text(self, seesay: Seesay, photos: Path) -> None:
        flags = ("--sidecar", ".txt", "--embed", "xmp", "--style", "alt-text", "--before", "[", "--after", "]")
        result = seesay("caption", photos / "a.png", photos / "e.png", *MODEL, *flags)
        assert result.code == 0
        assert (photos / "a.txt").read_text() == "[A dog.]\n"
        assert read_description((photos / "a.png").read_bytes(), "xmp") == "[A dog.]"
        assert not (photos / "e.txt").exists()  # nothing to write
        assert read_description((photos / "e.png").read_bytes(), "xmp") == ""

    @pytest.mark.parametrize(("existing", "kept"), [("overwrite", ""), ("append", "old"), ("prefix", "old")])
    def test_existing_text_of_a_blank_image(self, seesay: Seesay, photos: Path, existing: str, kept: str) -> None:
        (photos / "e.txt").write_text("old\n")
        flags = ("--sidecar", ".txt", "--existing", existing, "--style", "alt-text", "--out", "c.jsonl")
        assert seesay("caption", photos / "e.png", *MODEL, *flags).code == 0
        assert (photos / "e.txt").read_text().strip() == kept

    def test_another_style_in_one_file_is_reported(self, seesay: Seesay, photos: Path) -> None:
        seesay("caption", photos / "a.png", *MODEL, "--out", "c.jsonl")
        flags = ("--out", "c.jsonl", "--style", "alt-text")
        result = seesay("caption", photos / "d.png", *MODEL, *flags, "--strict")
        assert result.code == 2
        assert "style plain, now alt-text" in result.err[0]


class TestPrompts:
    def test_columns_of_the_table_reach_the_model(
        self, seesay: Seesay, photos: Path, tmp_path: Path, specs: list[ModelSpec]
    ) -> None:
        table = tmp_path / "t.csv"
        table.write_text(f"file,who,when\n{photos}/a.png,Eve,today\n")
        result = seesay("caption", table, *MODEL, "--prompt", "Describe {who} in {folder}.", "--language", "German")
        assert result.code == 0
        (spec,) = specs
        assert spec.columns == {f"{photos}/a.png": {"who": "Eve"}}
        template = Chat.template(spec)
        assert template.render(f"{photos}/a.png") == "Describe Eve in photos. Answer in German."

    @pytest.mark.parametrize(
        ("prompt", "line"),
        [
            ("  ", "the prompt is blank"),
            (
                "{whom}",
                "unknown variable {whom}; known: {folder}, {stem}, {exif.date}, {exif.place}, {tags}, {file}, {who}",
            ),
            ("a {", "unmatched brace"),
        ],
    )
    def test_a_prompt_is_checked_before_any_work(
        self, seesay: Seesay, photos: Path, tmp_path: Path, specs: list[ModelSpec], prompt: str, line: str
    ) -> None:
        table = tmp_path / "t.csv"
        table.write_text(f"file,who\n{photos}/a.png,Eve\n")
        result = seesay("caption", table, *MODEL, "--prompt", prompt, "--out", "c.jsonl")
        assert (result.code, specs) == (2, [])
        assert len(result.err) == 1
        assert line in result.err[0]
        assert not (tmp_path / "c.jsonl").exists()


def test_alternatives_are_written_after_the_guard(
    seesay: Seesay, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = caption("the the the the", "a dog", "", "a cat")
    monkeypatch.setattr(ModelSpec, "load", lambda _: ScriptedCaptioner({"a": [best]}))
    flags = ("--strategy", "beam", "--beam-size", "4", "--num-return-sequences", "4", "--out", "c.jsonl")
    assert seesay("caption", photos / "a.png", *MODEL, *flags).code == 0
    (row,) = lines(tmp_path / "c.jsonl")
    assert [each["caption"] for each in row["captions"]] == ["a dog", "a cat"]
