"""Selection among several sources of captions in a folder, and the layouts of public data sets."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seesay.bulk.failures import Failures
from seesay.bulk.parquet_writer import ParquetWriter
from seesay.bulk.writers import CsvWriter, JsonlWriter
from seesay.captioners.caption import Caption
from seesay.data.annotations import Annotations, load_annotations
from seesay.data.readers.columns import ColumnNames
from seesay.errors import ConfigError, DataError

Captions = dict[str, tuple[str | None, tuple[str, ...]]]


def put(folder: Path, *names: str) -> None:
    """Creates empty image files; reading annotations does not open them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write(folder: Path, **texts: object) -> None:
    """Writes files: `a_dot_jpg` as a.jpg, `a__b` as a/b; content that is not text as JSON."""
    for name, content in texts.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def captions_by_file(annotations: Annotations) -> Captions:
    return {Path(item.image).name: (item.split, item.captions) for item in annotations}


# Selection of the source


def photos_with_texts(folder: Path) -> Captions:
    put(folder, "a.jpg", "b.jpg")
    write(folder, a_dot_txt="A dog", b_dot_txt="A cat")
    return {"a.jpg": (None, ("A dog",)), "b.jpg": (None, ("A cat",))}


def test_texts_beside_the_images_precede_a_table_of_one_row(tmp_path: Path) -> None:
    expected = photos_with_texts(tmp_path)
    write(tmp_path, notes_dot_csv="image,comment\na.jpg,blurred\n")
    annotations = load_annotations(tmp_path)
    assert annotations.format == "sidecar"
    assert captions_by_file(annotations) == expected
    assert annotations.problems == (
        "captions read from text files beside the images, not from notes.csv; pass a file to select it",
    )
    assert captions_by_file(load_annotations(tmp_path / "notes.csv")) == {"a.jpg": (None, ("blurred",))}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.csv", "image,caption\na.jpg,From the table\nb.jpg,Too\n"),
        ("meta_cap.json", {"a": {"caption": "From the table"}, "b": {"caption": "Too"}}),
    ],
)
def test_a_table_of_all_images_precedes_texts_beside_them(tmp_path: Path, name: str, content: object) -> None:
    photos_with_texts(tmp_path)
    write(tmp_path, **{name.replace(".", "_dot_"): content})
    annotations = load_annotations(tmp_path)
    assert annotations.format == name.rpartition(".")[2]
    assert annotations[0].captions == ("From the table",)
    assert f"captions read from {name}, not from text files beside the images" in annotations.problems[0]


def test_other_formats_and_nested_files_precede_a_table_of_one_row(tmp_path: Path) -> None:
    put(tmp_path, *(f"{number}.jpg" for number in range(4)))
    rows = "".join(f"{number}.jpg,caption {number}\n" for number in range(4))
    write(
        tmp_path,
        notes_dot_jsonl={"image": "0.jpg", "text": "blurred"},
        annotations__all_dot_csv=f"image,caption\n{rows}",
    )
    annotations = load_annotations(tmp_path)
    assert len(annotations) == 4
    assert "captions read from annotations/all.csv, not from notes.jsonl" in annotations.problems[0]


def model_caption() -> Caption:
    return Caption("a model", ("a", "model"), (-0.1, -0.2), -0.3, -0.6, True)


def own_outputs(folder: Path) -> list[str]:
    """Writes outputs of `seesay caption` with its own writers; returns their names."""
    rows = [("a.jpg", model_caption()), ("b.jpg", model_caption())]
    for output in (
        JsonlWriter(folder / "captions.jsonl", 1, lambda name: True),
        JsonlWriter(folder / "several.jsonl", 2, lambda name: True),
        CsvWriter(folder / "captions.csv", 1),
        CsvWriter(folder / "several.tsv", 3),
        ParquetWriter(folder / "captions.parquet", 1, lambda name: True),
    ):
        output.create()
        output.open()
        output.write(rows)
        output.close()
    Failures(folder / "captions.errors.jsonl").add("c.jpg", "broken")
    write(folder, captions_dot_jsonl_dot_recipe_dot_json={"model": "m", "caption": "none"})
    return ["captions.csv", "captions.errors.jsonl", "captions.jsonl", "several.jsonl", "several.tsv"]


def test_captions_written_by_seesay_are_not_read_as_human_captions(tmp_path: Path) -> None:
    expected = photos_with_texts(tmp_path)
    names = own_outputs(tmp_path)
    annotations = load_annotations(tmp_path)
    assert captions_by_file(annotations) == expected
    (problem,) = annotations.problems
    assert problem == (
        f"{', '.join(names)} and 1 more written by seesay, not read as human captions; pass a file to use its captions"
    )


