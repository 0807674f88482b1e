import math
from collections import Counter

import numpy as np
import pytest

from seesay.data.batches import Example
from seesay.tokenizer import END_ID, START_ID, UNK_ID
from seesay.training.rewards import CaptionReward
from tests.metrics.reference import random_captions, reference_scores


def examples(references: list[list[list[int]]]) -> list[Example]:
    return [
        Example(f"p{place}", "", tuple((START_ID, *caption, END_ID) for caption in captions))
        for place, captions in enumerate(references)
    ]


def padded(captions: list[list[list[int]]]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    width = max(len(caption) for of_image in captions for caption in of_image)
    rows = [[caption + [0] * (width - len(caption)) for caption in of_image] for of_image in captions]
    return np.array(rows, np.int64)


def test_reward_equals_the_reference_cider_with_end_tokens() -> None:
    hypotheses, references = random_captions(40, seed=5)
    words = sorted(
        {word for text in [*hypotheses, *(r for image in references for r in image)] for word in text.split()}
    )
    number = {word: 4 + place for place, word in enumerate(words)}

    def ids(text: str) -> list[int]:
        return [number[word] for word in text.split()]

    reward = CaptionReward(examples([[ids(text) for text in image] for image in references]))
    order = np.random.default_rng(0).permutation(40)
    captions = padded([[[*ids(hypotheses[place]), END_ID]] for place in order])
    found = reward([f"p{place}" for place in order], captions)
    ended = [[f"{text} zzend" for text in image] for image in references]
    _, wanted = reference_scores([f"{text} zzend" for text in hypotheses], ended)
    np.testing.assert_allclose(found[:, 0], wanted["CIDEr"][order], atol=1e-9, rtol=0)
    _, without = reference_scores(hypotheses, references)
    assert np.abs(without["CIDEr"] - wanted["CIDEr"]).max() > 0.01


def test_an_incomplete_caption_has_a_lower_reward_than_a_complete_one() -> None:
    reward = CaptionReward(examples([[[4, 5, 6, 7]], [[8, 9]], [[10, 11, 9]]]))
    whole, cut, broken, early = reward(
        ["p0"], padded([[[4, 5, 6, 7, END_ID], [4, 5, 6, 7], [4, 5, 6], [4, 5, 6, END_ID]]])
    )[0]
    assert whole == pytest.approx(10)
    assert whole > cut > broken
    assert early < whole


def test_unknown_tokens_of_references_count_as_words() -> None:
    known = CaptionReward(examples([[[4, 5, 6]], [[7, 8]], [[9]]]))
    unknown = CaptionReward(examples([[[4, 5, 6, UNK_ID]], [[7, 8]], [[9]]]))
    caption = padded([[[4, 5, 6, END_ID]]])
    assert known(["p0"], caption)[0, 0] > unknown(["p0"], caption)[0, 0] > 0


def test_samples_are_scored_against_their_own_image() -> None:
    reward = CaptionReward(examples([[[4, 5]], [[6, 7]], [[8, 9]]]))
    found = reward(["p1", "p0"], padded([[[6, 7, 2], [4, 5, 2]], [[6, 7, 2], [4, 5, 2]]]))
    assert found[0, 0] == found[1, 1] > 5 > found[0, 1] == found[1, 0]


def plain_bleu(references: list[list[int]], caption: list[int]) -> float:
    """Sentence BLEU-4 in plain loops, with 1 added to matches and n-grams of the orders above 1."""
    product = 1.0
    for order in range(1, 5):
        grams = [Counter(zip(*(each[skip:] for skip in range(order)), strict=False)) for each in [caption, *references]]
        matched = sum(min(count, max(each[gram] for each in grams[1:])) for gram, count in grams[0].items())
        added = int(order > 1)
        product *= (matched + added) / (max(0, len(caption) - order + 1) + added)
    closest = min((abs(len(each) - len(caption)), len(each)) for each in references)[1]
    return math.exp(min(0.0, 1 - closest / len(caption))) * math.sqrt(math.sqrt(product))


def test_the_bleu_part_equals_plain_loops() -> None:
    rng = np.random.default_rng(3)
    references = [[rng.integers(4, 9, rng.integers(3, 9)).tolist() for _ in range(1 + place)] for place in range(5)]
    sampled = [[[*rng.integers(4, 9, rng.integers(2, 9)).tolist(), END_ID] for _ in range(2)] for _ in range(5)]
    names = [f"p{place}" for place in (3, 1, 4, 0, 2)]
    captions = padded(sampled)
    both, cider = (CaptionReward(examples(references), weight)(names, captions) for weight in (0.5, 0.0))
    wanted = [
        [plain_bleu([[*each, END_ID] for each in references[int(name[1:])]], caption) for caption in of_image]
        for name, of_image in zip(names, sampled, strict=True)
    ]
    np.testing.assert_allclose(both - cider, 5 * np.array(wanted), atol=1e-6)
    assert 0 < np.min(wanted) < np.max(wanted)
