"""Memory, prompts and images of pretrained captioners."""

import gc
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from seesay.captioners import load_captioner
from seesay.captioners.pretrained import PretrainedCaptioner, captioner, load_pretrained, splitting
from seesay.captioners.pretrained.steps import OFFSET, HubDecoder
from seesay.captioners.spec import ModelSpec
from seesay.cli import main as cli
from seesay.config import DecodingOptions
from seesay.decoding.hypothesis import Hypothesis
from seesay.errors import ConfigError, ImageError
from seesay.metrics.ngrams import EQUAL_WEIGHTS
from seesay.retrieval.rerank import rerank
from seesay.retrieval.similarity import CaptionSet, expected_similarity
from seesay.retrieval.token_lists import TokenLists
from seesay.tokenizer import END_ID, PAD_ID
from tests.captioners.pretrained.conftest import Captioners, Folders, Images

OPTIONS = DecodingOptions(max_length=5)
BEAM = DecodingOptions(strategy="beam", beam_size=2, max_length=5)
OutOfMemory = Callable[[int], list[int]]


def small_memory(
    found: PretrainedCaptioner, monkeypatch: pytest.MonkeyPatch, error: RuntimeError, most: int
) -> list[int]:
    """Let a captioner run out of memory with more images than `most`; returns the sizes of the batches it tries."""
    sizes: list[int] = []
    run = found._caption_features

    def limited(features: Mapping[str, Any], names: Any, settings: Any) -> Any:
        sizes.append(len(features["pixel_values"]))
        if sizes[-1] > most:
            raise error
        return run(features, names, settings)

    monkeypatch.setattr(found, "_caption_features", limited)
    return sizes


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:125] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_batch_that_does_not_fit_is_halved(
    folder_of: Folders, images: Images, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    with load_captioner(folder_of("blip"), "cpu") as found:
        assert isinstance(found, PretrainedCaptioner)
        every = [*images, *images, images[0]]
        expected = [caption.text for caption in found.caption(every, OPTIONS, guard=False)]
        sizes = small_memory(found, monkeypatch, error, most=2)
        assert [caption.text for caption in found.caption(every, OPTIONS, guard=False)] == expected
        assert sizes[:2] == [9, 4]
        assert max(sizes[3:]) <= 2
        sizes.clear()
        found.caption(every, OPTIONS)
        assert set(sizes) <= {1, 2}, "a batch size that fits is remembered"


def test_one_image_that_does_not_fit(folder_of: Folders, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    with load_captioner(folder_of("git"), "cpu") as found:
        assert isinstance(found, PretrainedCaptioner)
        small_memory(found, monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), most=0)
        with pytest.raises(ConfigError, match=r"does not fit into the memory of cpu for one image; pass --precision"):
            found.caption(images, OPTIONS)


def test_other_errors_are_not_taken_for_missing_memory(
    folder_of: Folders, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    with load_captioner(folder_of("git"), "cpu") as found:
        assert isinstance(found, PretrainedCaptioner)
        small_memory(found, monkeypatch, RuntimeError("shapes differ"), most=0)
        with pytest.raises(RuntimeError, match="shapes differ"):
            found.caption(images, OPTIONS)


def test_the_logits_of_a_beam_search_are_bounded(
    captioner_of: Captioners, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = captioner_of("blip")
    expected = [caption.text for caption in found.caption(images, BEAM, guard=False)]
    monkeypatch.setattr(splitting, "_MAX_LOGITS", 2 * 7 * len(found.tokenizer) * 3)  # of three images
    sizes = small_memory(found, monkeypatch, RuntimeError(), most=4)
    assert [caption.text for caption in found.caption(images, BEAM, guard=False)] == expected
    assert sizes == [3, 1]


@pytest.mark.parametrize("family", ["blip", "florence2", "qwen2_5_vl"])
def test_close_frees_the_model(folder_of: Folders, images: Images, family: str) -> None:
    found = load_pretrained(ModelSpec((str(folder_of(family)),), "cpu"))
    found.caption(images, OPTIONS)
    found.caption(images, BEAM)
    weights = [weakref.ref(weight) for weight in found.model.parameters()]
    found.close()
    gc.collect()
    assert [reference for reference in weights if reference() is not None] == []


def test_prompts_of_different_lengths(folder_of: Folders, images: Images, tmp_path: Path) -> None:
    names = [tmp_path / "dog" / "a.png", tmp_path / "a big cat" / "b.png", tmp_path / "cat" / "c.png"]
    for name, image in zip(names, images, strict=False):
        name.parent.mkdir()
        Image.fromarray(image).save(name)
    for family in ("blip", "git", "blip2", "llava"):
        with load_captioner(folder_of(family), "cpu", prompt="a photo of {folder}") as found:
            together = found.caption(names, OPTIONS)
            alone = [found.caption(name, OPTIONS) for name in names]
            assert [caption.text for caption in together] == [caption.text for caption in alone]
            for caption, single in zip(together, alone, strict=True):
                np.testing.assert_allclose(caption.log_probs, single.log_probs, atol=1e-4)
                assert not caption.text.startswith("a photo of")


def test_a_prompt_changes_the_caption(folder_of: Folders, captioner_of: Captioners, images: Images) -> None:
    with load_captioner(folder_of("blip"), "cpu", prompt="the big bird") as found:
        prompted = [caption.text for caption in found.caption(images, OPTIONS)]
    assert prompted != [caption.text for caption in captioner_of("blip").caption(images, OPTIONS)]


def test_extreme_images(captioner_of: Captioners) -> None:
    found = captioner_of("qwen2_5_vl")
    for height, width in ((1, 1), (1, 300), (3, 2), (5000, 2500), (20, 9000)):
        image = np.full((height, width, 3), 90, np.uint8)
        pixels, _ = found.load_inputs(image)
        assert min(pixels.shape[:2]) >= 32
        assert pixels.size <= 3 * 2600 * 5200
        assert found.caption(image, OPTIONS).words
    transparent = np.zeros((40, 40, 4), np.uint8)
    assert found.load_inputs(transparent)[0].min() == 255, "transparency is composited on white"
    with pytest.raises(ImageError):
        found.caption(b"no image", OPTIONS)


def test_an_image_that_the_processor_refuses_fails_alone(
    captioner_of: Captioners, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = captioner_of("blip")
    inputs, wanted = found.family.inputs, found.caption(images, OPTIONS)

    def picky(pictures: Any, prompts: Any) -> Any:
        if any(each.size == (33, 47) for each in pictures):
            raise ValueError("absolute aspect ratio\nmust be smaller")
        return inputs(pictures, prompts)

    monkeypatch.setattr(found.family, "inputs", picky)
    odd = Image.new("RGB", (33, 47))
    (_, first), (_, error), *others = found.caption_each([images[0], odd, *images[1:]], OPTIONS, guard=False)
    assert isinstance(error, ImageError)
    assert "refuses its 33 x 47 pixels (absolute aspect ratio)" in str(error)
    assert [getattr(each, "text", None) for each in (first, *(caption for _, caption in others))] == [
        each.text for each in wanted
    ]


def test_defaults_are_those_of_the_model(captioner_of: Captioners) -> None:
    assert captioner_of("blip").defaults == DecodingOptions(max_length=60)
    florence = captioner_of("florence2").defaults
    assert (florence.strategy, florence.beam_size, florence.no_repeat_ngram_size) == ("beam", 3, 3)
    assert captioner_of("llava").options(DecodingOptions(min_length=200)).max_length == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DecodingOptions(allow_unk=True), "drop --allow-unk"),
        (DecodingOptions(bad_words=(" ",)), "' ' is empty; pass a word"),
        (DecodingOptions(strategy="beam", force_words=("zebra",)), "'zebra' is not in the vocabulary"),
        (DecodingOptions(strategy="beam", force_words=("big dog",), bad_words=("dog",)), "drop one of them"),
    ],
)
def test_options_that_cannot_be_satisfied(captioner_of: Captioners, options: DecodingOptions, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        captioner_of("blip").check(options)


def test_no_caption_ends_in_a_function_word(captioner_of: Captioners, images: Images) -> None:
    found = captioner_of("blip")
    options = DecodingOptions(strategy="beam", beam_size=3, complete_endings=True, max_length=6)
    for caption in found.caption(images, options):
        assert not set(caption.words[-1:]) & {"a", "the", "of", "in", "on", "with", "and"}


def test_several_end_tokens_are_one() -> None:
    decoder = HubDecoder(model=None, ends=(1, 3))
    logits = torch.tensor([[0.5, 2.0, -1.0, 1.0]])
    mapped = decoder.to_search(logits)
    assert mapped[0, END_ID] == torch.tensor([2.0, 1.0]).logsumexp(0)
    assert mapped[0, PAD_ID] == mapped[0, OFFSET + 1] == mapped[0, OFFSET + 3] == -torch.inf
    torch.testing.assert_close(mapped.logsumexp(-1), logits.logsumexp(-1))
    assert decoder._to_model(torch.tensor([[END_ID, OFFSET + 2]])).tolist() == [[1, 2]]


def test_alternatives_of_beams_are_distinct_texts(captioner_of: Captioners) -> None:
    constraints = captioner_of("blip")._constraints(BEAM)
    assert constraints.text is not None
    dog = captioner_of("blip").tokenizer.convert_tokens_to_ids("dog") + OFFSET
    start = captioner_of("blip").tokenizer.cls_token_id + OFFSET
    one, two = Hypothesis((dog,), (-1.0, -1.0), -2.0, True), Hypothesis((start, dog), (-1.0,) * 3, -3.0, True)
    assert constraints.text(one.tokens) == constraints.text(two.tokens) == "dog"


def test_minimum_bayes_risk_selects_among_the_beams(
    captioner_of: Captioners, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caption with the largest expected similarity to the beams of the search, which are recorded."""
    found, batches = captioner_of("blip"), list[list[list[Hypothesis]]]()

    def recorded(beams: list[list[Hypothesis]], options: DecodingOptions) -> list[list[Hypothesis]]:
        batches.append(beams)
        return rerank(beams, options)

    monkeypatch.setattr(captioner, "rerank", recorded)
    options = DecodingOptions(strategy="beam", rerank="mbr", rerank_candidates=4, max_length=5, num_return_sequences=2)
    chosen = found.caption(list(images), options, guard=False)
    (beams,) = batches
    for hypotheses, caption in zip(beams, chosen, strict=True):
        tokens = TokenLists.pack([each.tokens for each in hypotheses])
        weights = np.exp([sum(each.log_probs) for each in hypotheses])
        group = np.zeros(len(hypotheses), np.int64)
        gains = expected_similarity(CaptionSet.equal(tokens, group), CaptionSet(tokens, group, weights), EQUAL_WEIGHTS)
        texts = [found._caption(each, None).text for each in hypotheses]
        assert len(set(texts)) == 4
        assert gains[texts.index(caption.text)] == pytest.approx(max(gains))
        assert len(caption.alternatives) == 1
    with pytest.raises(ConfigError, match="has no index of training images; choose --rerank mbr"):
        found.caption(list(images), options.replace(rerank="consensus"))


def test_explain(folder_of: Folders, images: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, page = tmp_path / "photo.png", tmp_path / "page.html"
    Image.fromarray(images[0]).save(photo)
    command = ["explain", str(photo), "--max-length", "4", "--out", str(page), "--model"]
    assert cli.main([*command, str(folder_of("blip"))]) == 0
    assert page.is_file()
    assert page.with_suffix(".png").is_file()
    capsys.readouterr()
    assert cli.main([*command, str(folder_of("git"))]) != 0
    assert "git models have no cross-attention to regions of the image" in capsys.readouterr().err
    assert cli.main([*command, str(folder_of("blip")), "--held-out", str(tmp_path)]) != 0
    assert "--beam-tree and --held-out need a trained run" in capsys.readouterr().err
