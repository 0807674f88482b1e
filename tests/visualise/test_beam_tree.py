import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from seesay.decoding import DecodingOptions, SearchTrace
from seesay.errors import DataError
from seesay.tokenizer import END_ID
from seesay.visualise.beam_tree import NOT_HERE, draw_beam_tree, way_to
from tests.decoding.oracles import TableDecoder, decode, numbered

OPTIONS = DecodingOptions("beam", 3, 6)


def traced(options: DecodingOptions, images: int = 3) -> tuple[TableDecoder, SearchTrace, list[tuple[int, ...]]]:
    decoder, trace = TableDecoder(0, words=5), SearchTrace()
    found = decode(decoder, numbered(range(images)), None, options, trace=trace)
    return decoder, trace, [hypotheses[0].tokens for hypotheses in found]


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS,
        DecodingOptions("beam", 4, 6, num_beam_groups=2),
        DecodingOptions("greedy", max_length=6, num_return_sequences=2),
        DecodingOptions("sample", max_length=6),
    ],
)
def test_the_trace_is_the_search(options: DecodingOptions) -> None:
    decoder, trace, captions = traced(options)
    for image, caption in enumerate(captions):
        candidates = trace.images[image]
        ends = []
        for candidate in candidates:
            words: list[int] = []
            parent = candidate.parent
            while parent >= 0:
                assert candidates[parent].kept
                words.insert(0, candidates[parent].token)
                parent = candidates[parent].parent
            assert len(words) == candidate.step
            assert candidate.log_prob == pytest.approx(decoder.log_probs(image, words)[candidate.token])
            total = sum(decoder.log_probs(image, words[:at])[word] for at, word in enumerate(words))
            assert candidate.total == pytest.approx(total + candidate.log_prob)
            assert candidate.ended is (candidate.token == END_ID)
            assert not candidate.forced or candidate.step == options.max_length
            if candidate.ended and candidate.kept:
                ends.append(tuple(words))
        assert caption in ends
        kept = [each for each in candidates if each.kept and each.step == 1]
        assert 1 <= len(kept) <= options.beam_size


def test_watching_does_not_change_the_search() -> None:
    plain = decode(TableDecoder(0, words=5), numbered(range(3)), None, OPTIONS)
    assert traced(OPTIONS)[2] == [found[0].tokens for found in plain]


def test_the_tree_is_drawn_with_the_words() -> None:
    _, trace, (shown, *_) = traced(OPTIONS)
    words: list[int] = []

    def word_of(token: int) -> str:
        words.append(token)
        return f"$w{token}"

    png = draw_beam_tree(trace, word_of, shown, 0.7, "a title")
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"))
    asked = set(words)
    assert asked == {each.token for each in trace.images[0]} - {END_ID}
    for colour in ((0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)):  # the best way, and what else was kept
        assert (np.abs(pixels.astype(int) - colour).max(-1) < 8).sum() > 50
    assert png == draw_beam_tree(trace, lambda token: f"$w{token}", shown, 0.7, "a title")


def test_an_empty_trace_is_refused() -> None:
    with pytest.raises(DataError, match="the trace of the search is empty"):
        draw_beam_tree(SearchTrace(), str, [], 0.7)


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS,
        DecodingOptions("greedy", max_length=6, num_return_sequences=3),
        DecodingOptions("sample", max_length=6, num_return_sequences=3),
    ],
)
def test_the_way_marked_is_that_of_the_caption_shown(options: DecodingOptions) -> None:
    # Bug: it was that of the best-scored end, which the first of several greedy or drawn captions need not be.
    _, trace, captions = traced(options, 20)
    other = 0
    for image, caption in enumerate(captions):
        candidates = trace.images[image]
        way = sorted(way_to(candidates, caption), key=lambda number: candidates[number].step)
        assert [candidates[number].token for number in way] == [*caption, END_ID]
        assert all(candidates[later].parent == number for number, later in pairwise(way))
        ends = [each for each in candidates if each.ended and each.kept]
        other += max(ends, key=lambda each: each.total) is not candidates[way[-1]]
    assert other > 0


def test_a_caption_that_the_search_did_not_end_in_is_owned_up_to() -> None:
    # Bug: another caption was marked instead.
    trace = traced(OPTIONS)[1]
    gone = (4,) * 6
    assert way_to(trace.images[0], gone) == set()
    said = draw_beam_tree(trace, str, gone, 0.7, "a title")
    assert said == draw_beam_tree(trace, str, gone[:5], 0.7, "a title")
    with Image.open(io.BytesIO(said)) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert (np.abs(pixels.astype(int) - (0xD5, 0x5E, 0x00)).max(-1) < 8).sum() == 0
    shown = traced(OPTIONS)[2][0]
    assert draw_beam_tree(trace, str, shown, 0.7, f"a title ({NOT_HERE})") != said
