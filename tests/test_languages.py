import pytest

from seesay.languages import is_latin, is_right_to_left, is_unspaced, language_of
from tests.foreign import CAPTIONS, WITHOUT_SPACES


@pytest.mark.parametrize("language", CAPTIONS)
def test_language_of_captions(language: str) -> None:
    captions = [text for image in CAPTIONS[language] for text in image]
    assert language_of(captions) == language
    assert is_latin(language) == (language in ("de", "en"))
    assert is_unspaced(captions) == (language in WITHOUT_SPACES)
    assert {is_right_to_left(text) for text in captions} == {language == "ar"}


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("갈색 개가 풀밭 위를 달리고 있다.", "ko"),
        ("כלב חום רץ על הדשא", "he"),
        ("एक भूरा कुत्ता घास पर दौड़ रहा है", "hi"),
        ("Коричневая собака бежит по траве.", "und-Cyrl"),
        ("東京タワーの夜景", "ja"),
        ("Un chien dort sur le lit", "fr"),
        ("red beside green", ""),
        ("0 0.51 0.43", ""),
        ("🐶", ""),
        ("", ""),
    ],
)
def test_language_of_one_caption(text: str, language: str) -> None:
    assert language_of([text]) == language


def test_segmented_text_has_words() -> None:
    """Segmented text, as in some data sets, does not require character tokens."""
    assert not is_unspaced(["一只 棕色 的 狗 在 草地 上 奔跑", "两个 男人 在 街上 骑 自行车"])
    assert not is_unspaced(["茶色い 犬 が 草 の 上 を 走って いる 。"])
    assert not is_unspaced(["สุนัข สี น้ำตาล กำลัง วิ่ง อยู่ บน หญ้า"])
    assert not is_unspaced([])


def test_a_name_in_another_script_is_ignored() -> None:
    assert not is_unspaced(["a sign that reads 北京大学 in red", "a dog"])
    assert language_of(["a sign that reads 北京大学 and a man with a red hat"]) == "en"
    assert not is_right_to_left("a sign that reads كلب in red")
