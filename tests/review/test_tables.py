"""Review of JSON lines, CSV and TSV: what is written, what is kept, and what other commands read."""

import csv
import json
from pathlib import Path

import pytest

from seesay.bulk import Destination
from seesay.bulk.rows import csv_row, header
from seesay.errors import ConfigError, DataError
from seesay.evaluation.predictions import read_predictions
from seesay.files import only_writer
from seesay.review.entries import ConflictError
from seesay.review.files import caption_file
from seesay.review.session import ReviewSession
from tests.bulk import outputs
from tests.review.conftest import Open, generated, read_rows, write_captions


def resumed(path: Path, num_captions: int = 1) -> set[str]:
    """The images that a resumed job would skip."""
    writer = Destination(path).output(num_captions, lambda _: True)
    assert writer is not None
    writer.create()
    return writer.open()


def test_only_changed_rows_are_rewritten_with_all_their_fields(folder: Path, review: Open) -> None:
    path = write_captions(folder / "captions.jsonl", {f"images/image-{n:03}.png": f"dog {n}" for n in range(4)}, mine=7)
    before = path.read_text().splitlines()
    session = review(path)
    session.edit(1, "a person's caption\nof two lines é")
    session.mark([2], "accepted")
    assert session.save() == 2
    after = path.read_text().splitlines()
    assert (after[0], after[3]) == (before[0], before[3])
    edited, accepted = json.loads(after[1]), json.loads(after[2])
    changed = {"caption": "a person's caption\nof two lines é", "model_caption": "dog 1", "review": "edited"}
    assert edited == {**json.loads(before[1]), **changed}
    assert accepted == {**json.loads(before[2]), "review": "accepted"}
    assert list(edited)[:2] == ["image", "caption"]


def test_a_review_is_read_again_and_can_be_taken_back(folder: Path) -> None:
    path = folder / "captions.jsonl"
    before = read_rows(path)
    with ReviewSession(caption_file(path)) as session:
        session.edit(0, "other")
        session.mark([0, 1], "rejected")
        session.save()
    with ReviewSession(caption_file(path)) as session:
        states = [(entry.state.caption, entry.state.model_caption, entry.state.review) for entry in session.entries]
        assert states[:3] == [
            ("other", "a dog runs", "rejected"),
            ("a cat sits", "a cat sits", "rejected"),
            ("a dog and a cat", "a dog and a cat", ""),
        ]
        session.revert([0, 1])
        session.save()
    assert read_rows(path) == before


def test_a_job_and_evaluate_read_a_reviewed_file(folder: Path, review: Open) -> None:
    path = folder / "captions.jsonl"
    names = resumed(path)
    session = review(path)
    session.edit(0, "a person's caption")
    session.mark([1], "rejected")
    session.save()
    assert resumed(path) == names
    assert read_predictions(path)["images/image-000.png"] == "a person's caption"


def test_the_first_of_several_captions_is_reviewed(folder: Path, review: Open) -> None:
    several = [{"caption": "a dog runs", "score": -1.0}, {"caption": "dogs", "score": -2.0}]
    path = write_captions(folder / "several.jsonl", {"images/image-000.png": "a dog runs"}, captions=several)
    session = review(path)
    assert session.entries[0].alternatives == ("dogs",)
    session.edit(0, "a cat")
    session.save()
    (row,) = read_rows(path)
    assert row["caption"] == row["captions"][0]["caption"] == "a cat"
    assert row["captions"][1] == several[1]
    assert resumed(path, 2) == {"images/image-000.png"}


def test_regenerated_captions_bring_their_scores_and_undo_restores_them(folder: Path, review: Open) -> None:
    path = folder / "captions.jsonl"
    before = path.read_bytes()
    session = review(path)
    session.regenerate({0: generated("a new dog", -9.5)})
    session.save()
    row = read_rows(path)[0]
    assert (row["caption"], row["score"], len(row["log_probs"])) == ("a new dog", -9.5, 3)
    assert "model_caption" not in row
    session.undo()
    session.save()
    assert path.read_bytes() == before


