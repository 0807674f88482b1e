"""CLIPScore with a tiny random model, saved and loaded like a real one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from seesay.errors import CheckpointError, DataError, MissingDependencyError
from seesay.evaluation.clipscore import PROMPT, ClipScorer
from tests import tiny

transformers = pytest.importorskip("transformers")

CAPTIONS = ["a red dog", "two green cats", "a blue bird"]
REFERENCES = [["a dog", "the dog is red"], ["cats"], ["a bird in blue", "two cats", "a dog"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP model with a vocabulary of single characters, saved by transformers."""
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(97, 123)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    size = len(tokens)
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.CLIPProcessor(images, tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**shared, "vocab_size": size, "max_position_embeddings": 64, "bos_token_id": size - 2}
    config = transformers.CLIPConfig(
        text_config={**text, "eos_token_id": size - 1, "pad_token_id": size - 1},
        vision_config={**shared, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(folder: Path) -> ClipScorer:
    return ClipScorer.load(str(folder), "cpu")


def cosines(scorer: ClipScorer, captions: list[str]) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """Returns the cosine of every caption and image, from joint forward passes of the model."""
    found = np.zeros((len(captions), 3))
    for row, text in enumerate(captions):
        for column in range(3):
            inputs = scorer.processor(text=[PROMPT + text], images=[tiny.image(column)], return_tensors="pt")
            with torch.no_grad():
                out = scorer.model(**inputs)
            found[row, column] = float((out.text_embeds * out.image_embeds).sum())
    return found


def test_scores_equal_the_formulas(scorer: ClipScorer) -> None:
    images = [tiny.image(seed) for seed in range(3)]
    plain, with_references = scorer.score(images, CAPTIONS, REFERENCES)
    expected = 2.5 * np.maximum(np.diag(cosines(scorer, CAPTIONS)), 0)
    np.testing.assert_allclose(plain, expected, atol=1e-5)

    def vector(text: str) -> torch.Tensor:
        inputs = scorer.processor(text=[PROMPT + text], images=[tiny.image(0)], return_tensors="pt")
        with torch.no_grad():
            found: torch.Tensor = scorer.model(**inputs).text_embeds[0]
        return found

    for index, (caption, references) in enumerate(zip(CAPTIONS, REFERENCES, strict=True)):
        max_cosine = max(max(float(vector(caption) @ vector(reference)) for reference in references), 0)
        own = expected[index]
        harmonic = 2 * own * max_cosine / (own + max_cosine) if own + max_cosine else 0
        assert with_references[index] == pytest.approx(harmonic, abs=1e-5)


def test_files_and_opened_images_have_equal_scores(scorer: ClipScorer, tmp_path: Path) -> None:
    tiny.image(4).save(tmp_path / "x.png")
    from_file, _ = scorer.score([tmp_path / "x.png"], ["a dog"])
    opened, none = scorer.score([tiny.image(4)], ["a dog"])
    assert from_file == pytest.approx(opened)
    assert np.isnan(none).all()


def test_scores_do_not_depend_on_the_batch_size(scorer: ClipScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [tiny.image(seed) for seed in range(3)]
    expected = scorer.score(images, CAPTIONS, REFERENCES)
    monkeypatch.setattr("seesay.evaluation.clipscore._BATCH", 2)
    for some, all_at_once in zip(scorer.score(images, CAPTIONS, REFERENCES), expected, strict=True):
        np.testing.assert_allclose(some, all_at_once, atol=1e-6)


def test_lists_of_different_lengths_are_refused(scorer: ClipScorer) -> None:
    with pytest.raises(DataError, match="one caption and one list of references per image"):
        scorer.score([tiny.image(0)], ["a", "b"])


def test_unavailable_weights_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"CLIPScore needs the CLIP weights .*, which are not available"
    ) as caught:
        ClipScorer.load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_the_error_without_transformers_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"CLIPScore needs transformers.*seesay\[hub\]"):
        ClipScorer.load("anything")


def test_an_offline_hub_is_not_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    # Bug: huggingface_hub retried for 24 seconds before the error.
    requests: list[bool] = []

    def load(*_: object, local_files_only: bool, **options: object) -> None:
        requests.append(local_files_only)
        raise OSError("not in the cache")

    monkeypatch.setattr("seesay.evaluation.clipscore.hub_answers", lambda: False)
    monkeypatch.setattr(transformers.CLIPModel, "from_pretrained", load)
    with pytest.raises(CheckpointError, match="not available: not in the cache"):
        ClipScorer.load("owner/clip")
    assert requests == [True]
