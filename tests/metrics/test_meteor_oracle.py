"""METEOR compared with the jar of pycocoevalcap: all statistics must be equal."""

import contextlib
import gzip
import io
import json
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from seesay.data import load_annotations
from seesay.metrics.meteor import Meteor, available, meteor_from_statistics
from seesay.metrics.meteor.normalise import normalise
from seesay.metrics.meteor.stemmer import stem
from seesay.metrics.meteor.tables import Tables, find_tables
from seesay.metrics.tokenize import tokenize
from tests.metrics.fuzz import odd_strings
from tests.metrics.meteor_cases import Case, framed, random_orders, sentences
from tests.metrics.meteor_jar import Jar, additive
from tests.metrics.test_scores import SHARED

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(shutil.which("java") is None, reason="needs Java"),
    pytest.mark.skipif(bool(available()), reason=available()),
]

RESULTS = Path(__file__).parents[2] / "docs/results/best"


@pytest.fixture(scope="module")
def jar() -> Iterator[Jar]:
    with Jar() as running:
        yield running


@pytest.fixture(scope="module")
def meteor() -> Meteor:
    return Meteor.load()


@pytest.fixture(scope="module")
def human() -> dict[str, list[str]]:
    """Returns the captions of the test images of Flickr8k, tokenized."""
    folder = SHARED / "flickr8k"
    if not folder.is_dir():
        pytest.skip("Flickr8k is not next to the repository")
    return {item.id: tokenize(item.captions) for item in load_annotations(folder).split("test")}


def _compare(jar: Jar, meteor: Meteor, images: Sequence[Case]) -> None:
    hypotheses, references = zip(*images, strict=True)
    ours = meteor.statistics(hypotheses, references)
    lines = jar.statistics(images)
    expected = additive(lines)
    different = [row for row in range(len(images)) if ours[row].tolist() != expected[row].tolist()]
    assert [(images[row], ours[row], expected[row]) for row in different[:5]] == []
    *scores, corpus = jar.scores(lines)
    max_difference = np.abs(meteor_from_statistics(ours) - scores).max()
    corpus_difference = abs(meteor_from_statistics(ours.sum(0)) - corpus)
    print(f"{len(images)} images: scores differ by {max_difference:.1e}, corpus {corpus} by {corpus_difference:.1e}")
    assert max_difference < 1e-12
    assert corpus_difference < 1e-12


def test_every_pair_of_human_captions(jar: Jar, meteor: Meteor, human: dict[str, list[str]]) -> None:
    """Each of the five captions of an image against each of the others."""
    pairs: list[Case] = [
        (hypothesis, [reference])
        for captions in human.values()
        for number, hypothesis in enumerate(captions)
        for other, reference in enumerate(captions)
        if number != other
    ]
    assert len(pairs) == 20_000
    _compare(jar, meteor, pairs)


def test_every_human_caption_against_the_other_four(jar: Jar, meteor: Meteor, human: dict[str, list[str]]) -> None:
    images: list[Case] = [
        (hypothesis, captions[:number] + captions[number + 1 :])
        for captions in human.values()
        for number, hypothesis in enumerate(captions)
    ]
    assert len(images) == 5000
    _compare(jar, meteor, images)


