"""The tokenizer: cleaning against plain Python, round trips, vocabulary order and files."""

import errno
import json
import pickle
import string
from collections import Counter
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from seesay.config import TextConfig
from seesay.errors import CheckpointError, DataError, SeesayError
from seesay.tokenizer import END_ID, PAD_ID, SPECIALS, START_ID, UNK_ID, Tokenizer

CAPTIONS = ["A dog runs .", "A dog sleeps !", "the cat, and a dog", "two cats"]
EVERYTHING = TextConfig(lowercase=False, filter_characters="")
FLICKR8K = Path(__file__).parents[1] / "../shared/data/flickr8k/Flickr8k.token.txt"

configs = st.builds(
    TextConfig,
    level=st.sampled_from(["word", "character"]),
    lowercase=st.booleans(),
    filter_characters=st.sampled_from(["", TextConfig().filter_characters, "]^-\\[", "é."]),
    min_word_length=st.integers(1, 3),
    drop_numeric=st.booleans(),
    vocabulary_size=st.integers(0, 12),
    min_count=st.just(1),
    max_words=st.integers(0, 6),
)
words = st.text(string.ascii_lowercase, min_size=1, max_size=6)
texts = st.one_of(
    st.lists(words, max_size=8).map(" ".join),
    st.text(max_size=30),
    st.lists(st.sampled_from([*SPECIALS, "<END>", "dog", "a2", "x,y", "\u00a0", "\n"]), max_size=6).map(" ".join),
)


def clean_in_python(caption: str, config: TextConfig) -> str:
    """The cleaning rules in plain Python, for ASCII captions."""
    text = caption.lower() if config.lowercase else caption
    text = text.translate({ord(character): " " for character in config.filter_characters})
    kept = [word for word in text.split() if len(word) >= config.min_word_length]
    return " ".join(word for word in kept if word.isalpha() or not config.drop_numeric)


@given(st.text(string.printable.replace("<", ""), max_size=60), configs)
@settings(max_examples=300)
def test_cleaning_follows_the_rules(caption: str, config: TextConfig) -> None:
    # Python, but not Unicode, treats the four separator control characters as spaces.
    caption = caption.translate(dict.fromkeys(range(0x1C, 0x20), " "))
    tokenizer = Tokenizer.build(["dogs cats"], config)
    assert tokenizer.clean(caption) == clean_in_python(caption, config)


@given(texts, configs)
def test_cleaning_twice_changes_nothing(caption: str, config: TextConfig) -> None:
    tokenizer = Tokenizer.build(["dogs cats"], config)
    once = tokenizer.clean(caption)
    assert tokenizer.clean(once) == once


def test_the_filter_is_taken_literally() -> None:
    every = "]^-\\[a.*\n"
    tokenizer = Tokenizer.build(["zzz"], EVERYTHING.replace(filter_characters=every))
    assert tokenizer.clean("x]x^x-x\\x[xaxbx.x*x") == "x x x x x x xbx x x"


def test_letters_of_every_script_are_letters() -> None:
    tokenizer = Tokenizer.build(["कुत्ता दौड़ता 犬 собака chien2"], TextConfig(drop_numeric=True))
    assert tokenizer.clean("कुत्ता 犬 собака chien2 été") == "कुत्ता 犬 собака été"


def test_composed_and_decomposed_accents_are_one_word() -> None:
    tokenizer = Tokenizer.build(["un café", "un cafe\u0301"], TextConfig())
    assert tokenizer.vocabulary[4:] == ["café", "un"]


def test_words_are_ordered_by_count_then_alphabet() -> None:
    tokenizer = Tokenizer.build(CAPTIONS, TextConfig())
    expected = ["a", "dog", "and", "cat", "cats", "runs", "sleeps", "the", "two"]
    assert tokenizer.vocabulary == [*SPECIALS, *expected]
    assert len(tokenizer) == 13
    assert Tokenizer.build(CAPTIONS[::-1], TextConfig()).vocabulary == tokenizer.vocabulary


def test_size_and_count_limit_the_words_not_the_specials() -> None:
    assert Tokenizer.build(CAPTIONS, TextConfig(vocabulary_size=3)).vocabulary[4:] == ["a", "dog", "and"]
    assert Tokenizer.build(CAPTIONS, TextConfig(min_count=2)).vocabulary[4:] == ["a", "dog"]
    assert len(Tokenizer.build(CAPTIONS, TextConfig(min_count=2, vocabulary_size=1))) == 5


def test_captions_are_truncated_before_the_vocabulary_is_counted() -> None:
    tokenizer = Tokenizer.build(CAPTIONS, TextConfig(max_words=2))
    assert tokenizer.vocabulary[4:] == ["a", "dog", "cat", "cats", "the", "two"]
    tokens = tokenizer.encode("A dog, two cats")
    assert (tokens[0], tokens[-1], tokenizer.decode(tokens)) == (START_ID, END_ID, "a dog")


