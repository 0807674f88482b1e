"""Alt text: short, complete, without boilerplate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seesay.captioners.alt_text import MAX_CHARACTERS, alt_text, is_blank

LONG = (
    "A brown dog with a red collar runs across a wide green field in the early morning, "
    "followed by three children and a"
)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a dog runs on grass", "A dog runs on grass."),
        ("a dog runs on grass .", "A dog runs on grass."),
        ("A dog runs on grass...", "A dog runs on grass."),
        ("a dog , a cat 's toy ; it does n't move !", "A dog, a cat's toy; it doesn't move!"),
        ("an image of a dog", "A dog."),
        ("A photo of a dog", "A dog."),
        ("a picture showing two cats", "Two cats."),
        ("picture showing two cats", "Two cats."),
        ("The image shows a dog on grass.", "A dog on grass."),
        ("The image is of a dog.", "A dog."),
        ("This photo depicts Eve.", "Eve."),
        ("In this image, we can see a dog.", "A dog."),
        ("This is an image of a photograph of a dog.", "A dog."),
        ("Alt text: A photograph that captures a dog.", "A dog."),
        ('"A dog on grass."', "A dog on grass."),
        ("**A dog on grass**", "A dog on grass."),
        ("A close-up photo of a bee", "A close-up of a bee."),
        ("close up shot of a bee", "A close-up of a bee."),
        # What these say about the image is not boilerplate.
        ("A black and white photo of a dog", "A black and white photo of a dog."),
        ("a painting of a dog", "A painting of a dog."),
        ("a photo on a wall", "A photo on a wall."),
        ("An image", "An image."),
        ("a photo of", "A photo of."),
        ("A DOG ON GRASS", "A dog on grass."),
        ("NASA", "NASA."),
        ("the iPhone of Eve", "The iPhone of Eve."),
        ("A boy yells: stop!!!", "A boy yells: stop!"),
        ('A sign reads "Stop."', 'A sign reads "Stop."'),
        ("a dog,", "A dog."),
        ("  a\n dog ", "A dog."),
        ("一只狗在草地上", "一只狗在草地上。"),
        ("犬が走る。", "犬が走る。"),
        ("", ""),
        (" .!", ""),
    ],
)
def test_alt_text(caption: str, expected: str) -> None:
    assert alt_text(caption) == expected
    assert alt_text(expected) == expected


def test_a_long_caption_is_cut_after_a_sentence() -> None:
    text = f"A dog runs. Dr. Smith throws a ball. {LONG}."
    assert alt_text(text) == "A dog runs. Dr. Smith throws a ball."
    assert alt_text("一只狗。" * 60) == "一只狗。" * 31


def test_a_long_sentence_is_cut_after_a_word_that_can_end_it() -> None:
    assert len(LONG) < MAX_CHARACTERS < len(f"{LONG} grey cat on a roof")
    assert alt_text(f"{LONG} grey cat on a roof") == f"{LONG} grey cat."
    assert alt_text(f"{LONG} " + "w" * 99) == f"{LONG.removesuffix(' and a')}."
    assert alt_text("x" * 300) == "X" + "x" * 123 + "."
    assert alt_text("狗" * 300) == "狗" * 124 + "。"


@given(st.text(), st.integers(20, 200))
def test_every_text_gives_a_short_text_with_one_end(text: str, limit: int) -> None:
    found = alt_text(text, limit)
    assert len(found) <= limit
    assert found == "" or found.rstrip("\"'”’)")[-1] in ".!?…。！？"
    assert "\n" not in found


def test_blank_images() -> None:
    grey = np.full((20, 30, 3), 128, np.uint8)
    assert is_blank(grey)
    noise = np.random.default_rng(0).integers(-6, 7, grey.shape)
    assert is_blank((grey + noise).astype(np.uint8))
    dot = grey.copy()
    dot[3, 4] = 0
    assert not is_blank(dot)
    gradient = Image.linear_gradient("L").convert("RGB")
    assert not is_blank(np.asarray(gradient))
