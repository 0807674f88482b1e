"""Data sets of the Hugging Face datasets library, against what the library itself reads from them."""

import io
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from seesay.data.annotations import Annotations, load_annotations
from seesay.data.readers.columns import ColumnNames
from seesay.errors import DataError, ImageError, MissingDependencyError
from seesay.images.loading import read_image
from tests import tiny
from tests.captioners.pretrained.hub import Hub, connect, serve_hub
from tests.cli.test_main import Seesay, seesay

__all__ = ["seesay"]  # a fixture

TEXT = datasets.Value("string")
TEXTS = datasets.Sequence(TEXT)
CAPTIONS = [["a dog", "a brown dog"], ["a cat"], ["a bird", "it flies"]]


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


def image_bytes(seed: int) -> bytes:
    stream = io.BytesIO()
    tiny.image(seed, 20, 14).save(stream, "PNG")
    return stream.getvalue()


def cells(*seeds: int, name: str = "{}.png") -> list[dict[str, Any]]:
    return [{"bytes": image_bytes(seed), "path": name.format(seed)} for seed in seeds]


def make(captions: list[Any], kind: Any = None, column: str = "image", **others: Any) -> datasets.Dataset:
    """A data set of three images with captions of some type."""
    features = {column: datasets.Image(), "caption": kind or TEXT, **others}
    content = {column: cells(*range(len(captions))), "caption": captions, **dict.fromkeys(others, captions)}
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


def captions_of(annotations: Annotations) -> list[tuple[str, ...]]:
    return [item.captions for item in annotations]


def assert_pixels(annotations: Annotations, expected: datasets.Dataset, column: str = "image") -> None:
    """Check that the images are those that the library decodes, row by row."""
    assert len(annotations) == len(expected)
    for item, row in zip(annotations, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(read_image(item.image)), np.asarray(row[column].convert("RGB")))


def test_splits_and_images_are_those_of_the_library(tmp_path: Path) -> None:
    saved = datasets.DatasetDict({name: make(CAPTIONS, TEXTS) for name in ("train", "validation", "test", "extra")})
    saved.save_to_disk(tmp_path / "data")
    annotations = load_annotations(tmp_path / "data")
    assert (annotations.format, annotations.problems) == ("datasets", ())
    assert annotations.splits == ("train", "val", "test", "extra")
    loaded = datasets.load_from_disk(str(tmp_path / "data"))
    for ours, theirs in (("train", "train"), ("val", "validation"), ("test", "test"), ("extra", "extra")):
        part = annotations.split(ours)
        assert [item.id for item in part] == [f"{theirs}/{number}.png" for number in range(3)]
        assert captions_of(part) == [tuple(each) for each in CAPTIONS]
        assert_pixels(part, loaded[theirs])


def test_shards_of_data_without_splits(tmp_path: Path) -> None:
    saved = make([str(number) for number in range(7)])
    saved.save_to_disk(tmp_path / "plain", num_shards=3)
    datasets.DatasetDict({"train": saved}).save_to_disk(tmp_path / "dict")
    for name in ("plain", "dict"):
        annotations = load_annotations(tmp_path / name)
        assert annotations.splits == ()
        assert captions_of(annotations) == [(str(number),) for number in range(7)]
        assert_pixels(annotations, saved)


@pytest.mark.parametrize(
    ("captions", "kind"),
    [
        (["a dog", "a cat"], TEXT),
        (["a dog", "a cat"], datasets.Value("large_string")),
        ([["a dog"], ["a cat"]], TEXTS),
        ([[{"raw": "a dog", "id": "1"}], [{"raw": "a cat", "id": "2"}]], [dict.fromkeys(("raw", "id"), TEXT)]),
        ([{"raw": ["a dog"]}, {"raw": ["a cat"]}], {"raw": TEXTS}),
    ],
    ids=["text", "large", "list", "objects", "object"],
)
def test_types_of_caption_columns(tmp_path: Path, captions: list[Any], kind: Any) -> None:
    make(captions, kind).save_to_disk(tmp_path)
    assert captions_of(load_annotations(tmp_path)) == [("a dog",), ("a cat",)]


def test_an_image_column_of_any_name(tmp_path: Path) -> None:
    make(["a dog"], column="view").save_to_disk(tmp_path / "one")
    annotations = load_annotations(tmp_path / "one")
    assert annotations[0].image.endswith("::view::0")
    make(["a dog"], column="view", title=datasets.Value("string")).save_to_disk(tmp_path / "two")
    chosen = load_annotations(tmp_path / "two", columns=ColumnNames("view", "title"))
    assert captions_of(chosen) == [("a dog",)]