def test_captions_of_refused_images_are_added_to_the_file(folder: Path, review: Open) -> None:
    path = folder / "captions.jsonl"
    failed = [{"image": f"images/new-{n}.png", "error": f"images/new-{n}.png: a repetition loop"} for n in range(2)]
    done = {"image": "images/image-000.png", "error": "failed once"}
    path.with_suffix(".errors.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in [*failed, done]))
    session = review(path)
    assert [(entry.image, entry.reason) for entry in session.entries[4:]] == [
        ("images/new-0.png", "a repetition loop"),
        ("images/new-1.png", "a repetition loop"),
    ]
    session.mark([4], "rejected")
    session.edit(5, "written by a person")
    session.save()
    added = {"image": "images/new-1.png", "caption": "written by a person", "review": "edited", "model_caption": ""}
    assert read_rows(path)[4].items() >= added.items()
    assert resumed(path) == {f"images/image-{n:03}.png" for n in range(4)} | {"images/new-1.png"}
    session.undo()
    session.save()
    assert len(read_rows(path)) == 4


def test_an_incomplete_last_row_is_left_out_as_a_job_does(folder: Path, review: Open) -> None:
    path = folder / "captions.jsonl"
    path.write_bytes(path.read_bytes() + b'{"image": "images/x.png", "capt')
    session = review(path)
    assert len(session.entries) == 4
    session.mark([0], "accepted")
    session.save()
    assert len(read_rows(path)) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "contains no captions"),
        ('{"image": "a.jpg", "caption": "a dog"}\nno json\n{}', "line 2 is not JSON"),
        ('{"image": "a.jpg", "captions": ["a dog", "dogs"]}\n', "line 1 has no image with one caption"),
        ("[1]\n", "line 1 has no image with one caption"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        ReviewSession(caption_file(path))
    with only_writer(path):
        pass  # the lock is released


def test_a_change_by_another_program_is_not_overwritten(folder: Path, review: Open) -> None:
    path = folder / "captions.jsonl"
    session = review(path)
    session.mark([0], "accepted")
    theirs = path.read_bytes() + b"\n"
    path.write_bytes(theirs)
    with pytest.raises(ConflictError, match=r"captions\.jsonl was changed by another program"):
        session.save()
    assert path.read_bytes() == theirs
    assert session.unsaved == 1
    problem = session.save_finally()
    assert "1 unsaved changes are in" in problem
    assert read_rows(folder / "captions.unsaved.jsonl")[0]["review"] == "accepted"
    path.rename(folder / "theirs.jsonl")
    assert session.save() == 1
    assert read_rows(path)[0]["review"] == "accepted"


def test_a_file_under_review_is_locked_also_after_saving(folder: Path) -> None:
    path = folder / "captions.jsonl"
    with ReviewSession(caption_file(path)) as session:
        for place in range(2):
            with pytest.raises(DataError, match="another process is writing"), only_writer(path):
                pass
            with pytest.raises(DataError, match="close the other review"):
                ReviewSession(caption_file(path))
            session.mark([place], "accepted")
            session.save()
    with only_writer(path):
        pass


def test_a_link_to_the_file_stays_a_link(folder: Path, review: Open) -> None:
    link = folder / "link.jsonl"
    link.symlink_to("captions.jsonl")
    session = review(link)
    session.mark([0], "accepted")
    session.save()
    assert link.is_symlink()
    assert read_rows(folder / "captions.jsonl")[0]["review"] == "accepted"


def test_a_file_that_cannot_be_written_keeps_its_content_and_the_changes(
    folder: Path, review: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "captions.jsonl"
    before = path.read_bytes()
    session = review(path)
    session.mark([0], "accepted")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", full)
        with pytest.raises(Exception, match="No space left on device"):
            session.save()
    assert path.read_bytes() == before
    assert sorted(each.name for each in folder.iterdir()) == ["captions.jsonl", "images"]
    assert session.save() == 1


def table(path: Path, delimiter: str) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file, delimiter=delimiter))


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_tables_keep_their_columns_and_a_record_keeps_the_review(folder: Path, suffix: str) -> None:
    path = folder / f"captions{suffix}"
    delimiter = "\t" if suffix == ".tsv" else ","
    names = [f"images/image-{n:03}.png" for n in range(3)]
    texts = ['a "dog", and\ta cat', "a cat\nin two lines", "a bird"]
    rows = [csv_row((name, generated(text)), 1, delimiter) for name, text in zip(names, texts, strict=True)]
    before = delimiter.join(header(1)) + "\n" + "".join(rows)
    path.write_text(before, newline="")
    with ReviewSession(caption_file(path)) as session:
        assert [entry.state.caption for entry in session.entries] == texts
        session.edit(1, "one, line\tnow")
        session.mark([2], "accepted")
        session.save()
    assert resumed(path) == set(names)
    assert read_predictions(path)[names[1]] == "one, line\tnow"
    after = table(path, delimiter)
    assert after[1] == [names[0], texts[0], "-1.5", "true"]
    assert after[2] == [names[1], "one, line\tnow", "-1.5", "true"]
    with ReviewSession(caption_file(path)) as session:
        states = [(entry.state.model_caption, entry.state.review) for entry in session.entries]
        assert states == [(texts[0], ""), (texts[1], "edited"), (texts[2], "accepted")]
        assert session.entries[0].state.generated == {"score": -1.5, "finished": True}
        session.regenerate({0: generated("again", -3.0)})
        session.save()
        assert table(path, delimiter)[1] == [names[0], "again", "-3.0", "true"]
        session.undo()
        session.revert([1])
        session.save()
    assert path.read_text() == before.replace("\r", "")