def test_unknown_words_and_empty_captions() -> None:
    tokenizer = Tokenizer.build(CAPTIONS, TextConfig())
    assert tokenizer.encode("a zebra") == [START_ID, tokenizer.vocabulary.index("a"), UNK_ID, END_ID]
    assert tokenizer.decode(tokenizer.encode("a zebra")) == "a <unk>"
    assert tokenizer.encode("") == tokenizer.encode(" ... ") == [START_ID, END_ID]


def test_decoding_stops_at_the_end_and_skips_padding() -> None:
    tokenizer = Tokenizer.build(CAPTIONS, TextConfig())
    row = [START_ID, 4, PAD_ID, 5, END_ID, 6, PAD_ID]
    assert tokenizer.words(row) == ["a", "dog"]
    assert tokenizer.decode(row[:3]) == "a"
    for wrong in (13, -1):
        with pytest.raises(DataError, match="outside the vocabulary of 13"):
            tokenizer.decode([wrong])


@pytest.mark.parametrize("lowercase", [True, False])
def test_captions_cannot_contain_special_tokens(lowercase: bool) -> None:
    config = EVERYTHING.replace(lowercase=lowercase)
    captions = ["a <end> dog", "<pad> <start> <END> <unk>", "<end>", "<end>s <end>"]
    tokenizer = Tokenizer.build(captions, config)
    for caption in captions:
        tokens = tokenizer.encode(caption)[1:-1]
        assert len(tokens) == len(caption.split())
        assert not {PAD_ID, START_ID, END_ID} & set(tokens)
    assert sorted(tokenizer.vocabulary) == sorted(set(tokenizer.vocabulary))
    assert "<end>s" in tokenizer.vocabulary
    # The default filter removes the brackets and leaves an ordinary word.
    assert (
        Tokenizer.build(["an <end>"], TextConfig()).decode(
            Tokenizer.build(["an <end>"], TextConfig()).encode("an <end>")
        )
        == "an end"
    )


def test_no_unicode_character_creates_a_special_token() -> None:
    """The normalizer and the splitter must agree on the definition of a space."""
    tokenizer = Tokenizer.build(["dog"], EVERYTHING)
    for code in range(0x3100):
        tokens = tokenizer.encode(f"<end>{chr(code)}<start>")[1:-1]
        assert not {PAD_ID, START_ID, END_ID} & set(tokens), hex(code)


@given(st.lists(st.lists(words, min_size=1, max_size=8), min_size=1, max_size=6))
def test_known_words_are_restored(captions: list[list[str]]) -> None:
    texts = [" ".join(caption) for caption in captions]
    tokenizer = Tokenizer.build(texts, TextConfig())
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts
    assert tokenizer.oov_rate(texts) == 0
    counts = Counter(word for caption in captions for word in caption)
    assert tokenizer.vocabulary[4:] == sorted(counts, key=lambda word: (-counts[word], word))


@given(st.lists(texts, min_size=1, max_size=5), st.booleans())
def test_characters_and_spaces_are_restored(captions: list[str], lowercase: bool) -> None:
    config = EVERYTHING.replace(level="character", lowercase=lowercase)
    tokenizer = Tokenizer.build([*captions, "x"], config)
    for caption in captions:
        tokens = tokenizer.encode(caption)
        assert tokenizer.decode(tokens) == tokenizer.clean(caption)
        assert len(tokens) == len(tokenizer.clean(caption)) + 2
    assert all(len(character) == 1 for character in tokenizer.vocabulary[4:])


@given(st.lists(texts, max_size=5), texts, configs)
@settings(deadline=None)
def test_ids_are_in_range_between_one_start_and_one_end(captions: list[str], other: str, config: TextConfig) -> None:
    tokenizer = Tokenizer.build([*captions, "dogs cats"], config.replace(max_words=0))
    for caption in (*captions, other):
        tokens = tokenizer.encode(caption)
        assert (tokens[0], tokens[-1]) == (START_ID, END_ID)
        assert all(UNK_ID <= token < len(tokenizer) for token in tokens[1:-1])
        if config.level == "word":
            # Not split(): Python, but not Unicode, treats four control characters as spaces.
            cleaned = tokenizer.clean(caption)
            assert len(tokens) - 2 == (cleaned.count(" ") + 1 if cleaned else 0)