def test_rows_that_repeat_an_image_for_each_caption(tmp_path: Path) -> None:
    content = {"image": cells(0, 0, 1, 1), "text": ["A", "B", "C", "D"]}
    features = datasets.Features({"image": datasets.Image(), "text": TEXT})
    datasets.Dataset.from_dict(content, features=features).save_to_disk(tmp_path, num_shards=4)
    assert captions_of(load_annotations(tmp_path)) == [("A", "B"), ("C", "D")]


def test_a_column_of_splits_and_ids(tmp_path: Path) -> None:
    content = {"image": cells(0, 1), "caption": ["A", "B"], "split": ["train", "val"], "img_id": ["7", "9"]}
    features = {"image": datasets.Image(), **dict.fromkeys(("caption", "split", "img_id"), TEXT)}
    whole = datasets.Dataset.from_dict(content, features=datasets.Features(features))
    datasets.DatasetDict({"test": whole}).save_to_disk(tmp_path)  # as nlphuji/flickr30k
    assert [(item.id, item.split) for item in load_annotations(tmp_path)] == [("7", "train"), ("9", "val")]


def test_images_that_were_saved_as_paths(tmp_path: Path) -> None:
    paths = [tmp_path / "images" / f"{number}.png" for number in range(2)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        path.write_bytes(image_bytes(number))
    for column in ("image", "view"):
        features = datasets.Features({column: datasets.Image(), "caption": TEXT})
        content = {column: list(map(str, paths)), "caption": ["A", "B"]}
        saved = datasets.Dataset.from_dict(content, features=features)
        saved.save_to_disk(tmp_path / column)  # with the images' bytes; then as in the library's cache, without
        file = tmp_path / column / "data-00000-of-00001.arrow"
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, saved.data.schema) as writer:
            writer.write_table(saved.data.table)
        assert [item.image for item in load_annotations(tmp_path / column)] == list(map(str, paths))


class TestDamage:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        make(["a dog", "a cat"]).save_to_disk(tmp_path / "data", num_shards=2)
        return tmp_path / "data"

    def error_of(self, folder: Path) -> str:
        with pytest.raises(DataError) as caught:
            load_annotations(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_missing_shard(self, folder: Path) -> None:
        (folder / "data-00001-of-00002.arrow").unlink()
        assert "data-00001-of-00002.arrow is missing; save or copy the data set again" in self.error_of(folder)

    @pytest.mark.parametrize("size", [0, 5, 700])
    def test_a_truncated_shard(self, folder: Path, size: int) -> None:
        path = folder / "data-00000-of-00002.arrow"
        path.write_bytes(path.read_bytes()[:size])
        assert "data-00000-of-00002.arrow cannot be read as Arrow" in self.error_of(folder)

    @pytest.mark.parametrize("state", ["", "{}", "[]", '{"_data_files": [1], "_split": null}', '{"_split": 3}'])
    def test_a_damaged_state(self, folder: Path, state: str) -> None:
        (folder / "state.json").write_text(state)
        assert "state.json" in self.error_of(folder)

    def test_a_file_outside_the_folder_is_not_read(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "secret.arrow").write_bytes((folder / "data-00000-of-00002.arrow").read_bytes())
        state = json.loads((folder / "state.json").read_text())
        state["_data_files"][0]["filename"] = "../secret.arrow"
        (folder / "state.json").write_text(json.dumps(state))
        assert "data/secret.arrow is missing" in self.error_of(folder)

    def test_columns_without_captions(self, tmp_path: Path) -> None:
        datasets.Dataset.from_dict({"image": ["a.jpg"], "label": [3]}).save_to_disk(tmp_path / "data")
        assert "has the columns 'image', 'label'; expected" in self.error_of(tmp_path / "data")

    def test_rows_and_columns_that_do_not_exist(self, folder: Path) -> None:
        path = folder / "data-00000-of-00002.arrow"
        for member, message in (("image::1", "only 1 rows"), ("view::0", "no column view"), ("image", "COLUMN::ROW")):
            with pytest.raises(ImageError, match=message):
                read_image(f"{path}::{member}")

    def test_another_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="is not a folder of save_to_disk; pass one, or hf:NAME"):
            load_annotations(tmp_path, "datasets")


