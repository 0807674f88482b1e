import io
import json
import struct
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from seesay.config import DataConfig, TextConfig
from seesay.data.annotations import Annotation, Annotations, load_annotations, split_annotations
from seesay.data.validation.check import check_data
from seesay.data.validation.inspection import find_damage, inspect_images
from seesay.data.validation.statistics import caption_statistics
from tests import foreign

SHARED = Path(__file__).parents[2] / "../shared/data"


def image(seed: int, side: int = 64) -> Image.Image:
    """Returns an image of smooth noise."""
    small = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def annotate(folder: Path, **splits: str) -> Annotations:
    """Returns annotations of the images name=split, creating missing image files."""
    folder.mkdir(exist_ok=True)
    items = []
    for number, (name, split) in enumerate(splits.items()):
        path = folder / f"{name}.png"
        if not path.exists():
            image(number).save(path)
        items.append(Annotation(name, str(path), (f"a {name} runs",), split or None))
    return Annotations(tuple(items), "made", "test")


def png_that_claims(width: int, height: int) -> bytes:
    """Returns a small PNG with a wrong size in its header."""
    stream = io.BytesIO()
    Image.new("L", (1, 1)).save(stream, "PNG")
    raw = bytearray(stream.getvalue())
    raw[16:24] = struct.pack(">II", width, height)
    raw[29:33] = struct.pack(">I", zlib.crc32(bytes(raw[12:29])))
    return bytes(raw)


def test_a_clean_data_set_is_trainable_and_has_no_defects(tmp_path: Path) -> None:
    report = check_data(annotate(tmp_path, a="train", b="train", c="val", d=""), TextConfig())
    assert report.trainable
    assert [(split.name, split.images, split.captions) for split in report.splits] == [
        ("train", 2, 2),
        ("val", 1, 1),
        ("", 1, 1),
    ]
    for defects in (report.missing, report.unreadable, report.too_large, report.suspect, report.leaks):
        assert defects == ()
    assert report.duplicates == ()
    assert (report.widths, report.heights) == ((64, 64, 64), (64, 64, 64))
    assert report.lines()[-1].split() == ["trainable", "yes"]


def test_every_kind_of_broken_image_is_reported(tmp_path: Path) -> None:
    stream = io.BytesIO()
    image(1, 256).save(stream, "JPEG")
    (tmp_path / "cut.png").write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("404 not found")
    (tmp_path / "huge.png").write_bytes(png_that_claims(20_000, 20_000))
    annotations = annotate(tmp_path, good="train", cut="train", empty="train", text="val", huge="train", fine="val")
    gone = Annotation("gone", str(tmp_path / "gone.png"), ("a gone",), "train")
    report = check_data(Annotations((*annotations.items, gone), "made", "test"), TextConfig())
    assert report.missing == (str(tmp_path / "gone.png"),)
    assert len(report.unreadable) == 3
    for name in ("cut", "empty", "text"):
        assert sum(f"{name}.png" in line for line in report.unreadable) == 1
    assert len(report.too_large) == 1
    assert "huge.png" in report.too_large[0]
    assert "400 megapixels" in report.too_large[0]
    assert report.trainable


