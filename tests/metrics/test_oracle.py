"""Extensive comparison with pycocoevalcap and its jars."""

import contextlib
import io
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from seesay.metrics import compute_metrics
from seesay.metrics.tokenize import PUNCTUATION, tokenize
from tests.metrics.fuzz import long_lines, odd_strings
from tests.metrics.reference import reference_scores
from tests.metrics.test_scores import SHARED, _flickr_test
from tests.metrics.tokenizer_fuzz import differences, realistic_strings

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(shutil.which("java") is None, reason="needs Java"),
]

SEPARATOR = "zzseparator"


def java_tokens(captions: Sequence[str]) -> list[str]:
    """Returns coco-caption's tokens of captions: the output of its jar without punctuation.

    A separator line after each caption handles captions with characters that Java treats as line breaks.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        from pycocoevalcap.tokenizer import ptbtokenizer
    folder = Path(ptbtokenizer.__file__).parent
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "captions.txt"
        path.write_text("".join(f"{text}\n{SEPARATOR}\n" for text in captions), encoding="utf-8", newline="")
        jar = folder / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
        tokenizer = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines"]
        done = subprocess.run([*tokenizer, "-lowerCase", str(path)], capture_output=True, check=True)
    assert set(ptbtokenizer.PUNCTUATIONS) - PUNCTUATION == {"-LRB-", "-RRB-", "-LCB-", "-RCB-"}
    found: list[str] = []
    lines: list[str] = []
    for line in done.stdout.decode("utf-8").split("\n"):
        if line == SEPARATOR:
            words = " ".join(lines).rstrip().split(" ")
            found.append(" ".join(word for word in words if word not in PUNCTUATION))
            lines = []
        else:
            lines.append(line)
    assert len(found) == len(captions)
    return found


def _differences(captions: Sequence[str]) -> list[tuple[str, str, str]]:
    rows = zip(captions, java_tokens(captions), tokenize(captions), strict=True)
    return [row for row in rows if row[1] != row[2]]


def test_tokens_of_flickr8k_equal_the_jar() -> None:
    path = SHARED / "flickr8k/Flickr8k.token.txt"
    if not path.exists():
        pytest.skip("Flickr8k is not next to the repository")
    captions = [line.split("\t", 1)[1] for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(captions) >= 40_455
    assert not _differences(captions)


def test_tokens_of_the_coco_sample_equal_the_jar() -> None:
    path = SHARED / "coco-val159/captions_val2017.json"
    if not path.exists():
        pytest.skip("the COCO sample is not next to the repository")
    annotations = json.loads(path.read_text(encoding="utf-8"))["annotations"]
    captions = [annotation["caption"].replace("\n", " ") for annotation in annotations]
    assert len(captions) == 795
    assert not _differences(captions)


def test_tokens_of_random_strings_equal_the_jar() -> None:
    assert not _differences(odd_strings(30_000, seed=3))


@pytest.mark.skipif(shutil.which("javac") is None, reason="needs a JDK")
def test_tokens_of_realistic_strings_equal_the_jar() -> None:
    different, _ = differences(list(realistic_strings(20_000, seed=5)))
    assert not different


def test_tokens_of_long_lines_equal_the_jar() -> None:
    assert not _differences(long_lines())


def test_scores_of_human_captions_equal_pycocoevalcap() -> None:
    hypotheses, references = _flickr_test()
    ours = compute_metrics(hypotheses, references)
    flat = iter(java_tokens([text for image in references for text in image]))
    tokens = [[next(flat) for _ in image] for image in references]
    corpus, per_image = reference_scores(java_tokens(hypotheses), tokens)
    for name, value in corpus.items():
        assert ours.corpus[name] == pytest.approx(value, abs=1e-9, rel=0), name
        np.testing.assert_allclose(ours.per_image[name], per_image[name], atol=1e-9, rtol=0, err_msg=name)
