import pytest

from seesay.errors import DataError
from seesay.metrics.diversity import absent_objects, has_repeat, measure_diversity, verdict
from tests.foreign import CAPTIONS


def test_counts_on_a_set_small_enough_to_count_by_hand() -> None:
    found = measure_diversity(
        ["A dog runs.", "a dog runs", "two dogs dogs on a", "a <unk> sits"], training=["A dog runs!", "a cat"]
    )
    # Words: a dog runs | a dog runs | two dogs dogs on a | a <unk> sits
    assert found.captions == 4
    assert found.unique == 3 / 4
    assert found.vocabulary == len({"a", "dog", "runs", "two", "dogs", "on", "<unk>", "sits"})
    assert found.distinct_1 == 8 / 14
    assert found.distinct_2 == 8 / 10
    assert found.mean_length == 14 / 4
    assert found.seen == 2 / 4
    assert found.cut == found.repeats == found.unknown == 1 / 4
    assert found.empty == 0
    assert (found.commonest, found.commonest_share) == ("A dog runs.", 2 / 4)


def test_without_training_captions_nothing_is_said_about_them() -> None:
    assert measure_diversity(["a dog"]).seen is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [("a dog dog", True), ("on a on a", True), ("a man on a", False), ("", False), ("a b c a b c", False)],
)
def test_only_immediate_repeats_count(words: str, expected: bool) -> None:
    assert has_repeat(words.split()) is expected


def test_no_captions_is_an_error() -> None:
    with pytest.raises(DataError, match="no captions"):
        measure_diversity([])


def test_objects_that_are_not_there_are_named() -> None:
    captions = ["A red ball near two boxes.", "a traffic light and a ball", "people on a bench"]
    labels = [["ball", "box"], ["traffic light"], []]
    assert absent_objects(captions, labels, vocabulary=["ball", "box", "bench", "traffic light"]) == [
        [],
        ["ball"],
        ["bench"],
    ]


def test_objects_need_the_labels_of_every_image() -> None:
    with pytest.raises(DataError, match="2 captions but labels of 1"):
        absent_objects(["a", "b"], [["dog"]])


def test_verdict_names_a_model_that_always_says_the_same() -> None:
    line = verdict(measure_diversity(["a man in a red shirt"] * 30))
    assert '"a man in a red shirt" for 100% of the images' in line
    assert "learning rate" in line


def test_verdict_is_silent_on_varied_captions_and_on_a_single_image() -> None:
    assert verdict(measure_diversity([f"a dog with {number} balls" for number in range(40)])) == ""
    assert verdict(measure_diversity(["a dog runs"])) == ""


def test_captions_that_ended_by_themselves_are_not_said_to_be_cut_by_max_length() -> None:
    """An undertrained model with captions of 5 words and a limit of 24 was told that max_length is too small."""
    captions = [f"a man {number} on a" for number in range(30)]
    line = verdict(measure_diversity(captions, finished=[True] * 30))
    assert "100% of the captions end in a function word, although they are not cut" in line
    assert "too little training" in line
    assert "max_length" not in line
    line = verdict(measure_diversity(captions, finished=[False] * 15 + [True] * 15))
    assert "and 50% reached the maximum length: sentences are cut" in line
    assert "max_length is too small" in line


def test_captions_that_repeat_words_up_to_the_limit_are_said_to_repeat() -> None:
    """A limit that is reached by repeating a word is not too small."""
    line = verdict(measure_diversity([f"group {number} a a a a" for number in range(30)], finished=[False] * 30))
    assert "twice in a row" in line
    assert "max_length" not in line


def test_without_their_ends_captions_of_one_length_count_as_cut_and_others_do_not() -> None:
    same = verdict(measure_diversity([f"a man {number} on a" for number in range(30)]))
    assert "and 100% are as long as the longest: sentences are cut" in same
    different = verdict(measure_diversity([f"a man {'very ' * number} {number} on a" for number in range(30)]))
    assert "max_length" not in different


def test_verdict_names_cut_repeated_and_empty_captions() -> None:
    assert "cut" in verdict(measure_diversity([f"a man {number} on a" for number in range(30)]))
    assert "twice in a row" in verdict(measure_diversity([f"a man man {number}" for number in range(30)]))
    assert "empty" in verdict(measure_diversity(["", "", "a dog"]))


def test_endings_of_another_language_are_not_taken_for_cut_sentences() -> None:
    """German verbs end in "an" and "in"; English function words say nothing of them."""
    captions = ["ein Mann zieht die Jacke an", "eine Frau und der Hund sehen das Bild an", "der Junge hat den Ball in"]
    assert measure_diversity(captions).cut is None
    assert measure_diversity([*(text for image in CAPTIONS["en"] for text in image), "a man in a"]).cut == 1 / 13
