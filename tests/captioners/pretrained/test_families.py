"""Every family against transformers' own `generate` and a forward pass with teacher forcing."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from seesay.captioners.caption import Caption, CaptionSettings
from seesay.captioners.pretrained import PretrainedCaptioner
from seesay.cli import main as cli
from seesay.config import DecodingOptions
from seesay.errors import ConfigError
from tests.captioners.pretrained import models
from tests.captioners.pretrained.conftest import Captioners, Folders, Images

# Warnings of NumPy about what transformers does.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

LENGTH = 9
GREEDY = DecodingOptions(max_length=LENGTH)
BEAM = DecodingOptions(strategy="beam", beam_size=3, max_length=LENGTH)
ALL = sorted(models.FAMILIES)
CROSS_ATTENTION = ("blip", "florence2", "vision_encoder_decoder")
families = pytest.mark.parametrize("family", ALL)


def features_of(captioner: PretrainedCaptioner, image: Any) -> dict[str, Any]:
    """The arguments of `generate` for an image, computed by its processor."""
    part = captioner.encode([captioner.load_inputs(image)]).parts[0]
    return {name: value.clone() for name, value in part.features.items() if isinstance(value, torch.Tensor)}


def generated(captioner: PretrainedCaptioner, image: Any, **arguments: Any) -> list[int]:
    """The tokens that transformers generates for an image, without those of the prompt."""
    model, features = captioner.model, features_of(captioner, image)
    model.generation_config.forced_eos_token_id = None  # seesay marks truncated captions instead
    settings = {"num_beams": 1, "no_repeat_ngram_size": 0, "do_sample": False, **arguments}
    with torch.inference_mode():
        tokens: list[int] = model.generate(**features, **settings)[0].tolist()
    kind = model.config.model_type
    if kind in ("blip", "vision-encoder-decoder"):
        return tokens[1:]  # the start token
    if kind == "florence2":
        return tokens[2:]  # the start token and the one that is forced after it
    prompt: list[int] = features["input_ids"][0].tolist()
    return tokens[len(prompt) :] if tokens[: len(prompt)] == prompt else tokens


def shown(captioner: PretrainedCaptioner, tokens: Sequence[int]) -> tuple[str, tuple[str, ...]]:
    """The text and the words of tokens up to the end or the maximum length."""
    tokenizer = captioner.tokenizer
    ends = (tokenizer.eos_token_id, tokenizer.sep_token_id)
    length = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    kept = [token for token in tokens[: min(length, LENGTH)] if token not in tokenizer.all_special_ids]
    words = tuple(tokenizer.decode([token]).strip().removeprefix("##") for token in kept)
    return tokenizer.decode(kept, skip_special_tokens=True).strip(), words


@families
def test_greedy_captions_equal_those_of_transformers(captioner_of: Captioners, images: Images, family: str) -> None:
    captioner = captioner_of(family)
    found = captioner.caption(images, GREEDY, guard=False)
    for image, caption in zip(images, found, strict=True):
        expected = shown(captioner, generated(captioner, image, max_new_tokens=LENGTH + 1))
        assert (caption.text, caption.words) == expected
        assert len(caption.words) == len(caption.log_probs)
    assert len({caption.text for caption in found}) > 1, "the model ignores its image"


@families
def test_beam_captions_equal_those_of_transformers(captioner_of: Captioners, images: Images, family: str) -> None:
    captioner = captioner_of(family)
    found = captioner.caption(images, BEAM, guard=False)
    for image, caption in zip(images, found, strict=True):
        forced = int(family == "florence2")
        arguments = {"num_beams": 3, "length_penalty": 0.7, "max_new_tokens": LENGTH + 1 + forced}
        assert (caption.text, caption.words) == shown(captioner, generated(captioner, image, **arguments))


def forward(captioner: PretrainedCaptioner, image: Any, tokens: Sequence[int]) -> torch.Tensor:
    """The logits (T + 1, V) at each of T tokens and after them, of one forward pass without a cache."""
    model, features = captioner.model, features_of(captioner, image)
    kind, pixels, following = (
        model.config.model_type,
        features["pixel_values"],
        torch.tensor([tokens], dtype=torch.long),
    )
    with torch.inference_mode():
        if kind == "blip":
            start = torch.tensor([[model.config.text_config.bos_token_id]])
            image_features = model.vision_model(pixels).last_hidden_state
            ids = torch.cat([start, following], 1)
            logits = model.text_decoder(ids, encoder_hidden_states=image_features).logits
        elif kind in ("vision-encoder-decoder", "florence2"):
            config = model.generation_config
            forced = [config.forced_bos_token_id] if kind == "florence2" else []
            start = torch.tensor([[config.decoder_start_token_id, *forced]])
            features["decoder_input_ids"] = torch.cat([start, following], 1)
            logits = model(**features).logits
        else:
            features["input_ids"] = torch.cat([features["input_ids"], following], 1)
            features["attention_mask"] = torch.ones_like(features["input_ids"])
            logits = model(**features).logits
    found: torch.Tensor = logits[0, -len(tokens) - 1 :].float()
    return found


@pytest.mark.parametrize("options", [GREEDY, BEAM], ids=["greedy", "beam"])
@pytest.mark.parametrize("family", [*CROSS_ATTENTION, "git", "llava"])
def test_log_probabilities_equal_those_of_a_forward_pass(
    captioner_of: Captioners, images: Images, family: str, options: DecodingOptions
) -> None:
    captioner, tokenizer = captioner_of(family), captioner_of(family).tokenizer
    forced = int(family == "florence2")
    beam = {"num_beams": 3, "length_penalty": 0.7, "max_new_tokens": LENGTH + 1 + forced}
    arguments = beam if options is BEAM else {"max_new_tokens": LENGTH + 1 + forced}
    for image, caption in zip(images, captioner.caption(images, options, guard=False), strict=True):
        tokens = generated(captioner, image, **arguments)
        end = tokenizer.sep_token_id if family in ("blip", "git") else tokenizer.eos_token_id
        tokens = tokens[: tokens.index(end)] if end in tokens else tokens
        tokens = tokens[:LENGTH]
        logits = forward(captioner, image, tokens).log_softmax(-1)
        expected = logits[range(len(tokens) + 1), [*tokens, end]].tolist()
        words = [
            value for value, token in zip(expected, tokens, strict=False) if token not in tokenizer.all_special_ids
        ]
        np.testing.assert_allclose(caption.log_probs, words, atol=1e-5)
        assert math.isclose(caption.end_log_prob, expected[-1], abs_tol=1e-5)
        length_penalty = (len(tokens) + 1) ** 0.7 if options is BEAM else 1
        assert math.isclose(caption.score, sum(expected) / length_penalty, abs_tol=1e-4)


@pytest.mark.parametrize("family", CROSS_ATTENTION)
@pytest.mark.parametrize("options", [GREEDY, BEAM], ids=["greedy", "beam"])
def test_attention_is_the_mean_of_the_cross_attention(
    captioner_of: Captioners, images: Images, family: str, options: DecodingOptions
) -> None:
    captioner = captioner_of(family)
    plain = captioner.caption(images, options, guard=False)
    for caption, other in zip(captioner.caption(images, options, attention=True, guard=False), plain, strict=True):
        assert caption.text == other.text
        assert caption.attention is not None
        assert caption.grid == (4, 4)
        assert caption.attention.shape == (len(caption.words), 16)
        np.testing.assert_allclose(caption.attention.sum(1), 1, atol=1e-5)
        assert not caption.words or np.abs(caption.attention - 1 / 16).max() > 1e-4


def test_attention_of_blip_equals_that_of_its_decoder(captioner_of: Captioners, images: Images) -> None:
    captioner = captioner_of("blip")
    caption = captioner.caption(images[0], GREEDY, attention=True, guard=False)
    model, features = captioner.model, features_of(captioner, images[0])
    ids = [captioner.tokenizer.bos_token_id, *captioner.tokenizer.convert_tokens_to_ids(list(caption.words))]
    assert captioner.tokenizer.unk_token_id not in ids
    with torch.inference_mode():
        found = model.text_decoder(
            torch.tensor([ids[:-1]]),
            encoder_hidden_states=model.vision_model(features["pixel_values"]).last_hidden_state,
            output_attentions=True,
        ).cross_attentions
    patches = torch.stack(found)[:, 0, :, :, 1:].mean((0, 1))  # without the class token
    assert caption.attention is not None
    np.testing.assert_allclose(caption.attention, patches / patches.sum(-1, keepdim=True), atol=1e-5)


@families
def test_attention_that_an_architecture_lacks_is_refused(captioner_of: Captioners, images: Images, family: str) -> None:
    if family in CROSS_ATTENTION:
        return
    with pytest.raises(ConfigError, match="attention is not available for"):
        captioner_of(family).caption(images[0], GREEDY, attention=True)


@families
def test_a_caption_does_not_depend_on_its_batch(captioner_of: Captioners, images: Images, family: str) -> None:
    captioner = captioner_of(family)
    options = DecodingOptions(strategy="sample", temperature=1.3, max_length=6, num_return_sequences=2)
    batch = captioner.encode([captioner.load_inputs(image) for image in images])
    names = [f"{place}.jpg" for place in range(len(images))]
    settings = CaptionSettings(options, top_tokens=2)
    together = captioner.generate(batch, names, settings)
    for place, caption in enumerate(together):
        (alone,) = captioner.generate(captioner.take(batch, [place]), [names[place]], settings)
        assert isinstance(caption, Caption)
        assert isinstance(alone, Caption)
        assert (alone.text, alone.words) == (caption.text, caption.words)
        assert [other.text for other in alone.alternatives] == [other.text for other in caption.alternatives]
        np.testing.assert_allclose(alone.log_probs, caption.log_probs, atol=1e-3)
        check_top_tokens(caption)


def check_top_tokens(caption: Caption) -> None:
    """The probabilities are those of the best two tokens, and none exceeds that of the best one."""
    assert len(caption.top_tokens) >= len(caption.words) + 1
    for place in caption.top_tokens:
        (_, best), (_, second) = place
        assert 0 >= best >= second


SEARCHES: Mapping[str, DecodingOptions] = {
    "several beams": DecodingOptions(strategy="beam", beam_size=3, num_return_sequences=3, max_length=6),
    "several greedy": DecodingOptions(num_return_sequences=2, max_length=6),
    "diverse": DecodingOptions(strategy="beam", beam_size=4, num_beam_groups=2, max_length=6, num_return_sequences=2),
    "required": DecodingOptions(strategy="beam", beam_size=2, force_words=("dog",), max_length=6),
    "banned": DecodingOptions(strategy="beam", beam_size=2, bad_words=("dog", "photo", "a"), max_length=6),
    "long": DecodingOptions(min_length=5, max_length=6, no_repeat_ngram_size=2, repetition_penalty=1.2),
    "sampled": DecodingOptions(strategy="sample", top_k=9, top_p=0.9, min_p=0.01, max_length=6, sampling_seed=3),
}


@pytest.mark.parametrize("family", [*CROSS_ATTENTION, "git", "blip2", "qwen2_5_vl", "gemma3"])
@pytest.mark.parametrize("search", SEARCHES)
def test_options(captioner_of: Captioners, images: Images, family: str, search: str) -> None:
    captioner, options = captioner_of(family), SEARCHES[search]
    for caption in captioner.caption(images[:2], options, guard=False):
        texts = [caption.text, *(other.text for other in caption.alternatives)]
        assert len(texts) == options.num_return_sequences
        assert len({" ".join(text.casefold().split()) for text in texts}) == len(texts)
        assert len(caption.words) <= options.max_length
        if search == "required":
            assert "dog" in caption.words
        if search == "banned":
            assert not {"dog", "photo", "a"} & set(caption.words)
        if search == "long" and family not in ("blip", "git"):  # which generate special tokens, not words, too
            assert len(caption.words) >= options.min_length


@families
def test_the_command_captions_a_folder(
    folder_of: Folders, captioner_of: Captioners, images: Images, tmp_path: Path, family: str
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for place, image in enumerate(images):
        Image.fromarray(image).save(photos / f"{place}.png")
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    out = tmp_path / "captions.jsonl"
    command = ["caption", str(photos), "--model", str(folder_of(family)), "--device", "cpu", "--max-length", "6"]
    command.append("--no-guard")  # random models
    assert cli.main([*command, "--out", str(out)]) == 1  # one image is broken
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    captioner = captioner_of(family)
    expected = captioner.caption(images, captioner.defaults.replace(max_length=6), guard=False)
    assert [row["caption"] for row in rows] == [caption.text for caption in expected]
    assert cli.main([*command, "--out", str(out)]) == 1  # resumes: nothing is captioned twice
    assert len(out.read_text(encoding="utf-8").splitlines()) == len(images)


@pytest.mark.slow
def test_an_older_transformers() -> None:
    """All of these tests with another version: SEESAY_TRANSFORMERS_4 is a folder with transformers 4.57."""
    older = os.environ.get("SEESAY_TRANSFORMERS_4", "")
    if not Path(older, "transformers").is_dir():
        pytest.skip("SEESAY_TRANSFORMERS_4 is not a folder with transformers 4.57")
    path = os.pathsep.join([older, *sys.path])
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "not slow", str(Path(__file__).parent)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout
    code = "import transformers; print(transformers.__version__)"
    used = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert used.stdout.startswith("4.")
