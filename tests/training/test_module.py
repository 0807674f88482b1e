import pytest
import torch

from seesay.config import resolve_config
from seesay.metrics.scores import Scores
from seesay.tokenizer import Tokenizer
from seesay.training.module import CaptioningModule
from seesay.training.rewards import CaptionReward
from tests.foreign import CAPTIONS
from tests.training.test_rewards import examples, padded


def validated(level: str, language: str) -> Scores:
    """Return the validation scores of captions that are references without their last characters."""
    config = resolve_config(overrides={"level": level})
    references = {str(number): captions for number, captions in enumerate(CAPTIONS[language])}
    tokenizer = Tokenizer.build([text for image in references.values() for text in image], config.text)
    module = CaptioningModule(torch.nn.Identity(), config, tokenizer, None, references, 5)  # type: ignore[arg-type]
    module.metrics.update(
        [captions[0][:-3] for captions in references.values()], list(references.values()), list(references)
    )
    return module.metrics.compute()


@pytest.mark.parametrize("language", ["zh", "ja", "th"])
def test_validation_of_a_character_run_is_scored_in_characters(language: str) -> None:
    """Bug: PTB tokens were complete sentences, so that every epoch scored 0.0 and the first was kept."""
    assert validated("word", language).corpus["CIDEr"] < 0.01
    scores = validated("character", language)
    assert scores.corpus["CIDEr"] > 1
    assert "|tok:characters|" in scores.signature


def test_validation_of_words_is_scored_in_ptb_tokens() -> None:
    assert "|tok:ptb|" in validated("word", "de").signature


def test_reward_of_a_character_run_uses_characters() -> None:
    """A sample without its last characters keeps most of its reward."""
    captions = [text for image in CAPTIONS["zh"] for text in image]
    tokenizer = Tokenizer.build(captions, resolve_config(overrides={"level": "character"}).text)
    ids = [[tokenizer.encode(text)[1:-1] for text in image] for image in CAPTIONS["zh"]]
    whole, cut, other = ids[0][0], ids[0][0][:-3], ids[1][0]
    rewards = CaptionReward(examples(ids))(["p0"], padded([[whole, cut, other]]))[0]
    assert rewards[0] > rewards[1] > 0.3 * rewards[0] > rewards[2]