def test_captions_written_by_seesay_are_read_only_from_a_file_path(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    own_outputs(tmp_path)
    with pytest.raises(DataError, match=r"contains 2 images but nothing .*captions.csv.* written by seesay"):
        load_annotations(tmp_path)
    for name in ("captions.jsonl", "several.tsv", "captions.parquet", "captions.parquet/part-00000.parquet"):
        annotations = load_annotations(tmp_path / name, require_images=False)
        assert annotations[0].captions[0] == "a model"
        assert "written by seesay: the captions are generated by a model" in annotations.problems[0]


def test_json_files_of_unknown_format_are_reported(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path, a_dot_json={"shapes": []}, index_dot_json={"files": 2}, more__info_dot_json=[1])
    with pytest.raises(DataError, match=r"unknown format: a.json, index.json, more/info.json"):
        load_annotations(tmp_path)


# Layouts of public data


def test_vizwiz_with_a_test_split_of_images_only(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        name = f"VizWiz_{split}_0000000{number}.jpg"
        put(tmp_path, f"{split}/{name}")
        image = {"file_name": name, "vizwiz_url": f"https://example.org/{name}", "id": number, "text_detected": True}
        caption = {
            "caption": f"A {split}", "image_id": number, "is_precanned": False, "is_rejected": False,
            "id": number, "text_detected": True,
        }  # fmt: skip
        more = {} if split == "test" else {"annotations": [caption]}
        write(tmp_path, **{f"annotations__{split}_dot_json": {"info": {}, "images": [image], **more}})
    annotations = load_annotations(tmp_path)
    assert annotations.format == "coco"
    assert captions_by_file(annotations) == {
        "VizWiz_train_00000000.jpg": ("train", ("A train",)),
        "VizWiz_val_00000001.jpg": ("val", ("A val",)),
    }
    assert annotations.problems == ("test.json lists 1 image and no captions; skipped",)
    assert annotations.uncaptioned == ()
    with pytest.raises(DataError, match="is not COCO captions"):
        load_annotations(tmp_path / "annotations/test.json")


def img2dataset(folder: Path, texts: bool) -> None:
    """Writes the layout of img2dataset's `output_format="files"`."""
    rows = []
    for number, caption in enumerate(("A dog", "A cat")):
        key = f"{number:09}"
        row = {
            "url": f"http://example.org/{key}", "caption": caption, "key": key, "status": "success",
            "error_message": None, "width": 8, "height": 6, "exif": "{}", "sha256": "0",
        }  # fmt: skip
        put(folder, f"00000/{key}.jpg")
        write(folder, **{f"00000__{key}_dot_json": row})
        if texts:
            write(folder, **{f"00000__{key}_dot_txt": caption})
        rows.append(row)
    rows.append({**rows[0], "url": "http://example.org/x", "key": "000000002", "status": "failed_to_download"})
    pq.write_table(pa.Table.from_pylist(rows), folder / "00000.parquet")
    write(folder, **{"00000_stats_dot_json": {"count": 3, "successes": 2}})


@pytest.mark.parametrize("texts", [True, False])
def test_img2dataset_files_are_read_from_disk_not_from_their_urls(tmp_path: Path, texts: bool) -> None:
    img2dataset(tmp_path, texts)
    annotations = load_annotations(tmp_path)
    assert annotations.format == "sidecar"
    assert [item.image for item in annotations] == [f"{tmp_path}/00000/{number:09}.jpg" for number in range(2)]
    assert [item.captions for item in annotations] == [("A dog",), ("A cat",)]
    assert annotations.problems == (
        "captions read from text files beside the images, not from 00000.parquet; pass a file to select it",
    )


# All have one caption of img0.jpg in train and one of img1.jpg in val, or no splits.
CONTENTS: dict[str, object] = {
    "kohya/meta_cap.json": {"img0": {"caption": "x", "tags": "t"}, "img1": {"tags": "t", "caption": "y"}},
    "kohya-full-path/meta_lat.json": {
        "/data/img0.jpg": {"caption": "x", "train_resolution": [1, 2]}, "/data/img1.jpg": {"caption": "y"},
    },
    "lines/captions.json": '{"image": "img0.jpg", "caption": "x"}\n{"image": "img1.jpg", "caption": "y"}\n',
    "list-in-jsonl/captions.jsonl": [{"image": "img0.jpg", "text": "x"}, {"image": "img1.jpg", "text": "y"}],
    "roco/traindata.csv": "id,name,caption\nROCO_00002,img0.jpg, x\nROCO_00003,img1.jpg, y\n",
    "rocov2/captions.csv": "ID,Caption\nimg0,x\nimg1,y\n",
    "llava/blip_laion_cc_sbu_558k_meta.json": [
        {"id": "0", "image": "img0.jpg", "blip_caption": "x", "url": "http://example.org/0"},
        {"id": "1", "image": "img1.jpg", "blip_caption": "y", "url": "http://example.org/1"},
    ],
    "hub/metadata.jsonl": '{"file_name": "img0.jpg", "prompt": "x"}\n{"file_name": "img1.jpg", "prompt": "y"}\n',
    "by-split/data.json": {
        "train": [{"image": "img0.jpg", "caption": "x"}], "val": [{"image": "img1.jpg", "caption": "y"}], "test": [],
    },
    "by-split-and-name/data.json": {"train": {"img0": {"caption": "x"}}, "validation": {"img1": {"caption": "y"}}},
    "annotations-first/captions.json": {
        "annotations": [{"image_id": 0, "id": 0, "caption": "x"}, {"image_id": 1, "id": 1, "caption": "y"}],
        "images": [{"id": 0, "file_name": "img0.jpg"}, {"id": 1, "file_name": "img1.jpg"}],
    },
    "one-object/data.json": {"image": "img0.jpg", "caption": "x"},
}  # fmt: skip


@pytest.mark.parametrize("layout", CONTENTS)
def test_layouts_of_public_data(tmp_path: Path, layout: str) -> None:
    put(tmp_path, "images/img0.jpg", "images/img1.jpg")
    name = layout.partition("/")[2].replace(".", "_dot_")
    write(tmp_path, **{name: CONTENTS[layout], "package_dot_json": {"name": "img0", "description": "a package"}})
    annotations = load_annotations(tmp_path)
    splits = ("train", "val") if layout.startswith("by-split") else (None, None)
    expected: Captions = {"img0.jpg": (splits[0], ("x",)), "img1.jpg": (splits[1], ("y",))}
    if layout.startswith("one-object"):
        del expected["img1.jpg"]
    assert captions_by_file(annotations) == expected


def test_roco_with_images_named_by_id(tmp_path: Path) -> None:
    put(tmp_path, "images/ROCO_00002.jpg", "images/7.jpg")
    write(tmp_path, captions_dot_csv="id,name,caption\nROCO_00002,PMC4083729_g002.jpg,A scan\n7,PMC1.jpg,Another\n")
    annotations = load_annotations(tmp_path)
    assert captions_by_file(annotations) == {"ROCO_00002.jpg": (None, ("A scan",))}
    assert (
        "1 image found by id, because no file has the name in the table: ROCO_00002 (PMC4083729_g002.jpg)"
        in annotations.problems
    )
    assert annotations.missing == ("PMC1.jpg",)


# Columns selected by the user


def test_columns_selected_by_the_user(tmp_path: Path) -> None:
    put(tmp_path, "img0.jpg")
    tables: dict[str, object] = {
        "a.csv": "Bild,Beschreibung,caption\nimg0.jpg,Ein Hund,A dog\n",
        "a.jsonl": {"Bild": "img0.jpg", "Beschreibung": "Ein Hund", "caption": "A dog"},
        "a.json": [{"Bild": "img0.jpg", "Beschreibung": "Ein Hund"}],
        "b.json": {"img0": {"Beschreibung": "Ein Hund"}},
    }
    columns = ColumnNames("Bild", "Beschreibung")
    for name, content in tables.items():
        folder = tmp_path / name.replace(".", "-")
        put(folder, "img0.jpg")
        write(folder, **{name.replace(".", "_dot_"): content, "other_dot_csv": "image,caption\nimg0.jpg,Not this\n"})
        for source in (folder, folder / name):
            assert load_annotations(source, columns=columns)[0].captions == ("Ein Hund",), source
    pq.write_table(pa.table({"Bild": ["img0.jpg"], "Beschreibung": ["Ein Hund"]}), tmp_path / "a.parquet")
    assert load_annotations(tmp_path / "a.parquet", columns=columns)[0].captions == ("Ein Hund",)


def test_a_selected_column_that_is_missing_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, a_dot_csv="image,caption\nimg0.jpg,A dog\n", t_dot_token="img0.jpg#0\tA dog\n")
    for source in (tmp_path / "a.csv", tmp_path):
        with pytest.raises(DataError, match=r"a.csv has no column 'titre' \(columns: 'image', 'caption'\)"):
            load_annotations(source, columns=ColumnNames(caption="titre"))
    with pytest.raises(ConfigError, match=r"select columns of tables; .*t.token is read as flickr"):
        load_annotations(tmp_path / "t.token", columns=ColumnNames(caption="titre"))


def test_a_file_with_scores_that_are_not_finite_is_detected(tmp_path: Path) -> None:
    output = JsonlWriter(tmp_path / "x.jsonl", 1, lambda name: True)
    output.create()
    output.write([("a.jpg", replace(model_caption(), score=math.nan, log_probs=(math.inf,)))])
    assert "written by seesay" in load_annotations(tmp_path / "x.jsonl", require_images=False).problems[0]
