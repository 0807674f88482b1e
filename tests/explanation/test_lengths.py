import io

import pytest
from PIL import Image

from seesay.errors import DataError
from seesay.explanation import draw_score_against_length


def test_the_image_depends_on_scores_and_lengths() -> None:
    first = draw_score_against_length([3, 3, 5, 9], [0.1, 0.3, 0.5, 0.2], "CIDEr")
    assert Image.open(io.BytesIO(first)).size[0] > 600
    assert draw_score_against_length([3, 3, 5, 9], [0.1, 0.3, 0.5, 0.2], "CIDEr") == first
    assert draw_score_against_length([3, 3, 5, 9], [0.1, 0.3, 0.9, 0.2], "CIDEr") != first
    assert draw_score_against_length([3, 4, 5, 9], [0.1, 0.3, 0.5, 0.2], "CIDEr") != first


def test_one_caption_can_be_drawn() -> None:
    assert Image.open(io.BytesIO(draw_score_against_length([0], [0.0], "x"))).format == "PNG"


@pytest.mark.parametrize(("words", "scores"), [([], []), ([1, 2], [0.5])])
def test_lists_of_different_lengths_are_refused(words: list[int], scores: list[float]) -> None:
    with pytest.raises(DataError, match="pass one of each per caption"):
        draw_score_against_length(words, scores, "x")
