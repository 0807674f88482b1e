import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seesay.config import DataConfig
from seesay.data.annotations import (
    Annotation,
    Annotations,
    Box,
    limit_annotations,
    load_annotations,
    load_dataset,
    split_annotations,
    write_annotations,
)
from seesay.errors import ConfigError, DataError

SHARED = Path(__file__).parents[2] / "../shared/data"
needs_flickr8k = pytest.mark.skipif(not (SHARED / "flickr8k").is_dir(), reason="no Flickr8k here")


def make(number: int, captions: int = 5, split: str | None = None) -> Annotations:
    items = tuple(
        Annotation(f"{i:04}", f"images/{i:04}.jpg", tuple(f"caption {i} {c}" for c in range(captions)), split)
        for i in range(number)
    )
    return Annotations(items, "made", "test")


@needs_flickr8k
def test_flickr8k_has_the_standard_splits_and_its_known_problems_are_reported() -> None:
    annotations = load_annotations(SHARED / "flickr8k")
    assert annotations.format == "flickr"
    assert {name: len(annotations.split(name)) for name in annotations.splits} == {
        "train": 6000,
        "val": 1000,
        "test": 1000,
    }
    assert len(annotations) == 8091
    assert {len(item.captions) for item in annotations} == {5}
    assert annotations.missing == ("2258277193_586949ec62.jpg.1",)
    problems = "\n".join(annotations.problems)
    assert "Flickr_8k.testImages.txt: 5 lines name no image with captions: 1.jpg, 2.jpg" in problems
    assert "2258277193_586949ec62.jpg.1" in problems
    assert "91 images without a split" in problems
    assert len(annotations.problems) == 3


@needs_flickr8k
def test_flickr8k_items_equal_a_direct_parse() -> None:
    annotations = load_annotations(SHARED / "flickr8k")
    parsed: dict[str, list[str]] = {}
    for line in (SHARED / "flickr8k/Flickr8k.token.txt").read_text().splitlines():
        key, caption = line.split("\t")
        parsed.setdefault(key.rsplit("#", 1)[0], []).append(caption.strip())
    assert {item.id: list(item.captions) for item in annotations} == {
        name: captions for name, captions in parsed.items() if not name.endswith(".1")
    }
    assert all(Path(item.image).name == item.id for item in annotations)
    assert Path(annotations[0].image).is_file()


@pytest.mark.skipif(not (SHARED / "coco-val159").is_dir(), reason="no COCO here")
@pytest.mark.parametrize("name", ["coco-val159", "coco-val159/captions_val2017.json"])
def test_coco_val159_agrees_with_its_json(name: str) -> None:
    annotations = load_annotations(SHARED / name)
    content = json.loads((SHARED / "coco-val159/captions_val2017.json").read_text())
    counts = Counter(str(entry["image_id"]) for entry in content["annotations"])
    assert {item.id: len(item.captions) for item in annotations} == dict(counts)
    assert annotations.splits == ("val",)
    assert not annotations.problems
    names = {str(entry["id"]): entry["file_name"] for entry in content["images"]}
    assert all(Path(item.image).name == names[item.id] for item in annotations)


def test_train_includes_restval_and_a_missing_standard_split_is_empty() -> None:
    items = tuple(Annotation(str(i), f"{i}.jpg", ("a",), s) for i, s in enumerate(("restval", "train", "test")))
    annotations = Annotations(items, "made", "test")
    assert annotations.splits == ("train", "restval", "test")
    assert [item.id for item in annotations.split("train")] == ["0", "1"]
    assert [item.id for item in annotations.split("restval")] == ["0"]
    assert len(annotations.split("dev")) == 0
    with pytest.raises(DataError, match="no split 'tset'; it has train, restval, test"):
        annotations.split("tset")


@pytest.mark.parametrize(
    ("fractions", "sizes"),
    [
        ("80/20", (80, 20, 0)),
        ("80/10/10", (80, 10, 10)),
        ("0.5/0.25/0.25", (50, 25, 25)),
        ("60/40", (60, 40, 0)),
    ],
)
def test_split_sizes_follow_the_fractions(fractions: str, sizes: tuple[int, int, int]) -> None:
    split = split_annotations(make(100), fractions, seed=1)
    assert tuple(len(split.split(name)) for name in ("train", "val", "test")) == sizes


