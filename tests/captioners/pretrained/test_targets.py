"""Training inputs of every family: a forward pass gives the log-probabilities of the search, and labels are masked."""

import inspect
from pathlib import Path

import pytest
import torch
from PIL import Image

from seesay.captioners.pretrained.adapters import add_adapters
from seesay.captioners.pretrained.families.chat import Chat
from seesay.captioners.pretrained.loading import load_pretrained
from seesay.captioners.pretrained.steps import OFFSET, start
from seesay.captioners.pretrained.targets import IGNORED, continue_prompts, decode_after
from seesay.captioners.spec import ModelSpec
from seesay.config import DecodingOptions, FinetuningConfig
from seesay.decoding import GenerationRequest, generate
from seesay.tokenizer import END_ID
from tests.captioners.pretrained import models
from tests.captioners.pretrained.conftest import Captioners, Folders, Images

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
families = pytest.mark.parametrize("family", sorted(models.FAMILIES))


@families
@torch.no_grad()
def test_a_forward_pass_gives_the_log_probabilities_of_the_search(
    captioner_of: Captioners, images: Images, family: str
) -> None:
    """Captions of unequal lengths in one batch: the padding of one changes nothing in another."""
    captioner = captioner_of(family)
    inputs = [captioner.load_inputs(image) for image in images]
    (part,) = captioner.encode(inputs).parts
    decoder, state = start(captioner.model, {name: captioner.on_device(value) for name, value in part.features.items()})
    found = [best for (best,) in generate(decoder, state, GenerationRequest(DecodingOptions(max_length=7)))]
    # Shortened, so that lengths differ, and before special tokens, such as those that stand for an image.
    special = {token + OFFSET for token in captioner.tokenizer.all_special_ids}
    plain = [next((at for at, token in enumerate(best.tokens) if token in special), 7) for best in found]
    lengths = [min(len(best.tokens), plain[place], 7 - 2 * place) for place, best in enumerate(found)]
    assert sum(lengths) > 3
    captions = [
        [*(token - OFFSET for token in best.tokens[:length]), captioner.family.end]
        for best, length in zip(found, lengths, strict=True)
    ]
    images_of = [Image.fromarray(pixels) for pixels, _ in inputs]
    arguments = captioner.family.training_inputs(images_of, [prompt for _, prompt in inputs], captions)
    labels = arguments.pop("labels")
    assert labels.shape[1] == max(map(len, captions))
    assert (labels != IGNORED).sum(1).tolist() == list(map(len, captions))
    logits = captioner.model(**arguments, return_dict=True).logits[:, -labels.shape[1] :]
    if "logits_to_keep" in inspect.signature(type(captioner.model).forward).parameters:
        kept = captioner.model(**arguments, return_dict=True, logits_to_keep=labels.shape[1]).logits
        torch.testing.assert_close(kept[:, -labels.shape[1] :], logits, atol=1e-4, rtol=1e-4)
    for row, (best, length) in enumerate(zip(found, lengths, strict=True)):
        log_probs = decoder.to_search(logits[row].float()).log_softmax(-1)
        expected = torch.tensor(best.log_probs[:length])
        actual = log_probs[range(length), list(best.tokens[:length])]
        torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-3)
        if length == len(best.tokens) and best.finished:
            assert float(log_probs[length, END_ID]) == pytest.approx(best.log_probs[length], abs=2e-4)


@families
def test_caption_ids_have_no_special_tokens_and_decode_to_the_caption(captioner_of: Captioners, family: str) -> None:
    found = captioner_of(family)
    ids = found.family.caption_ids(" a red dog ")
    assert found.tokenizer.decode(ids).strip() == "a red dog"
    assert not set(ids) & set(found.tokenizer.all_special_ids)
    assert found.family.end not in ids


@families
def test_default_adapters_are_outside_the_image_encoder_and_the_output(folder_of: Folders, family: str) -> None:
    captioner = load_pretrained(ModelSpec((str(folder_of(family)),), "cpu"))
    encoders = tuple(f"{name}." for name in captioner.family.image_encoders())
    assert encoders
    output = captioner.model.get_output_embeddings()
    (identity,) = captioner.identities()
    add_adapters(captioner.family, FinetuningConfig(model="x", lora=True), identity, train_encoder=False)
    trained = [name for name, weight in captioner.model.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora_" in name and not name.startswith(encoders) for name in trained)
    assert captioner.model.get_output_embeddings() is output


def test_adapters_of_the_image_encoder(folder_of: Folders) -> None:
    captioner = load_pretrained(ModelSpec((str(folder_of("blip")),), "cpu"))
    (identity,) = captioner.identities()
    finetuning = FinetuningConfig(model="x", lora=True, lora_targets=("all-linear",))
    add_adapters(captioner.family, finetuning, identity, train_encoder=True)
    trained = [name for name, weight in captioner.model.named_parameters() if weight.requires_grad]
    assert any(name.startswith("vision_model.") for name in trained)


def test_labels_follow_the_prompt_and_skip_padding() -> None:
    prompts = {
        "input_ids": torch.tensor([[0, 7, 8], [6, 7, 8]]),
        "attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
    }
    found = continue_prompts(prompts, [[3, 4, 2], [5, 2]])
    assert found["input_ids"].tolist() == [[0, 7, 8, 3, 4], [6, 7, 8, 5, 0]]
    assert found["attention_mask"].tolist() == [[0, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert found["labels"].tolist() == [[3, 4, 2], [5, 2, IGNORED]]
    found = decode_after({"pixel_values": 1}, [9, 1], [[3, 4, 2], [5, 2]])
    assert found["decoder_input_ids"].tolist() == [[9, 1, 3, 4], [9, 1, 5, 0]]
    assert found["decoder_attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert found["labels"].tolist() == [[3, 4, 2], [5, 2, IGNORED]]


def test_an_answer_is_written_as_the_template_writes_it(folder_of: Folders, tmp_path: Path) -> None:
    """A space before the answer and the template's end of a turn; the model has several end tokens."""
    captioner = load_pretrained(ModelSpec((str(folder_of("smolvlm")),), "cpu"))
    family, tokenizer = captioner.family, captioner.tokenizer
    assert isinstance(family, Chat)
    turn = tokenizer.convert_tokens_to_ids("<end_of_utterance>")
    captioner.model.generation_config.eos_token_id = [tokenizer.eos_token_id, turn]
    assert family.end == tokenizer.eos_token_id  # the template of the tiny model writes no answers
    family.processor.chat_template = (
        "{% for message in messages %}{{ message['role'] }}:{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}{% endfor %}"
        "<end_of_utterance>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    del family.__dict__["_answer"]
    assert family.end == turn
    assert tokenizer.decode(family.caption_ids("a dog")) == " a dog"
