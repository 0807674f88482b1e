"""The output guard: known bad outputs are rejected with their reason, what people write is accepted."""

import json
from collections.abc import Iterator

import pytest

from seesay.captioners import guard
from seesay.captioners.guard import clean, count_rejections, rejection_reason, retry_options, summarize_rejections
from seesay.config import DecodingOptions
from tests import tiny

PROMPT = "Describe this image in one short sentence."

# Outputs of pretrained models as users reported them, or as the model families produce them.
BAD = {
    guard.EMPTY: ["", "  \n\t "],
    guard.SPECIAL_TOKENS: [
        "<s></s>",
        "</s><s><pad><pad><pad>",  # ComfyUI-Florence2#194
        "<|im_end|>",
        "<|endoftext|><|im_end|>",
        "[PAD] [PAD] [SEP]",
        "<unk> <unk>",
        "<end_of_turn>",
    ],
    guard.REASONING: [
        "<think>The user wants a caption. I see a dog, so",  # Qwen3-VL#1673, ollama#14716
        "<think>\nFirst, the picture shows a red car.\n</think>",
        "◁think▷The picture shows",
        "So the picture shows a red car.</think>",
    ],
    guard.PUNCTUATION: [
        "!!!!",
        "!!!!!!!!!!!!!!!!!!!!!!!!!!!!",  # photoprism#5453
        "! ! ! ! ! ! !",
        "...",
        ". . , , - -",
        "A dog on grass!!!!!!!!!!!!",
        "????????",
        "\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd a",
        "A man ------------------------",
    ],
    guard.REFUSAL: [
        "I'm sorry, but I can't assist with that request.",
        "I’m sorry, but I can’t help with identifying people.",
        "Sorry, I can't describe this image.",
        "I cannot provide a description of this image.",
        "I can't view images, but I can help you describe them.",
        "I am unable to process images directly.",
        "I'm unable to see the image you mention.",
        "I'm not able to identify people in photos.",
        "I do not have the ability to view images.",
        "I don't see an image attached to your message.",
        "As an AI language model, I do not have access to the image.",
        "As an AI, I don't have eyes.",
        "I'm just a text-based model and cannot see.",
        "Unfortunately, I cannot open the file.",
        "I apologize, but the content is not appropriate.",
        "\"I'm sorry, I can't do that.\"",
        "Please provide the image you would like me to describe.",
        "Please upload an image.",
        "No image was provided.",
        "There is no image attached.",
        "It seems that the image is missing or was not uploaded.",
        "It looks like you haven't uploaded an image.",
        "It appears that no image was attached.",
        "It seems like your image failed to load.",
        "I'm sorry",
        "Sorry!",
        "Es tut mir leid, aber ich kann das Bild nicht sehen.",
        "Je suis désolé, mais je ne peux pas décrire cette image.",
        "Lo siento, no puedo ayudar con eso.",
        "抱歉，我无法查看图片。",
        "申し訳ありませんが、画像を表示できません。",
    ],
    guard.PROMPT_ECHO: [
        PROMPT,
        "describe this image in one short sentence",
        f"{PROMPT} {PROMPT} {PROMPT}",  # Bongard-OpenWorld#4
        f"{PROMPT} {PROMPT} Describe this image",
        "Describe this image in one",
        f"{PROMPT} A dog runs across the grass.",
    ],
    guard.REPETITION: [
        "a man a man a man a man a man",
        "the the the the the the",
        "a dog on a dog on a dog on a",
        "A cat sits. A cat sits. A cat sits. A cat sits.",
        "The sky is blue and clear. The sky is blue and clear.",
        "A long road through the hills. It is lined by trees, trees, trees, trees, trees",
        "word word word word",
        "hahahahahahahahahahahahaha",
        "狗狗狗狗狗狗狗狗狗狗",
        "a red ball and a red cube , a red ball near a red cube , a red ball with a red cube , a red ball",
    ],
}

GOOD = [
    "a very very big dog",
    "two dogs and two cats",
    "A dog runs across the grass.",
    "A black and white photo of a black and white dog .",
    "A man in a red shirt and a man in a blue shirt and a woman in a green shirt",
    "A sign that reads: no, no, no!",
    "The crowd goes up and up and up the stairs.",
    'A boy yells "Yes!!!" ...',
    "A sorry-looking dog sits in the rain.",
    "I see a cat.",
    "A person who cannot see the camera",
    "An AI robot waves at visitors.",
    "It looks like a cat is not amused.",
    "It looks like there are no people in the image.",
    "It appears that the photo was not taken outdoors.",
    "Sorry dog in a plastic cone",
    "a <unk> dog and a <unk>",
    "A thinking man sits on a bench.",
    "dog",
    "A1",
    "犬が草の上を走る。",
    "一只狗在草地上奔跑",
    "dog, grass, ball, running, park",
    "A teal ball lies left of a teal cube, and a teal cone stands right of a teal cube.",
]


