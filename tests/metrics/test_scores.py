import math
import sys
from pathlib import Path
from subprocess import run

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seesay.errors import ConfigError, DataError
from seesay.metrics import CaptionMetrics, compute_metrics
from seesay.metrics.scores import BUILTIN_METRICS, foreign_warning, missing_meteor
from tests.foreign import CAPTIONS, WITHOUT_SPACES
from tests.metrics.reference import random_captions, reference_scores

SHARED = Path(__file__).parents[2] / "../shared/data"


@pytest.mark.parametrize(("images", "seed"), [(1, 0), (2, 1), (40, 2), (300, 3)])
def test_equals_pycocoevalcap_for_corpus_and_images(images: int, seed: int) -> None:
    hypotheses, references = random_captions(images, seed)
    ours = compute_metrics(hypotheses, references, tokenization="whitespace")
    corpus, per_image = reference_scores(hypotheses, references)
    assert ours.corpus.keys() == corpus.keys()
    for name, value in corpus.items():
        assert ours.corpus[name] == pytest.approx(value, abs=1e-9, rel=0), name
        np.testing.assert_allclose(ours.per_image[name], per_image[name], atol=1e-9, rtol=0, err_msg=name)


captions = st.lists(st.sampled_from(["a", "b", "c", "dog"]), max_size=6).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(captions, st.lists(captions.filter(bool), min_size=1, max_size=3)), min_size=1, max_size=5))
def test_equals_pycocoevalcap_on_degenerate_captions(images: list[tuple[str, list[str]]]) -> None:
    hypotheses, references = [image[0] for image in images], [image[1] for image in images]
    ours = compute_metrics(hypotheses, references, tokenization="whitespace")
    corpus, per_image = reference_scores(hypotheses, references)
    for name, value in corpus.items():
        assert ours.corpus[name] == pytest.approx(value, abs=1e-9, rel=0), name
        np.testing.assert_allclose(ours.per_image[name], per_image[name], atol=1e-9, rtol=0, err_msg=name)


def test_a_no_break_space_separates_words_for_bleu_but_not_for_rouge() -> None:
    """The tokenizer outputs one inside 3 1/2; pycocoevalcap splits there only in BLEU and CIDEr."""
    hypotheses, references = ["it is 3\u00a01/2 miles", "a dog"], [["walk 3 miles"], ["a dog"]]
    ours = compute_metrics(["it is 3 1/2 miles", "a dog"], references, metrics=BUILTIN_METRICS)
    corpus, _ = reference_scores(hypotheses, references)
    assert ours.corpus == pytest.approx(corpus, abs=1e-9)


def test_default_metrics() -> None:
    named = {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"}
    scores = compute_metrics(["a dog"], [["a cat"]])
    assert set(scores.corpus) == named | ({"METEOR"} if not missing_meteor("ptb") else set())
    assert set(compute_metrics(["a dog"], [["a cat"]], tokenization="characters").corpus) == named


def test_meteor_of_other_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="METEOR requires English PTB tokens, not characters"):
        compute_metrics(["a dog"], [["a cat"]], tokenization="characters", metrics=["METEOR"])


def foreign(language: str) -> tuple[list[str], list[list[str]]]:
    """Returns the first caption of each image as the hypothesis, and the second as its reference."""
    return [first for first, _ in CAPTIONS[language]], [[second] for _, second in CAPTIONS[language]]


@pytest.mark.parametrize("language", ["zh", "ja", "th", "ar"])
def test_meteor_is_skipped_for_text_in_another_script(language: str) -> None:
    """Bug: it scored 14 for Chinese, from the full stops."""
    hypotheses, references = foreign(language)
    assert "METEOR" not in compute_metrics(hypotheses, references).corpus
    message = f"METEOR requires English, but the references are in another script .language {language}.; skipped"
    with pytest.raises(ConfigError, match=message):
        compute_metrics(hypotheses, references, metrics=["METEOR"])


def test_meteor_of_another_language_warns() -> None:
    message = "METEOR is designed for English, but the references are in another language (de): not reliable"
    assert foreign_warning("METEOR", [text for image in CAPTIONS["de"] for text in image]) == message
    scores = compute_metrics(*foreign("de"))
    assert scores.warnings == ((message,) if "METEOR" in scores.corpus else ())
    assert compute_metrics(*foreign("de"), metrics=["CIDEr"]).warnings == ()
    assert compute_metrics(*foreign("en")).warnings == ()


