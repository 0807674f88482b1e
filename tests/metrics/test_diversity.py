import pytest

from seesay.errors import DataError
from seesay.metrics.diversity import absent_objects, diagnose, has_repeat, measure_diversity
from tests.foreign import CAPTIONS


def test_statistics_of_a_small_set() -> None:
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
    assert found.in_training == 2 / 4
    assert found.truncated == found.repeats == found.unknown == 1 / 4
    assert found.empty == 0
    assert (found.most_frequent, found.most_frequent_share) == ("A dog runs.", 2 / 4)


def test_without_training_captions_in_training_is_none() -> None:
    assert measure_diversity(["a dog"]).in_training is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [("a dog dog", True), ("on a on a", True), ("a man on a", False), ("", False), ("a b c a b c", False)],
)
def test_only_immediate_repeats_count(words: str, expected: bool) -> None:
    assert has_repeat(words.split()) is expected


def test_no_captions_is_an_error() -> None:
    with pytest.raises(DataError, match="no captions"):
        measure_diversity([])


def test_absent_objects_are_returned() -> None:
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


def test_diagnosis_of_one_caption_for_all_images() -> None:
    line = diagnose(measure_diversity(["a man in a red shirt"] * 30))
    assert '100% of the images have the caption "a man in a red shirt"' in line
    assert "learning rate" in line


def test_no_diagnosis_of_varied_captions_and_of_a_single_image() -> None:
    assert diagnose(measure_diversity([f"a dog with {number} balls" for number in range(40)])) == ""
    assert diagnose(measure_diversity(["a dog runs"])) == ""


def test_finished_captions_are_not_attributed_to_max_length() -> None:
    """Bug: max_length was reported as too small for an undertrained model with captions of 5 words and a limit of
    24."""
    captions = [f"a man {number} on a" for number in range(30)]
    line = diagnose(measure_diversity(captions, finished=[True] * 30))
    assert "100% of the captions end in a function word, although they did not reach the maximum length" in line
    assert "too little training" in line
    assert "max_length" not in line
    line = diagnose(measure_diversity(captions, finished=[False] * 15 + [True] * 15))
    assert "and 50% reached the maximum length: captions are truncated" in line
    assert "max_length is too small" in line


def test_captions_that_repeat_words_up_to_the_limit_are_diagnosed_as_repeats() -> None:
    """A limit reached by repeating a word is not too small."""
    line = diagnose(measure_diversity([f"group {number} a a a a" for number in range(30)], finished=[False] * 30))
    assert "repeat a word" in line
    assert "max_length" not in line


def test_without_finished_captions_of_equal_length_count_as_truncated() -> None:
    same = diagnose(measure_diversity([f"a man {number} on a" for number in range(30)]))
    assert "and 100% are as long as the longest: captions are truncated" in same
    different = diagnose(measure_diversity([f"a man {'very ' * number} {number} on a" for number in range(30)]))
    assert "max_length" not in different


def test_diagnosis_of_truncated_repeated_and_empty_captions() -> None:
    assert "truncated" in diagnose(measure_diversity([f"a man {number} on a" for number in range(30)]))
    assert "repeat a word" in diagnose(measure_diversity([f"a man man {number}" for number in range(30)]))
    assert "empty" in diagnose(measure_diversity(["", "", "a dog"]))


def test_endings_of_another_language_do_not_count_as_truncated() -> None:
    """German sentences may end in "an" and "in", which are English function words."""
    captions = ["ein Mann zieht die Jacke an", "eine Frau und der Hund sehen das Bild an", "der Junge hat den Ball in"]
    assert measure_diversity(captions).truncated is None
    assert measure_diversity([*(text for image in CAPTIONS["en"] for text in image), "a man in a"]).truncated == 1 / 13
