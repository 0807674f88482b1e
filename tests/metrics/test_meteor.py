import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from seesay.errors import DataError, MissingDependencyError
from seesay.metrics.meteor import Meteor, available, meteor_from_statistics
from seesay.metrics.meteor.alignment import align
from seesay.metrics.meteor.matching import EXACT, PARAPHRASE, STEM, SYNONYM, Match
from seesay.metrics.meteor.normalise import normalise
from seesay.metrics.meteor.paraphrases import hash_parts
from seesay.metrics.meteor.stemmer import stem
from tests.metrics.meteor_cases import sentences
from tests.metrics.meteor_jar import STORED, additive
from tests.metrics.meteor_tables import write_tables

needs_tables = pytest.mark.skipif(bool(available()), reason=available())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_tables(tmp_path / "meteor")


@pytest.fixture
def meteor(folder: Path) -> Meteor:
    return Meteor.load(folder)


@needs_tables
def test_equals_the_jar_on_stored_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares all statistics and scores, without java or subprocesses."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(os, "fork", None)
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    hypotheses, references, lines, scores = zip(*stored["images"], strict=True)
    assert len(scores) > 300
    ours = Meteor.load().statistics(hypotheses, references)
    expected = additive([" ".join(map(str, line)) for line in lines])
    different = [
        (hypotheses[row], references[row]) for row in range(len(ours)) if ours[row].tolist() != expected[row].tolist()
    ]
    assert different == []
    np.testing.assert_allclose(meteor_from_statistics(ours), scores, atol=1e-12, rtol=0)
    assert meteor_from_statistics(ours.sum(0)) == pytest.approx(stored["corpus"], abs=1e-12, rel=0)


def test_stored_cases_are_current() -> None:
    stored = json.loads(STORED.read_text(encoding="utf-8"))["images"]
    assert [(row[0], row[1]) for row in stored] == sentences()
    used = np.array([row[2] for row in stored])[:, 4:20].reshape(-1, 4, 4).sum(axis=(0, 2))
    assert (used > 50).all(), f"words matched by each stage: {used}"


@pytest.mark.parametrize(
    ("hypothesis", "reference", "stages"),
    [
        ("a dog", "a dog", {EXACT: 2}),
        ("dogs jumping", "dog jumps", {STEM: 2}),
        ("dog", "hound", {SYNONYM: 1}),
        ("women", "lady", {SYNONYM: 1}),
        ("flew", "glide", {SYNONYM: 1}),
        ("sofa", "couch", {PARAPHRASE: 1}),
        ("couch", "sofa", {PARAPHRASE: 1}),
        ("before", "in front of", {PARAPHRASE: 1}),
        ("i take a picture", "i photograph", {EXACT: 1, PARAPHRASE: 3}),
        ("cat", "dog", {}),
    ],
)
def test_each_stage_counts_its_matches(meteor: Meteor, hypothesis: str, reference: str, stages: dict[int, int]) -> None:
    (row,) = meteor.statistics([hypothesis], [[reference]])
    stage_rows = row[4:20].reshape(4, 2, 2)  # stage, content or function, side
    found = {stage: int(table[:, 0].sum()) for stage, table in enumerate(stage_rows) if table.any()}
    assert found == stages
    assert row[:2].tolist() == [len(hypothesis.split()), len(reference.split())]


def test_the_score_equals_the_formula_of_the_paper(meteor: Meteor) -> None:
    # Function words: a, the, on. Matched: "the"/"the" and "dog"/"hound" and "on"/"upon" in one chunk, "red" in another.
    (row,) = meteor.statistics(["the dog red on"], [["the hound on a red"]])
    precision = (0.25 * 1 + 0.75 * 0.8 + 0.75 * 1 + 0.25 * 1) / (2 * 0.25 + 2 * 0.75)
    recall = (0.25 * 1 + 0.75 * 0.8 + 0.75 * 1 + 0.25 * 1) / (3 * 0.25 + 2 * 0.75)
    mean = precision * recall / (0.85 * precision + 0.15 * recall)
    assert meteor_from_statistics(row) == pytest.approx(mean * (1 - 0.6 * (3 / 4) ** 0.2), abs=1e-12)