class TestHub:
    @pytest.fixture
    def hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
        """A hub with a data set, `ada/animals`, of two configurations."""
        repository = tmp_path / "repository"
        card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train.parquet\n"
        card += "  - split: validation\n    path: data/validation.parquet\n"
        card += "- config_name: small\n  data_files: data/validation.parquet\n---\n"
        (repository / "data").mkdir(parents=True)
        (repository / "README.md").write_text(card)
        make(CAPTIONS, TEXTS).to_parquet(repository / "data/train.parquet")
        make(CAPTIONS[:2], TEXTS).to_parquet(repository / "data/validation.parquet")
        with serve_hub() as found:
            connect(found, tmp_path / "cache", monkeypatch)
            monkeypatch.setattr(datasets.config, "HF_ENDPOINT", found.url)
            monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
            monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
            found.repositories["ada/animals"] = repository
            yield found

    def error_of(self, name: str) -> str:
        with pytest.raises(DataError) as caught:
            load_annotations(name)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_name_is_downloaded_once(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        annotations = load_annotations("hf:ada/animals")
        assert (annotations.source, annotations.splits) == ("hf:ada/animals", ("train", "val"))
        assert captions_of(annotations.split("train")) == [tuple(each) for each in CAPTIONS]
        assert [item.id for item in annotations.split("val")] == ["validation/0.png", "validation/1.png"]
        assert_pixels(annotations.split("train"), make(CAPTIONS, TEXTS))
        small = load_annotations("hf:ada/animals:small")
        assert (small.splits, len(small)) == ((), 2)
        monkeypatch.setattr("seesay.data.readers.saved.hub_answers", lambda: False)
        hub.requests.clear()
        logging.getLogger("datasets").setLevel(logging.ERROR)
        assert captions_of(load_annotations("hf:ada/animals:default")) == captions_of(annotations)
        assert "it is not in the cache and the hub cannot be reached" in self.error_of("hf:ada/other")
        assert hub.requests == []

    def test_names_that_cannot_be_loaded(self, hub: Hub) -> None:
        assert "hf:ada/absent cannot be loaded: the hub has no such data set" in self.error_of("hf:ada/absent")
        assert "BuilderConfig 'nope' not found" in self.error_of("hf:ada/animals:nope")
        for name in ("hf:", "hf:a/b/c", "hf:ada/an imal"):
            assert "is not hf:NAME or hf:NAME:CONFIG" in self.error_of(name)

    def test_the_library_may_be_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "datasets", None)
        with pytest.raises(MissingDependencyError, match=r"pip install 'seesay\[datasets\]'"):
            load_annotations("hf:ada/animals")


def test_every_command_takes_such_data(
    seesay: Seesay, colours: Path, annotations: Annotations, cached_run: Path, tmp_path: Path
) -> None:
    parts = {}
    for split in ("train", "val", "test"):
        items = annotations.split(split)
        images = [{"bytes": Path(item.image).read_bytes(), "path": f"{item.id}.png"} for item in items]
        features = datasets.Features({"image": datasets.Image(), "captions": TEXTS})
        parts[split] = datasets.Dataset.from_dict(
            {"image": images, "captions": [list(item.captions) for item in items]}, features=features
        )
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    checked = seesay("data", "check", "saved")
    assert checked.code == 0, checked.err
    for out, data in (("ours", "saved"), ("theirs", colours)):
        assert seesay("evaluate", cached_run, data, "--out", out, "--draws", "50").code == 0
    ours, theirs = (json.loads((tmp_path / name / "scores.json").read_text()) for name in ("ours", "theirs"))
    assert ours["scores"] == theirs["scores"]
    captioned = seesay("caption", "saved", "--model", cached_run, "--out", "captions.jsonl")
    assert captioned.code == 0, captioned.err
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert len(rows) == 36
    assert rows[0]["image"] == "saved/train/data-00000-of-00001.arrow::image::0"
    shutil.copy(cached_run / "config.yaml", tmp_path / "config.yaml")
    trained = seesay("train", "saved", "--config", "config.yaml", "--epochs", "1", "--out", "runs/new")
    assert trained.code == 0, trained.err
    assert json.loads((tmp_path / "runs/new/captioner.json").read_text())["data"] == "saved"


def test_arrays_of_pixels_are_equal(tmp_path: Path) -> None:
    """An image of the library in another mode is converted as every other image is."""
    picture = Image.new("RGBA", (6, 4), (255, 0, 0, 0))
    datasets.Dataset.from_dict({"image": [picture], "caption": ["A"]}).save_to_disk(tmp_path)
    pixel = read_image(load_annotations(tmp_path)[0].image).getpixel((0, 0))
    assert pixel == (255, 255, 255)  # transparency on white
