"""Actions, undo and redo of a review, and the export of accepted captions."""

import random
from pathlib import Path

import pytest

from seesay.data.annotations import load_annotations
from seesay.errors import DataError
from seesay.review import limits
from seesay.review.export import export_accepted, exported_bytes
from seesay.review.session import Replacement, ReviewSession
from tests.review.conftest import Open, generated


@pytest.fixture
def session(folder: Path, review: Open) -> ReviewSession:
    return review(folder / "captions.jsonl")


def texts(session: ReviewSession) -> list[str]:
    return [entry.state.caption for entry in session.entries]


def reviews(session: ReviewSession) -> list[str]:
    return [entry.state.review for entry in session.entries]


def test_every_action_is_undone_and_redone(session: ReviewSession) -> None:
    """Random actions: undoing all restores the start, redoing all the end, and each step the state between."""
    rng = random.Random(0)
    actions = [
        lambda: session.edit(rng.randrange(4), rng.choice(["a dog", "x", "a cat sits"]), accept=rng.random() < 0.5),
        lambda: session.mark(rng.sample(range(4), 2), rng.choice(["", "accepted", "rejected"])),
        lambda: session.revert([0, 1, 2, 3]),
        lambda: session.replace(range(4), Replacement("dog", rng.choice(["cat", "dog dog"]))),
        lambda: session.regenerate({rng.randrange(4): generated(f"text {rng.randrange(9)}")}),
    ]
    history = [[entry.state for entry in session.entries]]
    for _ in range(60):
        rng.choice(actions)()
        states = [entry.state for entry in session.entries]
        if states != history[-1]:
            history.append(states)
    assert len(history) > 30
    for expected in reversed(history[:-1]):
        assert session.undo()
        assert [entry.state for entry in session.entries] == expected
    assert session.undo() == ""
    assert session.unsaved == 0
    for expected in history[1:]:
        assert session.redo()
        assert [entry.state for entry in session.entries] == expected
    assert session.redo() == ""


def test_a_new_action_ends_redo_and_an_empty_one_does_not(session: ReviewSession) -> None:
    session.edit(0, "x")
    session.undo()
    session.edit(0, "  a dog runs ")  # the same caption
    assert session.next_redo == "edit"
    session.mark([1], "accepted")
    assert (session.next_undo, session.next_redo) == ("accept", "")


def test_the_undo_log_is_bounded(session: ReviewSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_UNDO", 3)
    for number in range(5):
        session.edit(0, f"text {number}")
    while session.undo():
        pass
    assert texts(session)[0] == "text 1"


def test_the_status_follows_the_text(session: ReviewSession) -> None:
    session.edit(0, "a person's")
    session.edit(1, "a person's", accept=True)
    session.mark([2], "accepted")
    assert reviews(session)[:3] == ["edited", "accepted", "accepted"]
    session.edit(2, "changed after it was accepted")
    session.mark([1], "")
    session.edit(0, "a dog runs")  # the model's again
    assert reviews(session)[:3] == ["", "edited", "edited"]
    session.regenerate({1: generated("new")})
    assert reviews(session)[1] == ""


@pytest.mark.parametrize(
    ("rule", "expected", "counts"),
    [
        (Replacement("dog", "cat"), ["a cat runs", "a cat sits", "a cat and a cat", "two red cats"], (3, 3)),
        (
            Replacement("dog", "cat", whole_words=True),
            ["a cat runs", "a cat sits", "a cat and a cat", "two red dogs"],
            (2, 2),
        ),
        (
            Replacement("A", "the", True, match_case=False),
            ["the dog runs", "the cat sits", "the dog and the cat", "two red dogs"],
            (3, 4),
        ),
        (Replacement("A", "the"), ["a dog runs", "a cat sits", "a dog and a cat", "two red dogs"], (0, 0)),
        (Replacement("a dog", ""), ["runs", "a cat sits", "and a cat", "two red dogs"], (2, 2)),
        (
            Replacement("s", r"\1.*"),
            [r"a dog run\1.*", r"a cat \1.*it\1.*", "a dog and a cat", r"two red dog\1.*"],
            (3, 4),
        ),
    ],
)
def test_replacements_are_literal_and_counted(
    session: ReviewSession, rule: Replacement, expected: list[str], counts: tuple[int, int]
) -> None:
    before = texts(session)
    assert session.count(range(4), rule) == counts
    assert texts(session) == before
    session.replace(range(4), rule)
    assert texts(session) == expected
    assert [review == "edited" for review in reviews(session)] == [
        a != b for a, b in zip(before, expected, strict=True)
    ]
    session.undo()
    assert texts(session) == before


def test_word_boundaries_hold_for_words_beyond_ascii() -> None:
    rule = Replacement("é", "x", whole_words=True)
    assert rule.apply("é été é.") == ("x été x.", 2)


def test_replacements_reach_only_the_given_rows(session: ReviewSession) -> None:
    session.replace([0], Replacement("dog", "cat"))
    assert texts(session)[2] == "a dog and a cat"


def test_changes_since_a_revision(session: ReviewSession) -> None:
    session.edit(1, "x")
    seen = session.revision
    session.mark([2, 3], "accepted")
    session.undo()
    assert [row["row"] for row in session.since(seen)] == [2, 3]
    assert len(session.since(-1)) == 4
    assert session.since(session.revision) == []


def test_exported_captions_are_training_data(session: ReviewSession, folder: Path, tmp_path: Path) -> None:
    session.edit(0, "a person's caption\nand another", accept=True)
    session.mark([1, 3], "accepted")
    session.mark([2], "rejected")
    session.edit(3, " ", accept=True)  # accepted without a text
    out = tmp_path / "out" / "data.jsonl"
    assert export_accepted(session.entries, out) == 2
    expected = [
        ("images/image-000.png", ("a person's caption", "and another")),
        ("images/image-001.png", ("a cat sits",)),
    ]
    (tmp_path / "elsewhere").mkdir()
    downloaded = tmp_path / "elsewhere/accepted.jsonl"
    downloaded.write_bytes(exported_bytes(session.entries))
    for path in (out, downloaded):
        found = load_annotations(path)
        assert found.problems == ()
        assert [(item.id, item.captions) for item in found] == expected
        assert all(Path(item.image).is_file() for item in found)


def test_nothing_to_export_and_foreign_files_are_refused(session: ReviewSession, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no caption is accepted yet"):
        exported_bytes(session.entries)
    session.mark([0], "accepted")
    (tmp_path / "mine.jsonl").write_text("mine")
    with pytest.raises(DataError, match="is not an annotations file"):
        export_accepted(session.entries, tmp_path / "mine.jsonl")


def test_too_many_rows_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, review: Open) -> None:
    monkeypatch.setattr(limits, "MAX_ROWS", 3)
    with pytest.raises(DataError, match="more than 3 rows"):
        review(folder / "captions.jsonl")