@pytest.mark.parametrize("fractions", ["80/30", "100", "80/10/5/5", "80/x", "", "120/-20", "100/0", "nan/nan", "8/2"])
def test_invalid_fractions_are_refused(fractions: str) -> None:
    with pytest.raises(ConfigError, match="split_fractions"):
        split_annotations(make(10), fractions, seed=0)


def test_too_few_images_to_split() -> None:
    with pytest.raises(DataError, match="too few for 3 splits"):
        split_annotations(make(2), "80/10/10", seed=0)


def test_every_split_gets_an_image_when_there_are_just_enough() -> None:
    split = split_annotations(make(3), "80/10/10", seed=0)
    assert [len(split.split(name)) for name in ("train", "val", "test")] == [1, 1, 1]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=3, max_size=60), st.integers(0, 5))
def test_an_image_is_never_in_two_splits(names: list[tuple[int, int]], seed: int) -> None:
    items = tuple(Annotation(f"id{i}", f"{image}.jpg", ("a",)) for i, image in names)
    try:
        split = split_annotations(Annotations(items, "made", "test"), "50/25/25", seed)
    except DataError:
        return
    for attribute in ("id", "image"):
        splits: dict[str, set[str | None]] = {}
        for item in split:
            splits.setdefault(getattr(item, attribute), set()).add(item.split)
        assert all(len(found) == 1 for found in splits.values())


def test_splits_depend_on_ids_and_seed_but_not_on_the_order() -> None:
    annotations = make(50)
    first = {item.id: item.split for item in split_annotations(annotations, "80/20", 3)}
    shuffled = replace(annotations, items=annotations.items[::-1])
    assert {item.id: item.split for item in split_annotations(shuffled, "80/20", 3)} == first
    assert {item.id: item.split for item in split_annotations(annotations, "80/20", 4)} != first


def test_limits_apply_to_training_captions_and_not_to_references() -> None:
    items = make(4, split="train").items + tuple(replace(item, id=f"v{item.id}", split="val") for item in make(4).items)
    annotations = Annotations(items, "made", "test")
    limited = limit_annotations(annotations, DataConfig(limit_images=3, captions_per_image=2, limit_captions=5))
    assert [len(item.captions) for item in limited.split("train")] == [2, 2, 1]
    assert [len(item.captions) for item in limited.split("val")] == [5, 5, 5]
    assert limited.split("train")[0].captions == ("caption 0 0", "caption 0 1")


def test_limit_captions_drops_images_beyond_the_limit() -> None:
    limited = limit_annotations(make(4, split="train"), DataConfig(limit_captions=10))
    assert [item.id for item in limited] == ["0000", "0001"]


def test_no_limit_changes_nothing() -> None:
    annotations = make(4, split="train")
    assert limit_annotations(annotations, DataConfig()) == annotations


@pytest.mark.parametrize("name", ["limit_images", "limit_captions", "captions_per_image"])
def test_negative_limits_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"data.{name} is -1"):
        limit_annotations(make(1), DataConfig(**{name: -1}))  # type: ignore[arg-type]


def folder_with(tmp_path: Path, text: str, images: int) -> Path:
    (tmp_path / "captions.csv").write_text(text)
    for number in range(images):
        (tmp_path / f"{number}.jpg").touch()
    return tmp_path


def test_load_dataset_splits_only_data_without_splits(tmp_path: Path) -> None:
    rows = "".join(f"{i}.jpg,caption {i}\n" for i in range(10))
    config = DataConfig(split_fractions="80/20")
    split = load_dataset(folder_with(tmp_path, "image,caption\n" + rows, 10), config)
    assert [len(split.split(name)) for name in ("train", "val")] == [8, 2]
    marked = "".join(f"{i}.jpg,caption {i},{'test' if i else ''}\n" for i in range(10))
    kept = load_dataset(folder_with(tmp_path, "image,caption,split\n" + marked, 10), config)
    assert kept.splits == ("test",)
    assert [item.id for item in kept if item.split is None] == ["0.jpg"]


def test_resplit_assigns_the_images_of_every_split(tmp_path: Path) -> None:
    # Bug: --split-fractions was ignored if the data had splits, so that data with one split could not be trained on.
    rows = "".join(f"{i}.jpg,caption {i},{'train' if i else ''}\n" for i in range(10)) + "1.jpg,caption 1,val\n"
    folder = folder_with(tmp_path, "image,caption,split\n" + rows, 10)
    split = load_dataset(folder, DataConfig(split_fractions="80/20", resplit=True))
    assert [len(split.split(name)) for name in ("train", "val")] == [8, 2]
    assert sorted(item.captions for item in split) == [(f"caption {i}",) for i in range(10)]
    assert split.problems == ()
    kept = load_dataset(folder, DataConfig(split_fractions="80/20"))
    assert [len(kept.split(name)) for name in ("train", "val")] == [9, 1]
    (unused,) = (problem for problem in kept.problems if problem.startswith("--split-fractions 80/20 is ignored"))
    assert unused.endswith("the data has splits (train, val); pass --resplit to reassign all images")


