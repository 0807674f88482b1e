import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from seesay.decoding import DecodingOptions, SearchTrace
from seesay.errors import DataError
from seesay.explanation.beam_tree import NOT_IN_TRACE, draw_beam_tree, path_to
from seesay.tokenizer import END_ID
from tests.decoding.oracles import TableDecoder, decode, numbered

OPTIONS = DecodingOptions(strategy="beam", beam_size=3, max_length=6)


def traced(options: DecodingOptions, images: int = 3) -> tuple[TableDecoder, SearchTrace, list[tuple[int, ...]]]:
    decoder, trace = TableDecoder(0, words=5), SearchTrace()
    found = decode(decoder, numbered(range(images)), None, options, trace=trace)
    return decoder, trace, [hypotheses[0].tokens for hypotheses in found]


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS,
        DecodingOptions(strategy="beam", beam_size=4, max_length=6, num_beam_groups=2),
        DecodingOptions(strategy="greedy", max_length=6, num_return_sequences=2),
        DecodingOptions(strategy="sample", max_length=6),
    ],
)
def test_the_trace_contains_the_search(options: DecodingOptions) -> None:
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
        kept = [candidate for candidate in candidates if candidate.kept and candidate.step == 1]
        assert 1 <= len(kept) <= options.beam_size


def test_tracing_does_not_change_the_search() -> None:
    plain = decode(TableDecoder(0, words=5), numbered(range(3)), None, OPTIONS)
    assert traced(OPTIONS)[2] == [found[0].tokens for found in plain]


def test_the_tree_is_drawn_with_the_words() -> None:
    _, trace, (caption, *_) = traced(OPTIONS)
    words: list[int] = []

    def word_of(token: int) -> str:
        words.append(token)
        return f"$w{token}"

    png = draw_beam_tree(trace, word_of, caption, 0.7, "a title")
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"))
    used = set(words)
    assert used == {candidate.token for candidate in trace.images[0]} - {END_ID}
    for colour in ((0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)):  # the path of the caption and other kept candidates
        assert (np.abs(pixels.astype(int) - colour).max(-1) < 8).sum() > 50
    assert png == draw_beam_tree(trace, lambda token: f"$w{token}", caption, 0.7, "a title")


def test_an_empty_trace_is_refused() -> None:
    with pytest.raises(DataError, match="the trace of the search is empty"):
        draw_beam_tree(SearchTrace(), str, [], 0.7)


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS,
        DecodingOptions(strategy="greedy", max_length=6, num_return_sequences=3),
        DecodingOptions(strategy="sample", max_length=6, num_return_sequences=3),
    ],
)
def test_the_marked_path_is_that_of_the_caption(options: DecodingOptions) -> None:
    # Bug: it was the path of the best end, which may differ from the first of several greedy or sampled captions.
    _, trace, captions = traced(options, 20)
    other = 0
    for image, caption in enumerate(captions):
        candidates = trace.images[image]
        path = sorted(path_to(candidates, caption), key=lambda number: candidates[number].step)
        assert [candidates[number].token for number in path] == [*caption, END_ID]
        assert all(candidates[later].parent == number for number, later in pairwise(path))
        ends = [candidate for candidate in candidates if candidate.ended and candidate.kept]
        other += max(ends, key=lambda candidate: candidate.total) is not candidates[path[-1]]
    assert other > 0


def test_a_caption_that_is_not_in_the_trace_has_a_note() -> None:
    # Bug: another caption was marked instead.
    trace = traced(OPTIONS)[1]
    missing = (4,) * 6
    assert path_to(trace.images[0], missing) == set()
    png = draw_beam_tree(trace, str, missing, 0.7, "a title")
    assert png == draw_beam_tree(trace, str, missing[:5], 0.7, "a title")
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert (np.abs(pixels.astype(int) - (0xD5, 0x5E, 0x00)).max(-1) < 8).sum() == 0
    caption = traced(OPTIONS)[2][0]
    assert draw_beam_tree(trace, str, caption, 0.7, f"a title ({NOT_IN_TRACE})") != png
