import io

import numpy as np
import pytest
from PIL import Image

from seesay.decoding import DecodingOptions, SearchTrace, decode
from seesay.errors import DataError
from seesay.tokenizer import END_ID
from seesay.visualise.beam_tree import draw_beam_tree
from tests.decoding.oracles import TableDecoder, numbered

OPTIONS = DecodingOptions("beam", 3, 6)


def traced(options: DecodingOptions, images: int = 3) -> tuple[TableDecoder, SearchTrace, list[tuple[int, ...]]]:
    decoder, trace = TableDecoder(0, words=5), SearchTrace()
    found = decode(decoder, numbered(range(images)), None, options, trace=trace)
    return decoder, trace, [hypotheses[0].tokens for hypotheses in found]


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS,
        DecodingOptions("beam", 4, 6, beam_groups=2),
        DecodingOptions("greedy", max_length=6, num_captions=2),
        DecodingOptions("sample", max_length=6),
    ],
)
def test_the_trace_is_the_search(options: DecodingOptions) -> None:
    decoder, trace, captions = traced(options)
    for image, caption in enumerate(captions):
        candidates = trace.pictures[image]
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
    trace = traced(OPTIONS)[1]
    words: list[int] = []

    def word_of(token: int) -> str:
        words.append(token)
        return f"$w{token}"

    png = draw_beam_tree(trace, word_of, 0.7, "a title")
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"))
    asked = set(words)
    assert asked == {each.token for each in trace.pictures[0]} - {END_ID}
    for colour in ((0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)):  # the best way, and what else was kept
        assert (np.abs(pixels.astype(int) - colour).max(-1) < 8).sum() > 50
    assert png == draw_beam_tree(trace, lambda token: f"$w{token}", 0.7, "a title")


def test_an_empty_trace_is_refused() -> None:
    with pytest.raises(DataError, match="the trace of the search is empty"):
        draw_beam_tree(SearchTrace(), str, 0.7)
