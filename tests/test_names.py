"""File names in a Unicode normalization other than that of the disk: macOS stores "é" decomposed (NFD)."""

import json
import tarfile
import unicodedata
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from seesay.bulk.discovery import find_images
from seesay.data.annotations import load_annotations
from seesay.data.objects import read_instances
from seesay.evaluation.predictions import match_predictions
from seesay.features.imports import import_features
from seesay.images.loading import read_image

Form = Literal["NFC", "NFD"]
Forms = tuple[Form, Form]
"""The normalization form in the table and that on the disk."""


def create_file(folder: Path, name: str) -> Path:
    """Creates an empty file."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.fixture(params=[("NFC", "NFD"), ("NFD", "NFC")], ids=" beside ".join)
def forms(request: pytest.FixtureRequest, tmp_path: Path) -> Forms:
    """The normalization form in the table and that on the disk."""
    listed: Form
    stored: Form
    listed, stored = request.param
    create_file(tmp_path, unicodedata.normalize(stored, "é"))
    if (tmp_path / unicodedata.normalize(listed, "é")).exists():
        pytest.skip("the file system does not distinguish the forms")
    return listed, stored


def write_table(path: Path, names: list[str]) -> None:
    path.write_text("\n".join(["image,caption", *(f"{name},A dog" for name in names)]))


def test_images_of_a_table_are_found_in_any_normalization(tmp_path: Path, forms: Forms) -> None:
    listed, stored = forms
    first = create_file(tmp_path, unicodedata.normalize(stored, "café.jpg"))
    second = create_file(tmp_path, unicodedata.normalize(stored, "Übung/zoë.jpg"))
    third = create_file(tmp_path, unicodedata.normalize(stored, "images/Ärzte/naïve.jpg"))
    names = [unicodedata.normalize(listed, name) for name in ("café.jpg", "Übung/zoë.jpg", "Ärzte/naïve.jpg")]
    write_table(tmp_path / "captions.csv", names)
    for source in (tmp_path, tmp_path / "captions.csv"):
        annotations = load_annotations(source)
        assert [item.image for item in annotations] == [str(path) for path in (first, second, third)]
        assert annotations.problems == ()


def test_texts_and_split_lists_match_in_any_normalization(tmp_path: Path, forms: Forms) -> None:
    listed, stored = forms
    create_file(tmp_path / "texts", unicodedata.normalize(stored, "café.jpg"))
    (tmp_path / "texts" / unicodedata.normalize(listed, "café.txt")).write_text("A dog")
    assert load_annotations(tmp_path / "texts")[0].captions == ("A dog",)
    (tmp_path / "lists").mkdir()
    create_file(tmp_path / "lists", unicodedata.normalize(stored, "café.jpg"))
    name = unicodedata.normalize(stored, "café.jpg")
    (tmp_path / "lists/x.token.txt").write_text(f"{name}#0\tA dog\n", encoding="utf-8")
    (tmp_path / "lists/trainImages.txt").write_text(unicodedata.normalize(listed, "café.jpg"), encoding="utf-8")
    assert load_annotations(tmp_path / "lists")[0].split == "train"


def test_tar_members_form_one_sample_in_any_normalization(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("A dog")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "a", unicodedata.normalize("NFC", "café.jpg"))
        archive.add(tmp_path / "a", unicodedata.normalize("NFD", "café.txt"))
    assert load_annotations(tmp_path / "x.tar")[0].captions == ("A dog",)


def test_captioning_finds_images_in_any_normalization(
    tmp_path: Path, forms: Forms, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, stored = forms
    monkeypatch.chdir(tmp_path)
    first = create_file(tmp_path, unicodedata.normalize(stored, "café.jpg"))
    second = create_file(tmp_path, unicodedata.normalize(stored, "Übung/zoë.jpg"))
    names = [unicodedata.normalize(listed, name) for name in ("café.jpg", "Übung/zoë.jpg")]
    write_table(tmp_path / "list.csv", names)
    (tmp_path / "list.txt").write_text("\n".join(names), encoding="utf-8")
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps({"image": str(tmp_path / name)}) for name in names))
    for sources in (
        ["list.csv"],
        ["list.txt"],
        ["list.jsonl"],
        names,
        [names[0], unicodedata.normalize(listed, "Übung")],
    ):
        found = find_images(sources).images
        assert [Path(name).resolve() for name in found] == [first, second], sources
    assert (
        unicodedata.normalize(listed, "fehlt-é.jpg")
        in find_images([unicodedata.normalize(listed, "fehlt-é.jpg")]).images
    )


def test_predictions_and_instances_match_in_any_normalization(tmp_path: Path) -> None:
    create_file(tmp_path, "café.jpg")
    write_table(tmp_path / "captions.csv", ["café.jpg"])
    items = load_annotations(tmp_path).items
    decomposed = unicodedata.normalize("NFD", "café.jpg")
    assert match_predictions({decomposed: "a dog"}, items, Path("p.json"))[0] == {"café.jpg": "a dog"}
    instances = {
        "images": [{"id": 1, "file_name": decomposed}],
        "categories": [{"id": 2, "name": "dog"}],
        "annotations": [{"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1]}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    assert read_instances(tmp_path / "instances.json", "café.jpg")[0].label == "dog"


def test_an_image_is_opened_in_any_normalization(tmp_path: Path, forms: Forms) -> None:
    listed, stored = forms
    Image.new("RGB", (3, 2)).save(tmp_path / unicodedata.normalize(stored, "café.png"))
    assert read_image(tmp_path / unicodedata.normalize(listed, "café.png")).size == (3, 2)


def test_feature_arrays_are_found_in_any_normalization(tmp_path: Path, forms: Forms) -> None:
    listed, stored = forms
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / unicodedata.normalize(stored, "café.npy"), np.ones((2, 3), np.float32))
    name = unicodedata.normalize(listed, "café.jpg")
    assert import_features(tmp_path / "arrays", {name: name}, tmp_path / "store.features") == 1


def test_two_files_that_differ_only_in_normalization_are_two_images(tmp_path: Path, forms: Forms) -> None:
    names = [unicodedata.normalize(form, "café.jpg") for form in forms]
    for name in names:
        create_file(tmp_path, name)
    write_table(tmp_path / "captions.csv", names)
    assert [Path(item.image).name for item in load_annotations(tmp_path)] == names