def test_captions_of_models(jar: Jar, meteor: Meteor, human: dict[str, list[str]]) -> None:
    images: list[Case] = []
    for path in sorted(RESULTS.glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        known = [row for row in rows if row["id"] in human]
        hypothesis = tokenize([row["caption"] for row in known])
        images += [(text, human[row["id"]]) for text, row in zip(hypothesis, known, strict=True)]
    assert len(images) >= 4000
    _compare(jar, meteor, images)


def test_stored_and_template_sentences(jar: Jar, meteor: Meteor) -> None:
    _compare(jar, meteor, sentences() + framed(2000, seed=11))


@pytest.mark.parametrize(("count", "max_words", "seed"), [(6000, 14, 12), (400, 60, 13), (40, 150, 14)])
def test_random_orders(jar: Jar, meteor: Meteor, count: int, max_words: int, seed: int) -> None:
    _compare(jar, meteor, random_orders(count, seed, max_words))


def test_random_orders_of_paraphrases(jar: Jar, meteor: Meteor) -> None:
    with gzip.open(find_tables() / "data/paraphrase-en.gz", "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    draw = random.Random(15)
    word_sets = []
    for _ in range(600):
        # Adjacent rows of the table share a phrase, so that it has many paraphrases.
        first = draw.randrange(len(lines) // 3 - 3)
        rows = [first, first + 1, first + 2, *(draw.randrange(len(lines) // 3) for _ in range(2))]
        word_sets.append([lines[3 * row + side] for row in rows for side in (1, 2)])
    _compare(jar, meteor, random_orders(6000, seed=16, max_words=8, words=word_sets))


def _odd_lines(count: int, seed: int) -> list[str]:
    return [text for text in odd_strings(count, seed) if not set("\n\r") & set(text) and "|||" not in text]


def test_odd_strings_tokenized_or_not(jar: Jar, meteor: Meteor) -> None:
    odd = _odd_lines(9000, seed=17)
    odd += tokenize(odd)
    groups = [odd[start : start + 3] for start in range(0, len(odd) - 2, 3)]
    _compare(jar, meteor, [(one, [two, three, f"{one} {two}"]) for one, two, three in groups])


def test_normalisation_of_odd_strings() -> None:
    odd = _odd_lines(30_000, seed=18)
    command = ["java", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp", str(find_tables() / "meteor-1.5.jar")]
    done = subprocess.run(
        [*command, "edu.cmu.meteor.util.Normalizer", "en", "true"],
        input="".join(f"{text}\n" for text in odd).encode(),
        capture_output=True,
        check=True,
    )
    lines = done.stdout.decode().split("\n")[:-1]
    prefixes = Tables().prefixes
    ours = [normalise(text, prefixes) for text in odd]
    expected = [
        [word for word in line.lower().replace("\t", " ").replace("\f", " ").split(" ") if word] for line in lines
    ]
    assert [row for row in zip(odd, ours, expected, strict=True) if row[1] != row[2]] == []


STEMS = """
import java.io.*;
public class Stems {
    public static void main(String[] arguments) throws Exception {
        var stemmer = new org.tartarus.snowball.ext.englishStemmer();
        var lines = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        var out = new PrintStream(System.out, false, "UTF-8");
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            stemmer.setCurrent(line);
            stemmer.stem();
            out.println(stemmer.getCurrent());
        }
        out.flush();
    }
}
"""


def test_stems_of_all_table_words_and_random_words(tmp_path: Path) -> None:
    tables = Tables()
    words = {part for word in (*tables._synonyms, *tables._bases) for part in word.split("_") if part}
    draw = random.Random(19)
    endings = """
    s es ed ing ingly edly ly y ies ied ational ization fulness ousli ogi li ative ement ion e l ll 's '
    """.split()  # noqa: SIM905
    for _ in range(50_000):
        begin = "".join(draw.choices("aeiouybcdlnrstgmx'", k=draw.randint(1, 6)))
        words.add(begin + "".join(draw.choices(endings, k=draw.randint(0, 3))))
    listed = sorted(words)
    assert len(listed) > 140_000
    (tmp_path / "Stems.java").write_text(STEMS)
    done = subprocess.run(
        ["java", "-cp", str(find_tables() / "meteor-1.5.jar"), str(tmp_path / "Stems.java")],
        input="".join(f"{word}\n" for word in listed).encode(),
        capture_output=True,
        check=True,
    )
    expected = done.stdout.decode().split("\n")[:-1]
    assert [row for row in zip(listed, map(stem, listed), expected, strict=True) if row[1] != row[2]] == []


def test_the_score_equals_pycocoevalcap(meteor: Meteor, human: dict[str, list[str]]) -> None:
    """The first caption of each image against the other four, with pycocoevalcap's class."""
    with contextlib.redirect_stdout(io.StringIO()):
        from pycocoevalcap.meteor.meteor import Meteor as Theirs
    expected = Theirs()
    hypothesis = {name: captions[:1] for name, captions in human.items()}
    reference = {name: captions[1:] for name, captions in human.items()}
    corpus, scores = expected.compute_score(reference, hypothesis)
    process = expected.meteor_p
    ours = meteor.statistics([texts[0] for texts in hypothesis.values()], list(reference.values()))
    np.testing.assert_allclose(meteor_from_statistics(ours), scores, atol=1e-12, rtol=0)
    assert meteor_from_statistics(ours.sum(0)) == pytest.approx(corpus, abs=1e-12, rel=0)
    del expected  # which ends the process
    process.stdout.close()
    process.stderr.close()
