import json
from pathlib import Path

import pytest

from seesay.metrics import ptb
from seesay.metrics.tokenize import tokenize
from tests.metrics.fuzz import long_lines, odd_strings

EXPECTED = json.loads((Path(__file__).parent / "ptb_expected.json").read_text(encoding="utf-8"))

# Captions that were once tokenized differently from the Java tokenizer, with its tokens.
FIXED: dict[str, tuple[tuple[str, str], ...]] = {
    "these_and_they_start_sentences": (
        ("panel B. These are", "panel b these are"),
        ("Plan A. They left", "plan a they left"),
        ("model C. ThEy ran", "model c they ran"),
        ("panel B.\u2003These are", "panel b these are"),
        ("panel B.\t These are", "panel b these are"),
    ),
    "entities_in_capitals": (
        ("FISH &AMP; CHIPS", "fish & chips"),
        ("R&AMP;B", "r&b"),
        ("AT&Amp;T", "at&t"),
        ("S&AMP;P-500", "s&p-500"),
        ("A&NBSP;B", "a&nbsp b"),
        ("5 &LT; 6 &GT; 4", "5 < 6 > 4"),
        ("A &Mdash; B", "a b"),
        ("IT&APOS;S", "it &apos;s"),
        ("&QUOT;YES&QUOT;", "&quot; yes&quot"),
        ("CAF&EACUTE; NO&UML;L &EUML;", "caf&eacute; no&uml l &euml;"),
        ("&LT;me@x.org&GT;", "&lt;me@x.org&gt;"),
    ),
    "left_quote_as_apostrophe": (
        ("don\u2018t", "do n`t"),
        ("DON\u201bT go", "do n`t go"),
        ("isn\x91t", "is n`t"),
    ),
    "c_plus_plus": (
        ("c++ code", "c++ code"),
        ("a C++ book", "a c++ book"),
    ),
    "abbreviations_of_titles_and_states": (
        ("Insp. Morse", "insp. morse"),
        ("Msgr. Kelly", "msgr. kelly"),
        ("Kans. road", "kans. road"),
        ("KANS.x", "kans. x"),
        ("Univ.x", "univ. x"),
        ("Dept.x", "dept.x"),
        ("Natl.x", "natl.x"),
        ("MISs. Daisy", "miss. daisy"),
        ("pTe. Ltd", "pte. ltd"),
        ("X PTY. Limited, Y PTE. ltd, Z PTY.", "x pty. limited y pte. ltd z pty"),
        ("Mtg. Co", "mtg. co"),
    ),
    "treaties_before_a_space": (
        ("Sino-U.S trade", "sino-u.s trade"),
        ("U.S.-U.K talks", "u.s.-u.k talks"),
        ("U.S.-U.K. x", "u.s.-u.k. x"),
        ("x-Sino-U.S. y", "x-sino-u.s. y"),
    ),
    "tag_with_a_space_after_its_slash": (
        ("<br/ >x", "<br/\xa0> x"),
        ("plan B. <img src='a b'> x", "plan b <img\xa0src='a\xa0b'> x"),
        ("plan B. <!-- x> y", "plan b <!--\xa0x> y"),
    ),
    "soft_hyphens": (
        ("5\xadM-1", "5m-1"),
        ("don\xadn't", "donn t"),
        ("long\xad-\xadterm", "long-term"),
        ("a\xad.jpg x", "a\xad.jpg x"),
        ("\xad0.h x", "\xad0.h x"),
    ),
    "smileys_of_three": (
        ("(^_^) (^_.^) (>->) (^-^)", "-lrb-^_^-rrb- -lrb- ^ _ ^ -rrb- -lrb->->-rrb- -lrb-^-^-rrb-"),
        ("x.[^x= a b <>] y", "x.[^x= a b <>] y"),
        ("=.[^x=\xad<>]", "=.[^x=\xad<>]"),
    ),
    "letters_that_fold_to_ascii": (
        ("\u212ay. roads", "ky. roads"),
        ("\u017fq. feet", "\u017fq. feet"),
        ("w\u0131s. dells", "w\u0131s. dells"),
        ("'30\u017f", "'30\u017f"),
    ),
    "spaces_of_two_kinds": (
        ("see \xa0foo.com/x", "see foo.com / x"),
        ("a\t \xa0b.org", "a b.org"),
        ("run\u2003\xa0x.com", "run\u2003\xa0x.com"),
    ),
    "space_at_the_end_of_an_address": (
        ("mail t@x\u2003", "mail t@x"),
        ("www.foo.com/a\xa0", "www.foo.com/a"),
        ("mail t@x\u2003 now", "mail t@x\u2003 now"),
    ),
    "wide_at_sign": (
        ("cup\uff20home", "cup \uff20 home"),
        ("mai\uff20n.py", "mai \uff20 n.py"),
    ),
}


@pytest.mark.parametrize("case", FIXED)
def test_fixed_differences_to_the_jar(case: str) -> None:
    captions, expected = zip(*FIXED[case], strict=True)
    assert tokenize(captions) == list(expected)


def test_equals_the_stored_output_of_the_java_tokenizer() -> None:
    """Sentences and random strings with the output of coco-caption's PTBTokenizer."""
    captions, expected = zip(*EXPECTED, strict=True)
    assert len(captions) > 400
    different = [(c, e, t) for c, e, t in zip(captions, expected, tokenize(captions), strict=True) if e != t]
    assert not different


def test_brackets_are_kept_as_in_published_scores() -> None:
    """coco-caption intends to remove -LRB-, but its tokenizer outputs -lrb-."""
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


def test_word_by_word_tokenization_equals_a_full_scan() -> None:
    """The fast path for lines with independent words equals the full scan."""
    for text in odd_strings(3000, seed=9):
        line = " ".join(text.split("\n"))
        assert ptb.tokenize(line) == ptb._scan(line)


def test_tokenization_of_plain_captions_is_idempotent() -> None:
    once = tokenize(["A man's dog, which isn't his, runs!", "Two girls play in the sand."])
    assert tokenize(once) == once


@pytest.mark.parametrize("line", long_lines(), ids=lambda line: line[:6])
def test_long_lines_keep_all_letters(line: str) -> None:
    kept = "".join(tokenize([line])[0].split())
    assert sum(map(str.isalpha, kept)) >= sum(map(str.isalpha, line)) * ("&" not in line)


def test_line_breaks_inside_a_caption_are_spaces() -> None:
    assert tokenize(["a dog\nruns\r\nfast\u2028now"]) == ["a dog runs fast now"]


def test_tokens_do_not_depend_on_the_next_caption() -> None:
    """The jar, which reads all captions as one text, drops the period if the next line starts with "The"."""
    assert tokenize(["vitamin C.", "The dog"]) == ["vitamin c.", "the dog"]