@given(st.lists(texts, max_size=4), configs)
@settings(deadline=None, max_examples=60)
def test_a_saved_tokenizer_is_restored(
    tmp_path_factory: pytest.TempPathFactory, captions: list[str], config: TextConfig
) -> None:
    path = tmp_path_factory.mktemp("run") / "tokenizer.json"
    tokenizer = Tokenizer.build([*captions, "dogs cats"], config)
    tokenizer.save(path)
    loaded = Tokenizer.load(path)
    assert loaded.config == config
    assert loaded.vocabulary == tokenizer.vocabulary
    for caption in (*captions, "dogs <end> and zebras"):
        assert loaded.encode(caption) == tokenizer.encode(caption)
        assert loaded.clean(caption) == tokenizer.clean(caption)
    assert [file.name for file in path.parent.iterdir()] == ["tokenizer.json"]
    loaded.save(path.with_name("again.json"))
    assert path.with_name("again.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("level", ["word", "character"])
def test_the_file_is_in_the_format_of_the_tokenizers_library(tmp_path: Path, level: str) -> None:
    """The tokenizers library alone gives the same ids and texts."""
    config = TextConfig(level="character" if level == "character" else "word", max_words=5)
    tokenizer = Tokenizer.build(CAPTIONS, config)
    tokenizer.save(tmp_path / "tokenizer.json")
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for caption in (*CAPTIONS, "A zebra, and 7 Dogs run"):
        tokens = tokenizer.encode(caption)
        assert library.encode(caption).ids == tokens
        assert library.decode(tokens[1:-1]) == tokenizer.decode(tokens)


def test_a_tokenizer_can_be_pickled() -> None:
    tokenizer = Tokenizer.build(CAPTIONS, TextConfig())
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("a dog") == tokenizer.encode("a dog")


def damaged_files() -> dict[str, str]:
    path = {"model": {"seesay_text": {"level": "word"}}}
    return {
        "empty": "",
        "text": "a dog",
        "list": "[]",
        "of another program": json.dumps({"model": {"type": "WordLevel", "vocab": {}, "unk_token": "<unk>"}}),
        "without a model": json.dumps(path),
        "unknown rule": json.dumps({"model": {"seesay_text": {"stemming": True}}}),
    }


@pytest.mark.parametrize("name", damaged_files())
def test_a_damaged_file_is_a_checkpoint_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(damaged_files()[name])
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_missing_or_renumbered_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(CheckpointError, match="no such file"):
        Tokenizer.load(path)
    with pytest.raises(CheckpointError):
        Tokenizer.load(tmp_path)
    Tokenizer.build(CAPTIONS, TextConfig()).save(path)
    complete = path.read_text()
    for change in (
        complete[: len(complete) // 2],
        complete.replace('"dog": 5', '"dog": 77'),
        complete.replace("<pad>", "dig"),
    ):
        assert change != complete
        path.write_text(change)
        with pytest.raises(CheckpointError, match="damaged"):
            Tokenizer.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="damaged"):
        Tokenizer.load(path)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer.build(CAPTIONS, TextConfig()).save(path)
    before = path.read_bytes()

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(SeesayError, match=r"cannot write .*tokenizer\.json \(No space left on device\)"):
        Tokenizer.build(["other words"], TextConfig()).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("captions", [[], ["", " . "], ["a b"]])
def test_an_empty_vocabulary_is_a_data_error(captions: list[str]) -> None:
    with pytest.raises(DataError, match="no word remains for the vocabulary"):
        Tokenizer.build(captions, TextConfig(min_count=2))


def test_oov_rate_is_a_share_of_occurrences() -> None:
    tokenizer = Tokenizer.build(CAPTIONS, TextConfig(max_words=3))
    assert tokenizer.oov_rate(["a dog zebra zebra", "Zebra!"]) == pytest.approx(3 / 5)
    assert tokenizer.oov_rate([]) == tokenizer.oov_rate([" . "]) == 0


def test_a_lone_surrogate_from_json_is_a_question_mark() -> None:
    tokenizer = Tokenizer.build([json.loads(r'"a dog \ud83d"')], EVERYTHING)
    assert tokenizer.decode(tokenizer.encode("a dog \ud83d")) == "a dog ?"


@pytest.mark.skipif(not FLICKR8K.exists(), reason="requires Flickr8k beside the repository")
def test_the_flickr8k_vocabulary_equals_plain_python() -> None:
    captions = [line.partition("\t")[2] for line in FLICKR8K.read_text(encoding="utf-8").splitlines()]
    tokenizer = Tokenizer.build(captions, TextConfig(vocabulary_size=5000))
    counts = Counter(word for text in captions for word in clean_in_python(text, TextConfig()).split())
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    assert tokenizer.vocabulary[4:] == ordered[:5000]
    missing = sum(counts[word] for word in ordered[5000:]) / counts.total()
    assert tokenizer.oov_rate(captions) == pytest.approx(missing)