def test_an_identical_caption_scores_1_and_a_disjoint_one_0(meteor: Meteor) -> None:
    rows = meteor.statistics(
        ["a dog runs", "cat", "", "a b a b"], [["a dog runs"], ["bird"], ["dog"], ["a b a b", "b"]]
    )
    np.testing.assert_allclose(meteor_from_statistics(rows), [1, 0, 0, 1], atol=1e-15)


def test_the_best_reference_counts_and_the_first_of_equal_ones(meteor: Meteor) -> None:
    hypotheses = ["the dog runs"] * 3
    references = [["cat", "the dog runs", "dog"], ["the dog", "dog runs"], ["dog the", "the dog"]]
    rows = meteor.statistics(hypotheses, references)
    separate = [meteor.statistics(["the dog runs"] * len(texts), [[text] for text in texts]) for texts in references]
    best = [table[int(np.argmax(meteor_from_statistics(table)))] for table in separate]
    np.testing.assert_array_equal(rows, best)
    assert rows[:, 1].tolist() == [3, 2, 2]


def test_scores_of_any_shape_equal_those_of_the_rows(meteor: Meteor) -> None:
    words = ["a dog runs on the sofa", "the couch", "women before a dog", "hound"]
    rows = meteor.statistics(words, [[other for other in words if other != word] for word in words])
    table = meteor_from_statistics(rows.reshape(2, 2, -1))
    assert table.shape == (2, 2)
    np.testing.assert_array_equal(table.ravel(), [meteor_from_statistics(row) for row in rows])
    assert meteor_from_statistics(rows.sum(0)).shape == ()
    # An identical caption adds no fragment to a corpus.
    perfect = meteor.statistics(["a dog runs"], [["a dog runs"]])
    assert meteor_from_statistics(np.concatenate((rows, perfect)).sum(0)) > meteor_from_statistics(rows.sum(0))
    assert meteor_from_statistics(np.concatenate((perfect, perfect)).sum(0)) == pytest.approx(1, abs=1e-15)


def test_captions_of_later_calls_are_looked_up(meteor: Meteor, folder: Path) -> None:
    first, second = (["sofa"], [["couch"]]), (["in front of"], [["before"]])
    meteor.statistics(*first)
    np.testing.assert_array_equal(meteor.statistics(*second), Meteor.load(folder).statistics(*second))
    np.testing.assert_array_equal(meteor.statistics(*first), Meteor.load(folder).statistics(*first))


def test_a_triple_bar_is_handled_as_in_coco_caption(meteor: Meteor) -> None:
    """It is removed from a hypothesis and splits a reference."""
    rows = meteor.statistics(["a ||| dog", "a dog"], [["a dog"], ["a cat ||| a dog"]])
    np.testing.assert_allclose(meteor_from_statistics(rows), 1)


def _arrangements(matches: Sequence[Match]) -> Iterator[tuple[Match, ...]]:
    for size in range(len(matches) + 1):
        for chosen in itertools.combinations(matches, size):
            words = [word for match in chosen for word in range(match.start, match.end)]
            others = [word for match in chosen for word in range(match.hypothesis_start, match.hypothesis_end)]
            if len(words) == len(set(words)) and len(others) == len(set(others)):
                yield chosen


def _chunks(chosen: Sequence[Match]) -> int:
    ordered = sorted(chosen)
    joined = sum(
        before.end == after.start and before.hypothesis_end == after.hypothesis_start
        for before, after in itertools.pairwise(ordered)
    )
    return len(ordered) - joined


