import json
from pathlib import Path

import pytest

from seesay.metrics import ptb
from seesay.metrics.tokenize import tokenize
from tests.metrics.fuzz import long_lines, odd_strings

EXPECTED = json.loads((Path(__file__).parent / "ptb_expected.json").read_text(encoding="utf-8"))


def test_stored_output_of_the_java_tokenizer_is_reproduced() -> None:
    """Sentences of ours and odd strings, with what coco-caption's PTBTokenizer made of them under Java."""
    captions, expected = zip(*EXPECTED, strict=True)
    assert len(captions) > 400
    different = [(c, e, t) for c, e, t in zip(captions, expected, tokenize(captions), strict=True) if e != t]
    assert not different


def test_brackets_stay_as_in_published_scores() -> None:
    """coco-caption means to remove -LRB- but its tokenizer writes -lrb-."""
    assert tokenize(["A (big) dog."]) == ["a -lrb- big -rrb- dog"]


def test_raw_tokens_keep_punctuation() -> None:
    assert ptb.tokenize('He said "no", I can\'t!') == [
        "he",
        "said",
        "``",
        "no",
        "''",
        ",",
        "i",
        "ca",
        "n't",
        "!",
    ]


def test_cutting_word_by_word_equals_scanning_the_line() -> None:
    """The shortcut for lines whose words do not depend on each other gives what the full scan gives."""
    for text in odd_strings(3000, seed=9):
        line = " ".join(text.split("\n"))
        assert ptb.tokenize(line) == ptb._scan(line)


def test_tokenizing_tokens_again_changes_nothing_for_plain_captions() -> None:
    once = tokenize(["A man's dog, which isn't his, runs!", "Two girls play in the sand."])
    assert tokenize(once) == once


@pytest.mark.parametrize("line", long_lines(), ids=lambda line: line[:6])
def test_long_lines_lose_no_letter(line: str) -> None:
    kept = "".join(tokenize([line])[0].split())
    assert sum(map(str.isalpha, kept)) >= sum(map(str.isalpha, line)) * ("&" not in line)


def test_line_breaks_inside_a_caption_are_spaces() -> None:
    assert tokenize(["a dog\nruns\r\nfast\u2028now"]) == ["a dog runs fast now"]