def test_the_signature_of_meteor_has_its_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seesay.metrics.scores._statistics", lambda *_: {"METEOR": np.ones((1, 21))})
    assert compute_metrics(["a dog"], [["a cat"]], metrics=["METEOR"]).signature.endswith("|meteor:1.5-en")


@pytest.mark.parametrize("tokenization", ["ptb", "whitespace", "characters"])
@pytest.mark.parametrize("language", CAPTIONS)
def test_text_without_spaces_scored_by_words_warns(language: str, tokenization: str) -> None:
    scores = compute_metrics(*foreign(language), tokenization=tokenization, metrics=["CIDEr"])
    wrong = language in WITHOUT_SPACES and tokenization != "characters"
    message = (
        f"the captions have no spaces between words, so that {tokenization} tokens are phrases and scores near 0; "
        "pass --tokenization characters"
    )
    assert scores.warnings == ((message,) if wrong else ())


@pytest.mark.skipif(bool(missing_meteor("ptb")), reason="METEOR's tables are not installed")
def test_meteor_of_a_draw_is_the_corpus_score_of_its_captions() -> None:
    hypotheses, references = ["a dog runs", "two cats sleep", "a man"], [["the dog ran"], ["cats are asleep"], ["men"]]
    scores = compute_metrics(hypotheses, references, metrics=["METEOR"])
    assert scores.per_image["METEOR"].shape == (3,)
    again = compute_metrics(hypotheses[:1] * 2 + hypotheses[1:2], references[:1] * 2 + references[1:2])
    resampled = scores.resample(np.array([[0, 0, 1]]))
    assert resampled["METEOR"][0] == pytest.approx(again.corpus["METEOR"], abs=1e-12)
    assert again.corpus["METEOR"] != pytest.approx(again.per_image["METEOR"].mean(), abs=1e-6)  # not a mean


def test_a_perfect_caption_has_the_highest_scores() -> None:
    texts = ["a dog runs on the grass", "two men sit near a lake", "the cat sleeps on a red mat"]
    scores = compute_metrics(texts, [[text] for text in texts], metrics=["BLEU", "ROUGE-L", "CIDEr", "CIDEr-plain"])
    assert scores.corpus == pytest.approx(
        {f"BLEU-{n}": 1.0 for n in range(1, 5)} | {"ROUGE-L": 1.0, "CIDEr": 10.0, "CIDEr-plain": 1.0},
        abs=1e-8,
    )


def test_an_empty_hypothesis_scores_0_and_is_reported() -> None:
    scores = compute_metrics(["", "a dog", "!"], [["a cat"], ["a dog"], ["..."]], ids=["x.jpg", "y.jpg", "z.jpg"])
    assert scores.empty == ("x.jpg", "z.jpg")
    for name, values in scores.per_image.items():
        assert values[0] == values[2] == 0.0, name


def test_resampling_every_image_once_gives_the_corpus_value() -> None:
    scores = compute_metrics(*random_captions(50, seed=4), tokenization="whitespace")
    again = scores.resample(np.stack([np.arange(50), np.arange(50)[::-1]]))
    for name, value in scores.corpus.items():
        assert again[name] == pytest.approx([value, value], abs=1e-12), name


def test_resampled_scores_equal_those_of_the_drawn_images() -> None:
    hypotheses, references = random_captions(30, seed=5)
    images = np.random.default_rng(0).integers(0, 30, (3, 30))
    resampled = compute_metrics(hypotheses, references, tokenization="whitespace").resample(images)
    for draw, chosen in enumerate(images):
        corpus, _ = reference_scores([hypotheses[i] for i in chosen], [references[i] for i in chosen])
        for name in ("BLEU-1", "BLEU-4", "ROUGE-L"):
            assert resampled[name][draw] == pytest.approx(corpus[name], abs=1e-9), name