@pytest.mark.parametrize("seed", range(40))
def test_the_search_finds_the_best_alignment(seed: int) -> None:
    """Compares with all subsets: most matched words, then fewest chunks, with few enough matches for the beam."""
    draw = random.Random(seed)
    pairs = draw.sample(list(itertools.product(range(4), range(4))), draw.randint(1, 8))
    table = [sorted(Match(i, i + 1, j, j + 1, EXACT) for i, j in pairs if i == start) for start in range(4)]
    best = min((-len(chosen), _chunks(chosen)) for chosen in _arrangements([match for row in table for match in row]))
    found = align(table)
    assert tuple(found.matches) in set(_arrangements(found.matches))
    assert (-len(found.matches), _chunks(found.matches)) == best
    assert found.chunks == _chunks(found.matches)


def test_single_inexact_words_have_weight_0_as_in_the_original() -> None:
    """Half a word is rounded down, so that omitting two stems costs no rank and saves a chunk."""
    crossed = [[Match(0, 1, 1, 2, STEM), Match(0, 1, 0, 1, STEM)], [Match(1, 2, 0, 1, STEM)]]
    assert len(align(crossed).matches) == 0
    assert len(align([[Match(0, 1, 0, 1, STEM)], []]).matches) == 1  # uncontested, so fixed before the search
    assert len(align([[Match(0, 2, 0, 1, PARAPHRASE)], [Match(1, 2, 1, 2, STEM)]]).matches) == 1


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A Dog", "a dog"),
        ("t-shirt well-known -5", "t shirt well known -5"),
        ("the u.s. flag at 5 p.m. now", "the us flag at 5 pm now"),
        ("Mr. X met e.g. Bob", "mr. x met eg bob"),
        ("No. 5 , No. Five", "no. 5 , no . five"),
        ("a dog. Then", "a dog . then"),
        ("a dog. then", "a dog. then"),
        ("1,000 a,b 5,x", "1,000 a , b 5 , x"),
        ("don't dogs' 'tis 1990's", "don 't dogs ' ' tis 1990 's"),
        ("``hi'' “there”", '" hi " " there "'),
        ("wait...now.. x", "wait ... now .. x"),
        ("50%", "50 %"),
        ("a–b a--b --", "a - b a b -"),
        ("ÀÉ", "àé"),
        ("", ""),
    ],
)
def test_words_after_normalisation(caption: str, words: str) -> None:
    prefixes = {"Mr": False, "e.g": False, "No": True}
    assert " ".join(normalise(caption, prefixes)) == words


def test_stems_are_those_of_the_older_algorithm() -> None:
    expected = """
    consign consign consistency consist knocking knock kneeling kneel happy happi sky sky skis ski dying die
    generously generous communism communism added ad adding ad biologist biologist hopping hop hoping hope
    agreed agre feed feed caresses caress ponies poni ties tie cries cri gas gas this this kiwis kiwi by by say say
    sized size rational ration conditional condit valuable valuabl hesitancy hesit digitizer digit operator oper
    feudalism feudal decisiveness decis hopefulness hope formality formal sensitivity sensit sensibility sensibl
    geology geolog seriously serious helplessly helpless adoption adopt adjustment adjust relative relat
    probate probat rate rate cease ceas roll roll controlling control yellow yellow youth youth dog's dog
    dogs' dog 'tis tis innings inning successes success ox ox a a bed bed beds bed
    """.split()  # noqa: SIM905
    pairs = list(zip(expected[::2], expected[1::2], strict=True))
    assert [(word, stem(word)) for word, _ in pairs] == pairs


def test_the_error_without_pycocoevalcap_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seesay.metrics.meteor.tables.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"seesay\[coco\]"):
        Meteor.load()
    assert "seesay[coco]" in available()
    assert "\n" not in available()


@pytest.mark.parametrize("name", ["meteor-1.5.jar", "data/paraphrase-en.gz"])
def test_the_error_names_a_missing_file(folder: Path, name: str) -> None:
    assert available(folder) == ""
    (folder / name).unlink()
    assert name in available(folder)
    with pytest.raises(DataError, match=rf"{name}.*seesay\[coco\]"):
        Meteor.load(folder)