def test_a_status_counts_only_for_the_text_that_was_reviewed(folder: Path) -> None:
    path = folder / "captions.csv"
    path.write_text("image,caption\nimages/image-000.png,a dog\n")
    with ReviewSession(caption_file(path)) as session:
        session.mark([0], "accepted")
        session.save()
    path.write_text("image,caption\nimages/image-000.png,a cat\n")
    with ReviewSession(caption_file(path)) as session:
        state = session.entries[0].state
    assert (state.caption, state.model_caption, state.review) == ("a cat", "a dog", "")


def test_paths_are_checked(folder: Path) -> None:
    with pytest.raises(DataError, match="there is no"):
        caption_file(folder / "nothing.jsonl")
    with pytest.raises(ConfigError, match="with --sidecar"):
        caption_file(folder)
    with pytest.raises(ConfigError, match="drop --sidecar"):
        caption_file(folder / "captions.jsonl", ".txt")
    (folder / "captions.parquet").touch()
    with pytest.raises(ConfigError, match="the suffix selects the format"):
        caption_file(folder / "captions.parquet")


@pytest.mark.parametrize("others", [(), ("a dog",)])
def test_a_copy_of_a_parquet_output_is_reviewed(folder: Path, review: Open, others: tuple[str, ...]) -> None:
    """The copy has the bytes that the job writes as JSON lines; one part is finished, and one name is not UTF-8."""
    names = [*(f"images/image-00{number}.png" for number in range(4)), "images/b\udce9.png"]
    rows = [(name, outputs.caption(f"caption {number}", *others)) for number, name in enumerate(names)]
    for name in ("job.parquet", "same.jsonl"):
        output = Destination(folder / name).output(1 + len(others), lambda _: True)
        assert output is not None
        output.create()
        output.open()
        output.write(rows[:3])
        output.close()
        output.open()
        output.write(rows[3:])
    session = review(folder / "job.parquet")
    copy = folder / "job.jsonl"
    assert copy.read_bytes() == (folder / "same.jsonl").read_bytes()
    session.edit(1, "a cat", accept=True)
    session.save()
    assert [row["caption"] for row in read_rows(copy)] == ["caption 0", "a cat", "caption 2", "caption 3", "caption 4"]
    with pytest.raises(DataError, match=r"review .*job\.jsonl, or move it"):
        caption_file(folder / "job.parquet")


def test_a_parquet_folder_without_captions_is_an_error(folder: Path) -> None:
    (folder / "job.parquet").mkdir()
    with pytest.raises(DataError, match="no captions to review"):
        caption_file(folder / "job.parquet")
    (folder / "job.parquet" / "part-00000.parquet").write_text("other")
    with pytest.raises(DataError, match="not a file of captions"):
        caption_file(folder / "job.parquet")


def test_images_are_found_beside_the_file_in_the_current_folder_and_below(
    folder: Path, review: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "sub").mkdir()
    (folder / "sub/elsewhere").mkdir()
    (folder / "images/image-003.png").rename(folder / "sub/elsewhere/image-003.png")
    (folder / "captions.jsonl").rename(folder / "sub/captions.jsonl")
    sources = [entry.source for entry in review(Path("sub/captions.jsonl")).entries]
    assert Path(sources[0]) == Path("images/image-000.png")
    assert Path(sources[3]) == Path("sub/elsewhere/image-003.png")


def test_urls_members_of_archives_and_missing_images_keep_their_names(folder: Path, review: Open) -> None:
    (folder / "shard.tar").write_bytes(b"")
    names = ["https://example.org/a.jpg", "shard.tar::a.jpg", "missing.png", str(folder / "images/image-000.png")]
    path = write_captions(folder / "names.jsonl", dict.fromkeys(names, "a dog"))
    sources = [entry.source for entry in review(path).entries]
    assert sources == [names[0], str(folder / names[1]), str(folder / names[2]), names[3]]