def test_scores_do_not_depend_on_batches() -> None:
    hypotheses, references = random_captions(25, seed=6)
    expected = compute_metrics(hypotheses, references)
    metrics = CaptionMetrics()
    for start in range(0, 25, 10):
        metrics.update(hypotheses[start : start + 10], references[start : start + 10])
    assert metrics.compute().corpus == expected.corpus
    metrics.reset()
    with pytest.raises(DataError, match="no hypotheses"):
        metrics.compute()


def test_signature() -> None:
    signature = compute_metrics(["a", "b"], [["a"], ["b", "c"]], tokenization="characters").signature
    assert signature.startswith("protocol:coco|tok:characters|images:2|refs:1-2|version:")


def test_character_tokenization() -> None:
    scores = compute_metrics(["一只狗在跑"], [["一只猫在跑"]], tokenization="characters")
    assert scores.corpus["BLEU-1"] == pytest.approx(4 / 5)


@pytest.mark.parametrize(
    ("hypotheses", "references", "ids", "message"),
    [
        (["a"], [["a"], ["b"]], None, "1 hypotheses but references of 2 images"),
        (["a", "b"], [["a"], []], ["x", "y"], "image y has no references"),
        (["a", "b"], [["a"], ["b"]], ["x", "x"], "duplicate image x"),
        (["a", "b"], [["a"], ["b"]], ["x"], "1 ids for 2 hypotheses"),
        (["a", math.nan], [["a"], ["b"]], ["x", "y"], "image y: the hypothesis is nan"),
        (["a", None], [["a"], ["b"]], None, "image 1: the hypothesis is None"),
        (["a"], ["a"], None, "image 0: references must be a list of texts"),
        (["a"], [["a", 3]], None, "image 0: a reference is 3"),
        ([], [], None, "no hypotheses"),
        ("a dog", [["a"]], None, "got str and list"),
        (["a dog"], None, None, "got list and NoneType"),
        (["a dog"], [None], None, "image 0: references must be a list of texts, not None"),
    ],
)
def test_invalid_arguments_are_refused(
    hypotheses: list[str], references: list[list[str]], ids: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        compute_metrics(hypotheses, references, ids=ids)


def test_a_refused_batch_adds_nothing() -> None:
    metrics = CaptionMetrics()
    metrics.update(["a dog"], [["a dog"]], ids=["x"])
    with pytest.raises(DataError):
        metrics.update(["a", "b"], [["a"], []], ids=["y", "z"])
    assert metrics.compute().ids == ("x",)


def test_unknown_metrics_and_tokenizations_are_refused() -> None:
    with pytest.raises(ConfigError, match="SPICY"):
        compute_metrics(["a"], [["a"]], metrics=["SPICY"])
    with pytest.raises(ConfigError, match="klingon"):
        compute_metrics(["a"], [["a"]], tokenization="klingon")


def test_metrics_import_no_torch() -> None:
    code = "import sys, seesay.metrics, seesay.metrics.diversity; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0


def _flickr_test() -> tuple[list[str], list[list[str]]]:
    folder = SHARED / "flickr8k"
    if not folder.is_dir():
        pytest.skip("Flickr8k is not next to the repository")
    captions: dict[str, list[str]] = {}
    for line in (folder / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines():
        key, caption = line.split("\t", 1)
        captions.setdefault(key.split("#")[0], []).append(caption)
    names = (folder / "Flickr_8k.testImages.txt").read_text(encoding="utf-8").split()
    images = [captions[name] for name in names if name in captions]
    return [image[0] for image in images], [image[1:] for image in images]


def test_scores_of_flickr8k_equal_stored_values_of_pycocoevalcap() -> None:
    """The first caption of each test image against the other four; values from pycocoevalcap with Java."""
    hypotheses, references = _flickr_test()
    assert len(hypotheses) == 1000
    corpus = compute_metrics(hypotheses, references, metrics=BUILTIN_METRICS).corpus
    expected = {
        "BLEU-1": 0.6364127012682705,
        "BLEU-2": 0.4457777185666552,
        "BLEU-3": 0.30549035362497284,
        "BLEU-4": 0.20945675889555992,
        "ROUGE-L": 0.4875475010364561,
        "CIDEr": 0.7885967975248741,
    }
    assert corpus == pytest.approx(expected, abs=1e-9, rel=0)