@pytest.mark.parametrize("name", ["meteor-1.5.jar", "data/paraphrase-en.gz"])
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.9])
def test_the_error_names_a_truncated_file(folder: Path, name: str, fraction: float) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(DataError, match=name):
        Meteor.load(folder).statistics(["a dog"], [["dog"]])


@pytest.mark.parametrize("name", ["meteor-1.5.jar", "data/paraphrase-en.gz"])
def test_the_error_names_a_corrupt_file(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    start = len(content) // 2 if name.endswith("gz") else content.index(b"the\non")
    corrupt = bytes(255 - byte for byte in content[start : start + 6])
    (folder / name).write_bytes(content[:start] + corrupt + content[start + 6 :])
    with pytest.raises(DataError, match=name):
        Meteor.load(folder).statistics(["a dog"], [["dog"]])


def test_the_paraphrase_table_is_built_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = ["a sofa before a hound"], [["in front of a couch"]]
    first = Meteor.load(folder).statistics(*captions)
    monkeypatch.setattr("seesay.metrics.meteor.paraphrases.gzip", None)
    np.testing.assert_array_equal(Meteor.load(folder).statistics(*captions), first)


@pytest.mark.parametrize("size", [0, 10, 40])
def test_a_truncated_cached_table_is_rebuilt(folder: Path, tmp_path: Path, size: int) -> None:
    captions = ["a sofa before a hound"], [["in front of a couch"]]
    first = Meteor.load(folder).statistics(*captions)
    (fraction,) = (tmp_path / "cache").rglob("*.table")
    content = fraction.read_bytes()
    fraction.write_bytes(content[:size])
    np.testing.assert_array_equal(Meteor.load(folder).statistics(*captions), first)
    assert fraction.read_bytes() == content


def test_without_a_cache_folder_the_table_is_built_in_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    rows = Meteor.load(folder).statistics(["sofa"], [["couch"]])
    assert rows[0, 16:20].sum() == 2


def test_the_hash_of_a_phrase_depends_only_on_its_bytes() -> None:
    words = ["a", "b", "ab", "ba", "a b", "b a", "é", "aa", "aaa", ""]
    text = "|".join([*words, *reversed(words)]).encode()
    ends = np.array([index for index, byte in enumerate(text + b"|") if byte == ord("|")])
    first, second = hash_parts(text, np.concatenate(([0], ends[:-1] + 1)), ends).reshape(2, -1)
    np.testing.assert_array_equal(first, second[::-1])
    assert len(set(first.tolist())) == len(words)


@pytest.mark.parametrize("seed", range(5))
def test_skipped_references_are_not_the_best(meteor: Meteor, seed: int) -> None:
    """References with a low bound are not aligned; the result equals that of aligning all."""
    draw = random.Random(seed)
    words = "a the dog dogs hound woman lady sofa couch before in front of on upon flew glide take image".split()  # noqa: SIM905
    caption = [" ".join(draw.choices(words, k=draw.randint(0, 12))) for _ in range(300)]
    images = [(caption[k], draw.sample(caption, 4)) for k in range(60)]
    hypotheses, references = zip(*images, strict=True)
    separate = meteor.statistics(
        [text for text, texts in images for _ in texts], [[text] for _, texts in images for text in texts]
    )
    best = meteor_from_statistics(separate).reshape(60, 4).argmax(axis=1)
    np.testing.assert_array_equal(
        meteor.statistics(hypotheses, references), separate.reshape(60, 4, -1)[np.arange(60), best]
    )


def test_invalid_arguments_are_refused(meteor: Meteor) -> None:
    with pytest.raises(DataError, match="2 hypotheses for 1"):
        meteor.statistics(["a", "b"], [["a"]])
    with pytest.raises(DataError, match="image 1 has no reference"):
        meteor.statistics(["a", "b"], [["a"], []])
    assert meteor.statistics([], []).shape == (0, 21)


@needs_tables
def test_tables_are_found_without_importing_pycocoevalcap() -> None:
    code = "import sys; from seesay.metrics.meteor import *; Meteor.load(); print('pycocoevalcap' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