@pytest.mark.parametrize(("reason", "text"), [(reason, text) for reason, texts in BAD.items() for text in texts])
def test_bad_outputs_are_rejected_with_their_reason(reason: str, text: str) -> None:
    assert rejection_reason(text, prompt=PROMPT) == reason


@pytest.mark.parametrize("text", GOOD)
def test_captions_are_accepted(text: str) -> None:
    assert rejection_reason(text, prompt=PROMPT) == ""
    assert clean(text) == text


def test_a_caption_that_was_cut_is_rejected_only_without_sentence_end() -> None:
    assert rejection_reason("A dog runs across the", finished=False) == guard.CUT  # taggui#282
    for text in ("A dog runs.", 'It says "Stop!"', "A dog (brown).)", "犬が走る。", "A dog…"):
        assert rejection_reason(text, finished=False) == ""
    assert rejection_reason("A dog runs across the") == ""


def test_a_short_prompt_may_begin_the_caption() -> None:
    # BLIP continues its prompt: "a photo of" is part of the caption.
    assert rejection_reason("a photo of a dog", prompt="a photo of") == ""
    for text in ("a photo of", "A photo of a photo of", "a photo of a photo of a photo of a photo"):
        assert rejection_reason(text, prompt="a photo of") == guard.PROMPT_ECHO


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        ("<think>It is a dog.</think>\n\nA dog on grass.", "A dog on grass."),
        ("It is a dog, I think.</think>A dog on grass.", "A dog on grass."),
        ("<think></think><answer>A dog.</answer>", "A dog."),
        ("◁think▷A dog.◁/think▷A dog on grass.", "A dog on grass."),
        ("<|begin_of_box|>A dog.<|end_of_box|>", "A dog."),
        ("<s>A dog on grass.</s><pad><pad>", "A dog on grass."),
        ("A dog on grass.<|im_end|>", "A dog on grass."),
    ],
)
def test_what_surrounds_a_caption_is_removed(text: str, usable: str) -> None:
    assert clean(text) == usable
    assert rejection_reason(text) == ""


def test_reasons_are_counted() -> None:
    counts = count_rejections(["", "a dog", "the the the the", " "])
    assert summarize_rejections(counts) == "3 rejected (2 empty, 1 repetition)"


def _human_captions() -> Iterator[str]:
    folder = tiny.SHARED / "data"
    for line in (folder / "flickr8k" / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines():
        yield line.partition("\t")[2]
    content = json.loads((folder / "coco-val159" / "captions_val2017.json").read_bytes())
    yield from (entry["caption"] for entry in content["annotations"])


@pytest.mark.skipif(not (tiny.SHARED / "data").is_dir(), reason="needs the data sets")
def test_no_human_caption_is_rejected() -> None:
    captions = list(_human_captions())
    assert len(captions) > 40_000
    assert count_rejections(captions) == {}


class TestRetry:
    def test_a_cut_caption_gets_twice_the_length(self) -> None:
        assert list(retry_options(DecodingOptions(max_length=20), guard.CUT)) == [DecodingOptions(max_length=40)]
        assert list(retry_options(DecodingOptions(), guard.CUT)) == []

    @pytest.mark.parametrize("reason", [guard.EMPTY, guard.REPETITION, guard.REFUSAL, guard.PUNCTUATION])
    def test_the_second_attempt_uses_other_settings(self, reason: str) -> None:
        beam = DecodingOptions(strategy="beam", beam_size=3, no_repeat_ngram_size=3, min_length=1, max_length=9)
        sample = DecodingOptions(strategy="sample", temperature=0.7, sampling_seed=1, min_length=1, max_length=9)
        expected = [beam, sample] if reason in (guard.EMPTY, guard.REPETITION) else [sample, beam]
        assert list(retry_options(DecodingOptions(max_length=9), reason)) == expected
        assert list(retry_options(beam, reason)) == [sample.replace(no_repeat_ngram_size=3)]
        again = list(retry_options(sample, reason))
        assert sample.replace(sampling_seed=2) in again  # another seed, not the same samples again

    def test_required_words_stay_required(self) -> None:
        options = DecodingOptions(strategy="beam", force_words=("dog",))
        (only,) = retry_options(options, guard.REFUSAL)
        assert only.force_words == ("dog",)

    def test_impossible_combinations_are_left_out(self) -> None:
        options = DecodingOptions(strategy="beam", beam_size=4, num_beam_groups=4)
        assert all(each.strategy == "sample" for each in retry_options(options, guard.REPETITION))


def test_long_texts_do_not_stall_the_rules() -> None:
    # A regular expression with nested repetition would take minutes on such texts.
    for text in ("a " * 2000, "x" * 4000, "<" * 4000, "! " * 2000, "it seems " * 500, "i am not able " * 300):
        assert rejection_reason(text)
