"""Every reader on the formats of public files."""

import codecs
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from seesay.data.annotations import Annotations, Box, load_annotations
from seesay.data.readers.columns import find_columns
from seesay.data.records import split_in_name, split_name, split_of_folder
from seesay.errors import DataError
from seesay.images.loading import read_image

Captions = dict[str, tuple[str | None, tuple[str, ...]]]


def put(folder: Path, *names: str) -> None:
    """Creates empty image files; reading annotations does not open them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def captions_by_id(annotations: Annotations) -> Captions:
    return {item.id: (item.split, item.captions) for item in annotations}


def images(annotations: Annotations, folder: Path) -> list[str]:
    return [str(Path(item.image).relative_to(folder)) for item in annotations]


def jpeg(colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(stream, "JPEG")
    return stream.getvalue()


# Flickr8k and Flickr30k


def test_flickr8k_with_split_lists_invalid_lines_and_crlf(tmp_path: Path) -> None:
    put(tmp_path, "Flicker8k_Dataset/a.jpg", "Flicker8k_Dataset/b.jpg", "Flicker8k_Dataset/c.jpg")
    (tmp_path / "Flickr8k.token.txt").write_bytes(
        b"a.jpg#0\tA dog runs .\r\na.jpg#1\tA brown dog .\r\nwhat is this\r\n\r\n"
        b"b.jpg#0\tTwo men .\r\nc.jpg#0\tA boat .\r\n"
    )
    (tmp_path / "Flickr8k.lemma.token.txt").write_text("a.jpg#0\ta dog run .\nb.jpg#0\ttwo man .\n")
    (tmp_path / "CrowdFlowerAnnotations.txt").write_text("a.jpg\tb.jpg#0\t1\t3\t0\n")
    (tmp_path / "ExpertAnnotations.txt").write_text("a.jpg\tb.jpg#2\t1\t1\t2\n")
    (tmp_path / "readme.txt").write_text("If you publish work based on, or use, this corpus, cite the paper.\n")
    (tmp_path / "Flickr_8k.trainImages.txt").write_bytes(b"a.jpg\r\n")
    (tmp_path / "Flickr_8k.devImages.txt").write_bytes(b"b.jpg\r\nnone.jpg\r\n")
    annotations = load_annotations(tmp_path)
    assert annotations.format == "flickr"
    assert captions_by_id(annotations) == {
        "a.jpg": ("train", ("A dog runs .", "A brown dog .")),
        "b.jpg": ("val", ("Two men .",)),
        "c.jpg": (None, ("A boat .",)),
    }
    assert images(annotations, tmp_path)[0] == "Flicker8k_Dataset/a.jpg"
    problems = "\n".join(annotations.problems)
    assert "1 line not name#number<TAB>caption: line 3 ('what is this')" in problems
    assert "Flickr_8k.devImages.txt: 1 line names no image with captions: none.jpg" in problems
    assert "1 image without a split, not used in training: c.jpg" in problems


def test_flickr30k_token_file_with_lists_of_stems_in_a_subfolder(tmp_path: Path) -> None:
    put(tmp_path, "flickr30k-images/1000.jpg", "flickr30k-images/1001.jpg")
    (tmp_path / "text").mkdir()
    (tmp_path / "text/results_20130124.token").write_text(
        "1000.jpg#0\tTwo young guys .\n1001.jpg#0\tSeveral men .\n", encoding="utf-8-sig"
    )
    (tmp_path / "text/flickr30k_train.txt").write_text("1000\n")
    (tmp_path / "text/flickr30k_test.txt").write_text("1001\n")
    expected = {"1000.jpg": ("train", ("Two young guys .",)), "1001.jpg": ("test", ("Several men .",))}
    assert captions_by_id(load_annotations(tmp_path)) == expected
    assert captions_by_id(load_annotations(tmp_path / "text/results_20130124.token")) == expected


def test_an_image_on_two_split_lists_is_in_both(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    (tmp_path / "x.token.txt").write_text("a.jpg#0\tA dog .\n")
    (tmp_path / "trainImages.txt").write_text("a.jpg\n")
    (tmp_path / "testImages.txt").write_text("a.jpg\n")
    assert sorted(str(item.split) for item in load_annotations(tmp_path)) == ["test", "train"]


# Karpathy


def karpathy(images: list[dict[str, Any]]) -> str:
    return json.dumps({"images": images, "dataset": "some"})


def test_karpathy_coco_with_restval_and_folders(tmp_path: Path) -> None:
    put(tmp_path, "train2014/COCO_train2014_9.jpg", "val2014/COCO_val2014_7.jpg")
    sentences = [{"tokens": ["a", "cat"], "raw": "A cat.", "imgid": 0, "sentid": 3}]
    (tmp_path / "dataset_coco.json").write_text(
        karpathy(
            [
                {"filepath": "val2014", "filename": "COCO_val2014_7.jpg", "cocoid": 7, "imgid": 0,
                 "sentids": [3], "split": "restval", "sentences": sentences},
                {"filepath": "train2014", "filename": "COCO_train2014_9.jpg", "cocoid": 9, "imgid": 1,
                 "sentids": [4], "split": "val", "sentences": [{"tokens": ["two", "dogs"]}]},
            ]
        )
    )  # fmt: skip
    annotations = load_annotations(tmp_path)
    assert annotations.format == "karpathy"
    assert captions_by_id(annotations) == {"7": ("restval", ("A cat.",)), "9": ("val", ("two dogs",))}
    assert [item.id for item in annotations.split("train")] == ["7"]
    assert images(annotations, tmp_path) == ["val2014/COCO_val2014_7.jpg", "train2014/COCO_train2014_9.jpg"]


def test_karpathy_flickr_without_filepath_beside_a_folder_of_images(tmp_path: Path) -> None:
    put(tmp_path, "Images/1.jpg")
    (tmp_path / "dataset_flickr8k.json").write_text(
        karpathy(
            [
                {"filename": "1.jpg", "imgid": 0, "split": "test", "sentids": [0],
                 "sentences": [{"raw": "A dog ."}, {"raw": "Dogs ."}]},
                {"imgid": 1, "split": "train", "sentids": []},
            ]
        )
    )  # fmt: skip
    annotations = load_annotations(tmp_path / "dataset_flickr8k.json")
    assert captions_by_id(annotations) == {"1.jpg": ("test", ("A dog .", "Dogs ."))}
    assert any("1 entry without filename and sentences: entry 2" in line for line in annotations.problems)


def test_several_karpathy_files_are_ambiguous(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg")
    for name in ("dataset_flickr8k.json", "dataset_coco.json"):
        (tmp_path / name).write_text(karpathy([{"filename": "1.jpg", "sentids": [], "sentences": []}]))
    with pytest.raises(DataError, match=r"several captions files \(dataset_coco.json, dataset_flickr8k.json\)"):
        load_annotations(tmp_path)


# COCO


def coco(names: dict[int, str], captions: list[tuple[int, str]], **more: Any) -> str:
    return json.dumps(
        {
            "info": {"year": 2014},
            "licenses": [],
            "images": [{"file_name": name, "height": 1, "width": 1, "id": id} for id, name in names.items()],
            "annotations": [{"image_id": i, "id": n, "caption": c} for n, (i, c) in enumerate(captions)],
            **more,
        }
    )


def test_coco_2014_annotations_folder_beside_image_folders(tmp_path: Path) -> None:
    put(tmp_path, "train2014/COCO_train2014_1.jpg", "val2014/COCO_val2014_2.jpg")
    (tmp_path / "annotations").mkdir()
    for split, number in (("train", 1), ("val", 2)):
        (tmp_path / f"annotations/captions_{split}2014.json").write_text(
            coco({number: f"COCO_{split}2014_{number}.jpg"}, [(number, f"A {split} .\n"), (number, "Two.")])
        )
        (tmp_path / f"annotations/instances_{split}2014.json").write_text(
            coco({number: f"COCO_{split}2014_{number}.jpg"}, [])
        )
    annotations = load_annotations(tmp_path)
    assert annotations.format == "coco"
    assert captions_by_id(annotations) == {"1": ("train", ("A train .", "Two.")), "2": ("val", ("A val .", "Two."))}
    assert images(annotations, tmp_path) == ["train2014/COCO_train2014_1.jpg", "val2014/COCO_val2014_2.jpg"]
    assert load_annotations(tmp_path / "annotations").items == annotations.items
    one = load_annotations(tmp_path / "annotations/captions_val2014.json")
    assert captions_by_id(one) == {"2": ("val", ("A val .", "Two."))}


def test_coco_in_an_images_folder_with_urls_stray_captions_and_uncaptioned_images(tmp_path: Path) -> None:
    put(tmp_path, "images/000001.jpg", "images/000002.jpg")
    content = json.loads(coco({2: "000002.jpg"}, [(1, "A dog"), (99, "Lost"), (1, "")]))
    content["images"].insert(0, {"id": 1, "coco_url": "http://images.example.org/val2017/000001.jpg"})
    (tmp_path / "captions_val2017.json").write_text(json.dumps(content), encoding="utf-8-sig")
    annotations = load_annotations(tmp_path)
    assert captions_by_id(annotations) == {"1": ("val", ("A dog",))}
    problems = "\n".join(annotations.problems)
    assert "captions of 1 image id that are not in images: 99" in problems
    assert "1 empty caption dropped, of 1" in problems
    assert "1 image without captions, skipped: 2" in problems


def test_the_image_folders_select_the_year_of_coco(tmp_path: Path) -> None:
    put(tmp_path, "train2017/1.jpg")
    (tmp_path / "annotations").mkdir()
    for year in (2014, 2017):
        (tmp_path / f"annotations/captions_train{year}.json").write_text(coco({1: "1.jpg"}, [(1, str(year))]))
    annotations = load_annotations(tmp_path)
    assert captions_by_id(annotations) == {"1": ("train", ("2017",))}
    assert "not from annotations/captions_train2014.json" in annotations.problems[0]


def test_coco_instances_are_refused_as_captions(tmp_path: Path) -> None:
    path = tmp_path / "instances_val2017.json"
    path.write_text(json.dumps({"images": [], "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]}))
    with pytest.raises(DataError, match=r"annotations without captions .* captions_\*.json"):
        load_annotations(path)


def test_the_error_for_truncated_json_has_the_position(tmp_path: Path) -> None:
    path = tmp_path / "captions_val2017.json"
    path.write_text(coco({1: "1.jpg"}, [(1, "A dog")])[:-40])
    with pytest.raises(DataError, match=r"captions_val2017.json is not valid JSON \(line 1"):
        load_annotations(path)


# CSV, TSV


# All contain the same captions.
TABLES = {
    "captions.txt": ["image,caption", "1.jpg,A dog , brown , runs .", '1.jpg,"A dog, again"', "2.jpg,Cats"],
    "bom-crlf.csv": [
        "\ufeffimage,caption\r",
        "1.jpg,A dog , brown , runs .\r",
        "1.jpg,A dog, again\r",
        "2.jpg,Cats\r",
    ],
    "results.csv": [
        "image_name| comment_number| comment",
        "1.jpg| 0| A dog , brown , runs .",
        "1.jpg| 1|   A dog, again",
        "2.jpg| 0| Cats",
    ],
    "spaced.csv": ["image, caption", '1.jpg, "A dog , brown , runs ."', "1.jpg, A dog, again", "2.jpg, Cats"],
    "data.tsv": ["caption\tfilename", "A dog , brown , runs .\t1.jpg", "A dog, again\t1.jpg", "Cats\t2.jpg"],
    "semicolon.csv": [
        "Path;Title",
        r"images\1.jpg;A dog , brown , runs .",
        r"images\1.jpg;A dog, again",
        r"images\2.jpg;Cats",
    ],
    "absolute.csv": [
        "id,image_path,text",
        '10,/home/alice/data/images/1.jpg,"A dog , brown , runs ."',
        '11,/home/alice/data/images/1.jpg,"A dog, again"',
        r"12,C:\Users\bob\2.jpg,Cats",
    ],
    "no-header_captions.txt": ["1.jpg,A dog , brown , runs .", "1.jpg,A dog, again", "2.jpg,Cats"],
    "stems.csv": ["image_id,caption", '1,"A dog , brown , runs ."', '1,"A dog, again"', "2,Cats"],
    "swapped.csv": ["caption,image", "A dog , brown , runs .,1.jpg", '"A dog, again",1.jpg', "Cats,2.jpg"],
    "numbered.csv": [
        "image,caption_1,caption_2",
        '1.jpg,"A dog , brown , runs .","A dog, again"',
        "2.jpg,Cats,",
    ],
    "kaggle30k.csv": [
        "raw,sentids,split,filename,img_id",
        '"[""A dog , brown , runs ."", ""A dog, again""]","[0, 1]",,1.jpg,0',
        '"[""Cats""]",[2],,2.jpg,1',
    ],
    "python.csv": [
        "image,captions",
        "1.jpg,\"['A dog , brown , runs .', 'A dog, again']\"",
        "2.jpg,['Cats']",
    ],
    "pandas.csv": [
        ",image,caption",
        '0,1.jpg,"A dog , brown , runs ."',
        '1,1.jpg,"A dog, again"',
        "2,2.jpg,Cats",
    ],
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_many_formats(tmp_path: Path, name: str) -> None:
    put(tmp_path, "images/1.jpg", "images/2.jpg")
    (tmp_path / name).write_bytes("\n".join(TABLES[name]).encode())
    for source in (tmp_path, tmp_path / name):
        annotations = load_annotations(source)
        assert annotations.format == "csv"
        assert [item.captions for item in annotations] == [
            ("A dog , brown , runs .", "A dog, again"),
            ("Cats",),
        ]
        assert images(annotations, tmp_path) == ["images/1.jpg", "images/2.jpg"]
        assert annotations.problems == ()


def test_conceptual_captions_tsv_of_caption_and_url_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "Train_GCC-training.tsv"
    path.write_text(
        "a very typical bus station\thttp://example.org/a,b.jpg?x=1\nsierra looked\thttps://example.org/c\n"
    )
    annotations = load_annotations(path)
    assert [(item.image, item.captions, item.split) for item in annotations] == [
        ("http://example.org/a,b.jpg?x=1", ("a very typical bus station",), "train"),
        ("https://example.org/c", ("sierra looked",), "train"),
    ]


def test_the_incomplete_line_of_flickr30k_results_csv_is_reported_and_skipped(tmp_path: Path) -> None:
    put(tmp_path, "flickr30k_images/2199200615.jpg")
    (tmp_path / "flickr30k_images/results.csv").write_text(
        "image_name| comment_number| comment\n2199200615.jpg| 3| A dog runs .\n"
        "2199200615.jpg| 4   A dog runs across the grass .\n"
    )
    annotations = load_annotations(tmp_path)
    assert captions_by_id(annotations) == {"2199200615.jpg": (None, ("A dog runs .",))}
    assert "1 row incomplete or without an image: line 3 ('2199200615.jpg| 4   A dog runs" in annotations.problems[0]


def test_unpaired_quotation_marks_do_not_join_rows(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    (tmp_path / "captions.csv").write_text(
        'image,caption\n1.jpg,"STOP a sign says\n2.jpg,A dog\n3.jpg,a sign reads "GO"\n'
    )
    annotations = load_annotations(tmp_path)
    assert [item.captions for item in annotations] == [
        ('"STOP a sign says',),
        ("A dog",),
        ('a sign reads "GO"',),
    ]
    assert "unpaired quotation marks" in annotations.problems[0]


def test_a_quoted_caption_may_have_line_breaks(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "captions.csv").write_text('image,caption\n1.jpg,"A dog\nand a cat"\n2.jpg,A boat\n')
    annotations = load_annotations(tmp_path)
    assert [item.captions for item in annotations] == [("A dog\nand a cat",), ("A boat",)]
    assert annotations.problems == ()


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ("image,caption\n1.jpg,Ein Café\n".encode("cp1252"), "not UTF-8; read as Windows-1252"),
        (codecs.BOM_UTF16_LE + "image,caption\n1.jpg,Ein Café\n".encode("utf-16-le"), ""),
    ],
)
def test_encodings(tmp_path: Path, raw: bytes, problem: str) -> None:
    put(tmp_path, "1.jpg")
    (tmp_path / "captions.csv").write_bytes(raw)
    annotations = load_annotations(tmp_path)
    assert annotations[0].captions == ("Ein Café",)
    assert problem in "".join(annotations.problems)


def test_one_latin_1_line_does_not_change_the_others(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    rows = ("image,caption", "1.jpg,Ein Café", "2.jpg,Zwei Cafés", "3.jpg,“Grüße”")
    (tmp_path / "captions.csv").write_bytes(
        b"\n".join(row.encode("latin-1" if row[0] == "2" else "utf-8") for row in rows)
    )
    annotations = load_annotations(tmp_path)
    assert [item.captions for item in annotations] == [("Ein Café",), ("Zwei Cafés",), ("“Grüße”",)]
    assert annotations.problems == (
        "captions.csv: 1 line is not UTF-8; read as Windows-1252: line 3 ('2.jpg,Zwei Cafés')",
    )


def test_one_latin_1_caption_in_single_line_json_does_not_change_the_others(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", "2.jpg")
    good = json.dumps({"1.jpg": "Äpfel, Öl und süße Brötchen"}, ensure_ascii=False).encode()
    (tmp_path / "map.json").write_bytes(good[:-1] + ', "2.jpg": "Café"}'.encode("latin-1"))
    annotations = load_annotations(tmp_path)
    assert [item.captions for item in annotations] == [("Äpfel, Öl und süße Brötchen",), ("Café",)]
    assert "1 line is not UTF-8" in annotations.problems[0]


def test_splits_from_a_column_from_file_names_and_from_lists(tmp_path: Path) -> None:
    for folder in ("column", "files", "lists"):
        put(tmp_path / folder, "1.jpg", "2.jpg")
    (tmp_path / "column/captions.csv").write_text("image,caption,split\n1.jpg,A,train\n2.jpg,B,Validation\n")
    (tmp_path / "files/train.csv").write_text("image,caption\n1.jpg,A\n")
    (tmp_path / "files/validation.csv").write_text("image,caption\n2.jpg,B\n")
    (tmp_path / "lists/captions.txt").write_text("image,caption\n1.jpg,A\n2.jpg,B\n")
    (tmp_path / "lists/Flickr_8k.trainImages.txt").write_text("1.jpg\n")
    (tmp_path / "lists/Flickr_8k.devImages.txt").write_text("2.jpg\n")
    for folder in ("column", "files", "lists"):
        annotations = load_annotations(tmp_path / folder)
        assert captions_by_id(annotations) == {"1.jpg": ("train", ("A",)), "2.jpg": ("val", ("B",))}, folder
        assert annotations.problems == ()


def test_a_folder_name_that_contains_a_split_word_is_not_a_split(tmp_path: Path) -> None:
    folder = tmp_path / "photos of my test drive"
    put(folder, "1.jpg")
    (folder / "captions.csv").write_text("image,caption\n1.jpg,A\n")
    assert load_annotations(folder)[0].split is None


def test_the_error_for_missing_columns_lists_present_and_expected_columns(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("image_no,words,score\n1,a dog,3\n")
    for source in (tmp_path, tmp_path / "table.csv"):
        with pytest.raises(DataError, match=r"columns 'image_no', 'words', 'score'; expected .*file_name.*caption"):
            load_annotations(source)


def test_two_tables_of_equal_rank_are_ambiguous(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg")
    for name in ("first.csv", "second.csv"):
        (tmp_path / name).write_text("image,caption\n1.jpg,A\n")
    with pytest.raises(DataError, match=r"several captions files \(first.csv, second.csv\); pass the file to read"):
        load_annotations(tmp_path)
    (tmp_path / "captions.csv").write_text("image,caption\n1.jpg,B\n")
    annotations = load_annotations(tmp_path)
    assert annotations[0].captions == ("B",)
    assert "captions read from captions.csv, not from first.csv, second.csv" in annotations.problems[0]


def test_the_format_option_overrides_detection(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg")
    (tmp_path / "x.token.txt").write_text("1.jpg#0\tfrom tokens\n")
    (tmp_path / "captions.csv").write_text("image,caption\n1.jpg,from csv\n")
    assert load_annotations(tmp_path)[0].captions == ("from tokens",)
    assert load_annotations(tmp_path, format="csv")[0].captions == ("from csv",)
    with pytest.raises(DataError, match="nothing for the coco reader"):
        load_annotations(tmp_path, format="coco")


def test_equal_names_in_two_folders_are_two_images_and_ambiguous_ones_are_reported(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg", "b/1.jpg", "b/2.jpg")
    (tmp_path / "captions.csv").write_text("image,caption\na/1.jpg,A\nb/1.jpg,B\n1.jpg,C\nold/b/2.jpg,D\n")
    annotations = load_annotations(tmp_path)
    assert [(item.id, item.captions) for item in annotations] == [
        ("a/1.jpg", ("A",)),
        ("b/1.jpg", ("B",)),
        ("old/b/2.jpg", ("D",)),
    ]
    assert annotations.missing == ("1.jpg",)
    assert "ambiguous between" in annotations.problems[0]


# JSON lines, JSON


def test_jsonl_with_lists_splits_and_invalid_lines(tmp_path: Path) -> None:
    put(tmp_path, "img/1.png", "img/2.png")
    (tmp_path / "data.jsonl").write_text(
        '{"filepath": "img/1.png", "captions": ["A", "B"], "split": "dev"}\n'
        "not json\n"
        '{"filepath": "img/2.png", "sentences": [{"raw": "C"}], "extra": null}\n'
        '{"caption": "no image"}\n'
    )
    annotations = load_annotations(tmp_path)
    assert captions_by_id(annotations) == {"img/1.png": ("val", ("A", "B")), "img/2.png": (None, ("C",))}
    assert "2 entries without an image and caption: line 2 ('not json'), line 4" in annotations.problems[0]


def test_jsonl_of_one_caption_per_line_with_caption_ids_and_boxes(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg")
    box = {"label": "dog", "x": 1, "y": 2.5, "width": 3, "height": 4}
    rows = [{"id": n, "image": "1.jpg", "text": f"caption {n}", "boxes": [box]} for n in range(2)]
    (tmp_path / "train.jsonl").write_bytes(b"\r\n".join(json.dumps(row).encode() for row in rows))
    (item,) = load_annotations(tmp_path).items
    assert (item.id, item.split, item.captions) == ("1.jpg", "train", ("caption 0", "caption 1"))
    assert item.boxes == (Box("dog", 1.0, 2.5, 3.0, 4.0),)


def test_the_error_for_jsonl_without_the_fields_lists_its_fields(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"question": "what?", "answer": "a dog"}\n')
    with pytest.raises(DataError, match=r"columns 'question', 'answer'; expected"):
        load_annotations(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        [{"file_name": "1.jpg", "text": "A"}, {"file_name": "1.jpg", "text": "B"}],
        {"1.jpg": ["A", "B"]},
        {"version": 3, "data": [{"image": "1.jpg", "captions": ["A", "B"]}]},
    ],
)
def test_json_forms(tmp_path: Path, content: object) -> None:
    put(tmp_path, "images/1.jpg")
    (tmp_path / "captions.json").write_text(json.dumps(content, indent=1))
    (tmp_path / "package.json").write_text(json.dumps({"name": "x", "files": ["a"], "images": {"a": 1}}))
    annotations = load_annotations(tmp_path)
    assert annotations.format == "json"
    assert captions_by_id(annotations) == {"1.jpg": (None, ("A", "B"))}


# Hugging Face imagefolder, Parquet


def test_imagefolder_of_split_folders_with_metadata_csv(tmp_path: Path) -> None:
    for split in ("train", "test"):
        put(tmp_path, f"{split}/0001.png")
        (tmp_path / split / "metadata.csv").write_text(f"file_name,text\n0001.png,a {split}\n")
    annotations = load_annotations(tmp_path)
    assert annotations.format == "imagefolder"
    assert captions_by_id(annotations) == {
        "test/0001.png": ("test", ("a test",)),
        "train/0001.png": ("train", ("a train",)),
    }
    assert images(annotations, tmp_path) == ["test/0001.png", "train/0001.png"]


def test_imagefolder_with_metadata_jsonl_and_nested_images(tmp_path: Path) -> None:
    put(tmp_path, "sub/deep/0001.png", "stray.csv")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "sub/deep/0001.png", "text": "a cat"}\n')
    (tmp_path / "other.csv").write_text("image,caption\n0001.png,another\n")
    for format in ("auto", "imagefolder"):
        annotations = load_annotations(tmp_path, format=format)
        assert annotations.format == "imagefolder"
        assert captions_by_id(annotations) == {"sub/deep/0001.png": (None, ("a cat",))}


def test_parquet_shards_of_the_hub_with_embedded_images(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split, colour in (("train", "red"), ("test", "blue")):
        table = pa.table(
            {
                "image": [{"bytes": jpeg(colour), "path": f"{split}{n}.jpg"} for n in range(2)],
                "caption": [[f"{split} {n}", "again"] for n in range(2)],
                "img_id": [f"{split}-{n}" for n in range(2)],
            }
        )
        pq.write_table(table, tmp_path / f"data/{split}-00000-of-00001-0a1b2c3d.parquet")
    annotations = load_annotations(tmp_path)
    assert annotations.format == "parquet"
    assert captions_by_id(annotations)["train-1"] == ("train", ("train 1", "again"))
    assert captions_by_id(annotations)["test-0"] == ("test", ("test 0", "again"))
    assert annotations.problems == ()
    pixel = read_image(annotations.split("test")[0].image).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    assert pixel[2] > 200


def test_parquet_with_a_row_per_caption_of_an_embedded_image(tmp_path: Path) -> None:
    images = [{"bytes": jpeg(), "path": name} for name in ("a.jpg", "a.jpg", "b.jpg")]
    pq.write_table(pa.table({"image": images, "text": ["A", "B", "C"]}), tmp_path / "x.parquet")
    annotations = load_annotations(tmp_path / "x.parquet")
    assert captions_by_id(annotations) == {"a.jpg": (None, ("A", "B")), "b.jpg": (None, ("C",))}
    assert [item.image for item in annotations] == [f"{tmp_path}/x.parquet::image::{row}" for row in (0, 2)]


def test_parquet_with_one_placeholder_name_for_all_images(tmp_path: Path) -> None:
    images = [{"bytes": jpeg(), "path": "image.jpg"} for _ in range(60)]
    table = pa.table({"image": images, "text": [str(n) for n in range(60)]})
    pq.write_table(table, tmp_path / "x.parquet")
    assert len(load_annotations(tmp_path)) == 60


def test_parquet_of_paths_and_of_structs_without_bytes(tmp_path: Path) -> None:
    put(tmp_path, "pics/1.jpg")
    pq.write_table(pa.table({"url": ["pics/1.jpg"], "TEXT": ["A"]}), tmp_path / "plain.parquet")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([{"bytes": None, "path": "pics/1.jpg"}], type=kind)
    pq.write_table(pa.table({"image": column, "text": ["A"]}), tmp_path / "struct.parquet")
    for name in ("plain", "struct"):
        annotations = load_annotations(tmp_path / f"{name}.parquet")
        assert images(annotations, tmp_path) == ["pics/1.jpg"]


def test_parquet_that_is_damaged_or_lacks_columns(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(DataError, match=r"bad.parquet cannot be read as Parquet"):
        load_annotations(tmp_path / "bad.parquet")
    pq.write_table(pa.table({"question": ["?"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"columns 'question'; expected"):
        load_annotations(tmp_path / "other.parquet")


# Side-car texts


def test_sidecars_of_one_caption_per_line_in_split_folders(tmp_path: Path) -> None:
    put(tmp_path, "train/a.jpg", "val2017/b.png", "train/none.jpg")
    (tmp_path / "train/a.txt").write_bytes("\ufeffA dog\r\n\r\nA brown dog\r\n".encode())
    (tmp_path / "val2017/b.png.txt").write_text("A cat")
    (tmp_path / "notes.txt").write_text("my notes, about this and that")
    annotations = load_annotations(tmp_path)
    assert annotations.format == "sidecar"
    assert captions_by_id(annotations) == {
        "train/a.jpg": ("train", ("A dog", "A brown dog")),
        "val2017/b.png": ("val", ("A cat",)),
    }
    assert "1 image without captions, skipped: train/none.jpg" in annotations.problems


def test_sidecars_in_a_folder_beside_the_images(tmp_path: Path) -> None:
    put(tmp_path, "images/a.JPG", "images/b.jpg")
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions/a.txt").write_text("A dog")
    (tmp_path / "captions/b.txt").write_text("")
    annotations = load_annotations(tmp_path)
    assert captions_by_id(annotations) == {"images/a.JPG": (None, ("A dog",))}
    assert "1 empty caption dropped, of images/b.jpg" in annotations.problems


@pytest.mark.parametrize("order", [1, -1])
def test_precedence_of_several_texts_of_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: int) -> None:
    walk = os.walk
    monkeypatch.setattr(
        os, "walk", lambda top, **options: ((p, f, sorted(n)[::order]) for p, f, n in walk(top, **options))
    )
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg", "c.png")
    for name in ("a.caption", "a.txt", "b.txt", "b.jpg.txt", "c.txt"):
        (tmp_path / name).write_text(f"from {name}")
    (tmp_path / "a.jpg.json").write_text('{"caption": "from json"}')
    annotations = load_annotations(tmp_path)
    assert [item.captions[0] for item in annotations] == ["from a.txt", "from b.jpg.txt", "from c.txt", "from c.txt"]
    assert annotations.problems == (
        "2 texts not used, because another text of the same image has precedence: a.caption, b.txt",
        "1 text used for several images: c.txt (c.jpg, c.png)",
    )


def test_label_files_of_object_detection_are_not_captions(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    (tmp_path / "a.txt").write_text("0 0.51 0.43 0.2 0.3\n16 0.5 0.5 1 1\n")
    (tmp_path / "b.txt").write_text("Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64\n")
    (tmp_path / "c.txt").write_text("a sign that reads 0.51 0.43\n7 8 9 10\n")
    annotations = load_annotations(tmp_path)
    assert captions_by_id(annotations) == {"c.jpg": (None, ("a sign that reads 0.51 0.43", "7 8 9 10"))}
    assert annotations.problems == (
        "object labels instead of captions dropped, of 2 images: a.jpg ('0 0.51 0.43 0.2 0.3'), "
        "b.jpg ('Car 0.00 0 -1.58 587.01 173.33 614.12 20')",
        "3 images without captions, skipped: a.jpg, b.jpg, d.jpg",
    )
    (tmp_path / "c.txt").unlink()
    with pytest.raises(DataError, match=r"contains no captions .* object labels instead of captions"):
        load_annotations(tmp_path)


def test_an_image_with_texts_in_two_folders_is_reported(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpg", "images/b.jpg")
    for name in ("captions/a.txt", "captions/b.txt", "labels/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("A dog")
    annotations = load_annotations(tmp_path)
    assert list(captions_by_id(annotations)) == ["images/b.jpg"]
    assert "1 image with texts in several folders, none of them read: images/a.jpg (captions and labels)" in (
        annotations.problems
    )


def test_the_error_for_a_folder_of_images_lists_the_supported_formats(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(DataError, match=r"contains 2 images but nothing with captions; supported: Flickr"):
        load_annotations(tmp_path)


# WebDataset


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_webdataset_of_img2dataset(tmp_path: Path) -> None:
    json_member = json.dumps({"caption": "from json", "url": "http://x", "key": "000000000"}).encode()
    write_tar(
        tmp_path / "00000.tar",
        {"000000000.jpg": jpeg(), "000000000.json": json_member, "000000000.txt": b"A dog\n",
         "000000001.json": json_member, "000000001.jpg": jpeg("blue")},
    )  # fmt: skip
    write_tar(tmp_path / "00001.tar", {"000010000.txt": b"A cat", "000010000.webp": b""})
    pq.write_table(pa.table({"url": ["http://x"], "caption": ["A dog"]}), tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text('{"count": 2}')
    annotations = load_annotations(tmp_path)
    assert annotations.format == "webdataset"
    assert captions_by_id(annotations) == {
        "00000/000000000": (None, ("A dog",)),
        "00000/000000001": (None, ("from json",)),
        "00001/000010000": (None, ("A cat",)),
    }
    assert annotations[0].image == f"{tmp_path / '00000.tar'}::000000000.jpg"
    assert read_image(annotations[1].image).size == (8, 6)


def test_webdataset_with_folders_dotted_parts_and_equal_keys_in_split_shards(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_tar(
            tmp_path / f"{split}-0000.tar",
            {"./set/0.left.jpg": jpeg(), "./set/0.caption": split.encode(), "./set/1.txt": b"no image"},
        )
    annotations = load_annotations(tmp_path)
    assert [(item.split, item.captions) for item in annotations] == [("train", ("train",)), ("val", ("val",))]
    assert len({item.id for item in annotations}) == 2
    assert read_image(annotations[0].image).size == (8, 6)
    assert any("1 sample without an image" in line for line in annotations.problems)


def test_webdataset_masks_are_not_used_as_the_image(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "x.tar",
        {"0.jpg": jpeg("red"), "0.seg.png": jpeg("blue"), "0.txt": b"A dog", "0.caption": b"tags",
         "1.png": jpeg("blue"), "1.jpg": jpeg("red"), "1.txt": b"A cat"},
    )  # fmt: skip
    annotations = load_annotations(tmp_path / "x.tar")
    assert [item.image.rpartition("::")[2] for item in annotations] == ["0.jpg", "1.jpg"]
    assert [item.captions for item in annotations] == [("A dog",), ("A cat",)]
    assert annotations.problems == (
        "x.tar: 3 members not used, because another image or text of the sample has precedence: "
        "0.seg.png, 0.caption, 1.png",
    )


def test_webdataset_captions_are_decoded_like_text_files(tmp_path: Path) -> None:
    texts = {
        "0.txt": "Ein Café".encode("latin-1"),
        "1.caption": codecs.BOM_UTF16_LE + "Ein Café\r\nZwei".encode("utf-16-le"),
        "2.txt": "Ein\x85Café".encode(),
    }
    images = {f"{name[0]}.jpg": jpeg() for name in texts}
    write_tar(tmp_path / "x.tar", dict(sorted({**texts, **images}.items())))
    annotations = load_annotations(tmp_path / "x.tar")
    assert [item.captions for item in annotations] == [("Ein Café",), ("Ein Café", "Zwei"), ("Ein\x85Café",)]
    assert annotations.problems == ("x.tar::0.txt is not UTF-8; read as Windows-1252",)


def test_a_truncated_webdataset_is_read_to_the_cut(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"0.jpg": jpeg(), "0.txt": b"A", "1.jpg": jpeg(), "1.txt": b"B" * 600})
    content = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: content.index(b"B" * 600) + 100])
    annotations = load_annotations(tmp_path / "cut.tar")
    assert annotations[0].captions == ("A",)
    assert any("cut.tar is truncated" in line for line in annotations.problems)


def test_webdataset_links_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in (("0.jpg", tarfile.SYMTYPE), ("0.txt", tarfile.REGTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    with pytest.raises(DataError, match="no captions for the webdataset reader"):
        load_annotations(tmp_path / "x.tar")


def test_a_file_of_an_unknown_format(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    with pytest.raises(DataError, match="not a captions file of a known format"):
        load_annotations(tmp_path / "a.jpg")


# Names


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("captions_train2014", "train"), ("captions_val2017", "val"), ("Flickr_8k.devImages", "val"),
        ("flickr30k_test", "test"), ("validation-00000-of-00001", "val"), ("latest", None), ("trains", None),
        ("contest_results", None), ("restval", "restval"), ("valley", None), ("TrainImages", "train"),
    ],
)  # fmt: skip
def test_splits_in_file_names(text: str, split: str | None) -> None:
    assert split_in_name(text) == split


@pytest.mark.parametrize(("text", "split"), [("Val2017", "val"), ("test_images", "test"), ("my test", None)])
def test_splits_of_folder_names(text: str, split: str | None) -> None:
    assert split_of_folder(text) == split


@pytest.mark.parametrize(("text", "split"), [(" Dev ", "val"), (None, None), ("", None), ("mine", "mine")])
def test_split_names(text: str | None, split: str | None) -> None:
    assert split_name(text) == split


def test_columns_prefer_the_file_name_and_the_first_of_equal_names() -> None:
    columns = find_columns(["url", "Caption Text", "image-id", "File Name", "subset", "caption"])
    assert columns is not None
    assert (columns.image, columns.captions, columns.split, columns.id) == (
        "File Name",
        ("caption",),
        "subset",
        "image-id",
    )
    assert find_columns(["image", "score"]) is None


# Damaged files

SEEDS = {
    "x.token.txt": b"1.jpg#0\tA dog\n",
    "dataset.json": karpathy([{"filename": "1.jpg", "split": "train", "sentences": [{"raw": "A"}]}]).encode(),
    "captions_val2017.json": coco({1: "1.jpg"}, [(1, "A dog")]).encode(),
    "list.json": b'[{"image": "1.jpg", "captions": ["A", 2, null]}]',
    "map.json": b'{"1.jpg": ["A", {"raw": "B"}]}',
    "kohya.json": b'{"1": {"caption": "A", "tags": ["t"]}, "2": {"caption": ["B"]}}',
    "splits.json": b'{"train": [{"image": "1.jpg", "caption": "A"}], "val": {"1": {"text": "B"}}, "test": []}',
    "lines.json": b'{"image": "1.jpg", "caption": "A"}\n{"image": "1.jpg", "caption": {"raw": "B"}}\n',
    "x.csv": b'image,caption,split\n1.jpg,"A, b",train\n',
    "x.tsv": b"1.jpg\tA dog\n",
    "x.jsonl": b'{"image": "1.jpg", "caption": "A", "boxes": [{"label": "a", "x": 1}], "split": 3}\n',
    "1.txt": b"A dog\n",
}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(SEEDS)),
    place=st.floats(0, 1),
    patch=st.one_of(st.binary(max_size=6), st.sampled_from([b"null", b"[]", b"{}", b"7", b'"', b"\r", b"\xff", b"\0"])),
    cut=st.integers(0, 12),
)
def test_damaged_files_are_read_or_refused_with_one_line(
    tmp_path: Path, name: str, place: float, patch: bytes, cut: int
) -> None:
    put(tmp_path, "1.jpg")
    seed = SEEDS[name]
    start = int(place * len(seed))
    (tmp_path / name).write_bytes(seed[:start] + patch + seed[start + cut :])
    messages: tuple[str, ...] = ()
    try:
        annotations = load_annotations(tmp_path / name if name != "1.txt" else tmp_path)
    except DataError as error:
        messages = (str(error),)
    else:
        messages = annotations.problems
        for item in annotations:
            assert item.captions
            assert all(caption == caption.strip() != "" for caption in item.captions)
    finally:
        (tmp_path / name).unlink()
    assert all(len(line.splitlines()) == 1 for line in messages)
