"""Review of text files beside images."""

import json
from pathlib import Path

import pytest

from seesay.data.annotations import load_annotations
from seesay.errors import ConfigError, DataError
from seesay.review.entries import ConflictError
from seesay.review.files import caption_file
from seesay.review.session import ReviewSession
from tests.review.conftest import Open, make_images

RECORD = ".seesay-review.jsonl"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for place, path in enumerate(make_images(folder / "sub", 3)):
        if place < 2:
            path.with_suffix(".txt").write_bytes(f"caption {place}\r\nsecond line\r\n".encode())
    return folder


def test_texts_are_edited_and_the_models_are_kept(photos: Path) -> None:
    with ReviewSession(caption_file(photos, ".txt")) as session:
        assert [entry.image for entry in session.entries] == [f"sub/image-{n:03}.png" for n in range(3)]
        assert [entry.state.caption for entry in session.entries] == [
            "caption 0\nsecond line",
            "caption 1\nsecond line",
            "",
        ]
        session.edit(0, "mine\nalso mine", accept=True)
        session.edit(2, "new")
        session.mark([1], "rejected")
        session.save()
    texts = {path.stem[-3:]: path.read_bytes() for path in photos.glob("sub/*.txt")}
    assert texts == {"000": b"mine\r\nalso mine\r\n", "001": b"caption 1\r\nsecond line\r\n", "002": b"new\n"}
    rows = [json.loads(line) for line in (photos / RECORD).read_text().splitlines()]
    assert rows[0] == {
        "image": "sub/image-000.png",
        "reviewed_caption": "mine\nalso mine",
        "model_caption": "caption 0\nsecond line",
        "review": "accepted",
    }
    with ReviewSession(caption_file(photos, ".txt")) as session:
        assert [entry.state.review for entry in session.entries] == ["accepted", "rejected", "edited"]
        session.revert([0, 1, 2])
        session.save()
    assert (photos / "sub/image-000.txt").read_bytes() == b"caption 0\r\nsecond line\r\n"
    assert (photos / RECORD).read_text() == ""


def test_the_record_is_not_taken_for_captions(photos: Path, review: Open) -> None:
    session = review(photos, ".txt")
    session.edit(0, "mine")
    session.save()
    found = load_annotations(photos)
    assert found.format == "sidecar"
    assert "mine" in found.items[0].captions


def test_changes_by_another_program_are_not_overwritten(photos: Path, review: Open) -> None:
    session = review(photos, ".txt")
    session.edit(0, "mine")
    session.edit(1, "mine too")
    theirs = photos / "sub/image-001.txt"
    theirs.write_text("theirs")
    with pytest.raises(ConflictError, match=r"1 file changed by another program.*image-001\.txt"):
        session.save()
    assert theirs.read_text() == "theirs"
    assert (photos / "sub/image-000.txt").read_text().startswith("caption 0"), "saved in part"
    assert "unsaved" in session.save_finally()
    theirs.unlink()
    session.save()
    assert theirs.read_text() == "mine too\n"


def test_an_image_that_was_only_accepted_is_no_conflict(photos: Path, review: Open) -> None:
    session = review(photos, ".txt")
    session.mark([0], "accepted")
    (photos / "sub/image-001.txt").write_text("theirs")
    assert session.save() == 1


def test_a_folder_has_one_review_at_a_time(photos: Path, review: Open) -> None:
    review(photos, ".txt")
    with pytest.raises(DataError, match="close the other review"):
        ReviewSession(caption_file(photos, ".txt"))


def test_suffixes_and_records_are_checked(photos: Path) -> None:
    with pytest.raises(ConfigError, match="suffix of images or data"):
        caption_file(photos, ".png")
    (photos / RECORD).write_text("[]\n")
    with pytest.raises(DataError, match="is not the record of a review"):
        ReviewSession(caption_file(photos, ".txt"))