def test_written_annotations_are_read_back_unchanged(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "elsewhere").mkdir()
    outside = tmp_path / "elsewhere/c.png"
    for path in (tmp_path / "images/a.jpg", tmp_path / "images/b.jpg", outside):
        path.touch()
    out = tmp_path / "images/../out"
    items = (
        Annotation("1", str(tmp_path / "out/a.jpg"), ("ein Hund läuft", 'quoted "words", comma'), "train"),
        Annotation("2", str(outside), ("a", "b"), None, (Box("red ball", 1.5, 2, 30, 40.25),)),
        Annotation("3", "https://example.org/d.jpg", ("[not a list]",), "my split"),
    )
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.jpg").touch()
    write_annotations(items, out / "captions.jsonl")
    assert load_annotations(out / "captions.jsonl").items == items
    first = json.loads((out / "captions.jsonl").read_text().splitlines()[0])
    assert first["image"] == "a.jpg"
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


def test_the_folder_of_written_annotations_can_be_moved(tmp_path: Path) -> None:
    old = tmp_path / "old"
    (old / "images").mkdir(parents=True)
    (old / "images/a.jpg").touch()
    write_annotations([Annotation("a", str(old / "images/a.jpg"), ("x",))], old / "captions.jsonl")
    old.rename(tmp_path / "new")
    assert load_annotations(tmp_path / "new")[0].image == str(tmp_path / "new/images/a.jpg")


def test_one_image_under_two_ids_is_written_and_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    items = tuple(Annotation(name, str(tmp_path / "a.jpg"), (name,)) for name in ("first", "second"))
    write_annotations(items, tmp_path / "captions.jsonl")
    assert load_annotations(tmp_path).items == items


def test_images_are_not_missing_if_they_are_not_required(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("image,caption\nnot/there.jpg,a dog\n")
    annotations = load_annotations(tmp_path, require_images=False)
    assert annotations[0].image == str(tmp_path / "not/there.jpg")
    assert annotations.missing == ()


def test_captions_without_images_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("image,caption\nx.jpg,a dog\ny.jpg,a cat\n")
    with pytest.raises(DataError, match=r"captions of 2 images, but none of them .*x.jpg, y.jpg"):
        load_annotations(tmp_path)


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent does not exist"):
        load_annotations(tmp_path / "absent")


def test_the_error_for_an_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'cvs'.*karpathy.*csv.*sidecar"):
        load_annotations(tmp_path, format="cvs")


def test_empty_captions_are_counted_and_reported(tmp_path: Path) -> None:
    folder_with(tmp_path, "image,caption\n0.jpg,a dog\n0.jpg,  \n1.jpg,\n", 2)
    annotations = load_annotations(tmp_path)
    assert [item.id for item in annotations] == ["0.jpg"]
    assert "2 empty captions dropped, of 0.jpg, 1.jpg" in annotations.problems
    assert "1 image without captions, skipped: 1.jpg" in annotations.problems


def test_an_image_in_two_splits_stays_in_both_so_that_the_check_finds_it(tmp_path: Path) -> None:
    folder_with(tmp_path, "image,caption,split\n0.jpg,a dog,train\n0.jpg,the dog,dev\n", 1)
    annotations = load_annotations(tmp_path)
    assert [(item.id, item.split, item.captions) for item in annotations] == [
        ("0.jpg", "train", ("a dog",)),
        ("0.jpg", "val", ("the dog",)),
    ]


def test_images_that_are_not_required_are_located_if_they_exist(tmp_path: Path) -> None:
    """Bug: a report of captions had placeholders for images in a folder beside the captions file."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"")
    (tmp_path / "captions.token.txt").write_text("a.jpg#0\ta dog\nb.jpg#0\ta cat\n")
    found = {item.id: item.image for item in load_annotations(tmp_path, require_images=False)}
    assert found == {"a.jpg": str(tmp_path / "images" / "a.jpg"), "b.jpg": str(tmp_path / "b.jpg")}