def test_a_data_set_without_readable_training_images_is_not_trainable(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    report = check_data(annotate(tmp_path, a="train", b="val"), TextConfig())
    assert report.obstacles == ("no training image can be read",)
    assert report.lines()[-1].endswith("no: no training image can be read")


def test_a_data_set_without_training_captions_is_not_trainable(tmp_path: Path) -> None:
    report = check_data(annotate(tmp_path, a="val", b="test"), TextConfig())
    advice = "pass --resplit to assign splits by --split-fractions"
    assert report.obstacles == (f"no training captions (splits: val, test); {advice}",)
    items = tuple(replace(item, captions=("...!",)) for item in annotate(tmp_path, a="train", b="train", c="val"))
    assert check_data(Annotations(items, "made", "test"), TextConfig()).obstacles == (
        "the training captions are empty after cleaning",
        "the validation captions are empty after cleaning",
    )


def test_data_that_train_refuses_is_not_trainable(tmp_path: Path) -> None:
    # Bug: data check printed "trainable: yes" for data that train refused after encoding all images.
    def obstacles(annotations: Annotations, data: DataConfig | None = None, **text: Any) -> tuple[str, ...]:
        return check_data(annotations, TextConfig(**text), data).obstacles

    one, two, three = (annotate(tmp_path, **dict.fromkeys("abc"[:number], "")) for number in (1, 2, 3))
    assert obstacles(one) == ("made has 1 image, too few for 3 splits by --split-fractions 80/10/10; add images",)
    assert obstacles(two)[0].endswith("add images, or pass two fractions")
    assert obstacles(two, DataConfig(split_fractions="80/20")) == obstacles(three) == ()
    (one_split,) = obstacles(annotate(tmp_path, a="train", b="train"))
    assert one_split.startswith("no validation captions (splits: train); pass --resplit to assign splits")
    assert obstacles(annotate(tmp_path, a="train", b="train", c="train"), DataConfig(resplit=True)) == ()
    train, val = annotate(tmp_path, x="train", y="val")
    wordless = Annotations((train, replace(val, captions=("...!", "--"))), "made", "test")
    assert obstacles(wordless) == ("the validation captions are empty after cleaning",)
    assert obstacles(Annotations((train, val), "made", "test"), min_count=2) == (
        "no word of the training captions occurs 2 times; lower --min-count",
    )
    (tmp_path / "v.png").write_bytes(b"")
    broken = replace(val, image=str(tmp_path / "v.png"))
    assert obstacles(Annotations((train, broken), "made", "test")) == ("no validation image can be read",)
    assert obstacles(Annotations((train, broken, wordless[1]), "made", "test")) == (
        "no readable validation image has a caption with words",
    )


def test_captions_without_words_are_reported(tmp_path: Path) -> None:
    # Bug: they were counted but not listed.
    train, val = annotate(tmp_path, a="train", b="val")
    items = (replace(train, captions=("a dog", "...!")), val)
    report = check_data(Annotations(items, "made", "test"), TextConfig())
    assert report.wordless == ("a ('...!')",)
    assert ("wordless", "1 caption empty after cleaning: a ('...!')") in report.rows()


def test_repeated_captions_and_captions_without_letters_are_reported() -> None:
    items = (
        Annotation("a", "a.jpg", ("a dog", "a dog", "two dogs"), "train"),
        Annotation("b", "b.jpg", ("a dog", "42", "日本"), "val"),
    )
    report = check_data(Annotations(items, "made", "test"), TextConfig(), open_images=False)
    assert report.repeated == ("a ('a dog', 2 times)",)
    assert report.letterless == ("b ('42')",)
    assert {"repeated", "no letters"} <= {label for label, _ in report.rows()}


def test_an_empty_data_set_is_not_trainable() -> None:
    report = check_data(Annotations((), "nothing", "test"), TextConfig())
    assert not report.trainable
    assert report.images == report.captions == 0


def test_duplicates_and_leaks_by_bytes_are_reported(tmp_path: Path) -> None:
    annotations = annotate(tmp_path, a="train", b="train", c="test", d="val")
    for name in ("b", "c"):
        (tmp_path / f"{name}.png").write_bytes((tmp_path / "a.png").read_bytes())
    report = check_data(annotations, TextConfig())
    assert report.duplicates == (("a", "b", "c"),)
    assert report.leaks == ("a = b = c (test, train)",)
    assert report.trainable


def test_files_of_equal_size_and_different_bytes_are_not_duplicates(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        Image.new("L", (4, 4), number).save(tmp_path / f"{name}.bmp")
    assert (tmp_path / "a.bmp").stat().st_size == (tmp_path / "b.bmp").stat().st_size
    items = tuple(Annotation(name, str(tmp_path / f"{name}.bmp"), ("x",)) for name in "ab")
    assert check_data(Annotations(items, "made", "test"), TextConfig()).duplicates == ()


def test_the_same_id_in_two_splits_is_a_leak_but_not_in_train_and_restval(tmp_path: Path) -> None:
    image = annotate(tmp_path, a="train")[0].image
    for splits, leaks in ((("train", "val"), ("a (train, val)",)), (("train", "restval"), ())):
        items = tuple(Annotation("a", image, ("x y",), split) for split in splits)
        assert check_data(Annotations(items, "made", "test"), TextConfig()).leaks == leaks


def test_one_image_with_two_paths_is_a_leak_and_gets_one_split(tmp_path: Path) -> None:
    # Bug: a link to an image's folder gave a second image, which could be in another split.
    (item,) = annotate(tmp_path / "photos", a="train")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    linked = replace(item, id="b", image=str(tmp_path / "link" / "a.png"), split="val")
    report = check_data(Annotations((item, linked), "made", "test"), TextConfig())
    assert report.leaks == ("a = b (train, val)",)
    others = annotate(tmp_path / "photos", **dict.fromkeys("cdefgh", ""))
    for seed in range(4):
        with_splits = split_annotations(Annotations((item, linked, *others), "made", "test"), "50/50", seed)
        assert with_splits[0].split == with_splits[1].split


def test_the_report_as_json_has_all_fields(tmp_path: Path) -> None:
    report = check_data(annotate(tmp_path, a="train", b="val"), TextConfig())
    content = json.loads(json.dumps(report.to_dict()))
    assert content["trainable"] is True
    assert content["splits"][1] == {"name": "val", "images": 1, "captions": 1}
    assert content["text"]["vocabulary"] == 2  # a, runs


def test_urls_are_counted_and_not_fetched_and_progress_is_reported(tmp_path: Path) -> None:
    annotations = annotate(tmp_path, a="", b="")
    remote = Annotation("u", "http://127.0.0.1:9/never.jpg", ("x",))
    calls: list[tuple[int, int]] = []
    report = check_data(
        Annotations((*annotations.items, remote), "made", "test"),
        TextConfig(),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert report.not_opened == 1
    assert report.unreadable == ()
    assert calls == [(1, 2), (2, 2)]


def test_unopened_images_are_counted_as_not_opened(tmp_path: Path) -> None:
    report = check_data(annotate(tmp_path, a="", b=""), TextConfig(), open_images=False)
    assert report.not_opened == 2
    assert any(line.startswith("not opened") for line in report.lines())


def test_caption_statistics_equal_direct_counts() -> None:
    training = ["A dog runs", "a dog", "The dog, a cat and a dog sit on the mat", "?!"]
    others = {"val": ["a cow runs far away"], "test": ["a dog"]}
    words = [word for caption in training for word in caption.lower().replace(",", "").split() if word != "?!"]
    counts = Counter(words)
    statistics = caption_statistics(training, others, TextConfig(vocabulary_size=2))
    assert statistics is not None
    assert statistics.vocabulary == len(counts)
    top = sum(count for _, count in counts.most_common(2))
    ((size, share),) = statistics.coverage
    assert size == 2
    assert share == pytest.approx(top / len(words))
    assert (statistics.shortest, statistics.longest, statistics.wordless) == (2, 11, 1)
    assert statistics.mean == pytest.approx((3 + 2 + 11 + 5 + 2) / 5)
    assert statistics.median == 3
    # a and dog are the two most frequent words; "a cow runs far away" has only one of them.
    assert dict(statistics.unknown) == {"val": pytest.approx(4 / 5), "test": 0.0}


def test_coverage_increases_to_one_at_the_full_vocabulary() -> None:
    captions = [f"word{n} word{n // 2} word{n // 4}" for n in range(1500)]
    statistics = caption_statistics(captions, {}, TextConfig())
    assert statistics is not None
    sizes, shares = zip(*statistics.coverage, strict=True)
    assert sizes == (500, 1000, 1500)
    assert list(shares) == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_a_truncated_jpeg_that_was_saved_again_is_suspect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    image(3, 256).save(stream, "JPEG", quality=95)
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        cut = Image.open(io.BytesIO(stream.getvalue()[: len(stream.getvalue()) // 2])).convert("RGB")
    cut.save(tmp_path / "cut.png")
    (one,) = inspect_images([str(tmp_path / "cut.png")])
    assert one.error is None
    assert one.suspect is not None
    share = int(one.suspect.removeprefix("the bottom ").split()[0])
    assert share == pytest.approx(50, abs=12)


def test_washed_out_blank_and_intact_images_are_distinguished() -> None:
    grey = np.asarray(image(4, 256).convert("L"))
    assert find_damage(grey) is None
    dark = (grey * 0.5).astype(np.uint8)
    washed = dark.copy()
    washed[120:] += 100
    assert find_damage(washed) == "brightness jumps at 46 % of the height (lost bytes?)"
    darkened = dark + np.uint8(100)
    darkened[120:] -= 100
    assert find_damage(darkened) == "brightness jumps at 46 % of the height (lost bytes?)"
    # The same step with different content below it is a horizon, not damage.
    horizon = dark.copy()
    horizon[120:] = dark[:0:-1][120 - 256 :][:, ::-1] + 100
    assert find_damage(horizon) is None
    assert find_damage(np.full((40, 40), 128, np.uint8)) == "one colour only"
    assert find_damage(np.zeros((1, 1), np.uint8)) == "one colour only"


@pytest.mark.skipif(not (SHARED / "flickr8k").is_dir(), reason="no Flickr8k here")
def test_the_washed_out_image_and_the_duplicates_of_flickr8k_are_found() -> None:
    annotations = load_annotations(SHARED / "flickr8k")
    duplicates = {"2851198725_37b6027625.jpg", "3050606344_af711c726c.jpg"}
    wanted = {"1798209205_77dbf525b0.jpg", *duplicates}
    items = tuple(item for n, item in enumerate(annotations) if item.id in wanted or n % 40 == 0)
    report = check_data(
        Annotations(items, annotations.source, annotations.format, annotations.problems, annotations.missing),
        TextConfig(),
    )
    assert report.duplicates == (tuple(sorted(duplicates)),)
    assert report.leaks == ()
    assert any("1798209205_77dbf525b0.jpg: brightness jumps at 4" in line for line in report.suspect)
    assert len(report.suspect) <= 3
    assert report.missing == ("2258277193_586949ec62.jpg.1",)
    text = "\n".join(report.lines())
    for known in ("1.jpg, 2.jpg, 3.jpg", "2258277193_586949ec62.jpg.1", "91 images without a split", "1798209205"):
        assert known in text
    assert report.trainable


@pytest.mark.parametrize("language", foreign.CAPTIONS)
def test_characters_are_recommended_for_captions_without_spaces(language: str, tmp_path: Path) -> None:
    annotations = foreign.make_data(tmp_path, language)
    advice = "the captions have no spaces between words; use --level character"
    report = check_data(annotations, TextConfig(), open_images=False)
    expected = (advice,) if language in foreign.WITHOUT_SPACES else ()
    assert report.advice == expected
    assert report.to_dict()["advice"] == expected
    assert any(advice in line for line in report.lines()) == bool(expected)
    assert check_data(annotations, TextConfig(level="character"), open_images=False).advice == ()
