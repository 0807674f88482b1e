"""The second stage of a pretrained model: its gradient, its reward, and resuming it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seesay.captioners.pretrained import load_pretrained
from seesay.captioners.pretrained.steps import OFFSET
from seesay.captioners.spec import ModelSpec
from seesay.checkpoint import read_run
from seesay.cli import main as cli
from seesay.config import DecodingOptions, TrainingConfig
from seesay.data.batches import Example
from seesay.errors import ConfigError
from seesay.tokenizer import END_ID, START_ID
from seesay.training.finetuning.critic import FinetuningCritic
from seesay.training.finetuning.module import FinetuningModule
from seesay.training.scst import Critic, make_critic
from seesay.training.train import train
from tests.training.finetuning.conftest import CAPTIONS, Folders, settings
from tests.training.finetuning.test_recipe import images_of, outcome, train_with_kills
from tests.training.outcomes import rows

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
]


def critic_of(folder: Path, data: Path, **changes: Any) -> tuple[FinetuningCritic, Any, list[str]]:
    """Return a critic on four images, their encoded batch, and their ids."""
    captioner = load_pretrained(ModelSpec((str(folder),), "cpu"))
    images = images_of(data)[:4]
    ids = [str(place) for place in range(4)]
    examples = [
        Example(
            name,
            image,
            ((START_ID, *(token + OFFSET for token in captioner.family.caption_ids(text)), END_ID),),
        )
        for name, image, text in zip(ids, images, CAPTIONS, strict=False)
    ]
    options = DecodingOptions(max_length=4)
    training = TrainingConfig(scst_weight=1.0, **changes)
    critic = FinetuningCritic(captioner, make_critic(training, options, 0, examples, Critic))
    return critic, captioner.encode([captioner.load_inputs(image) for image in images]), ids


@pytest.mark.parametrize("family", ["blip", "vision_encoder_decoder"])
def test_log_probabilities_of_samples_are_those_of_the_search(folder_of: Folders, sixteen: Path, family: str) -> None:
    """With an advantage of one for a single sample, the loss is its negative log-probability."""
    critic, encoded, ids = critic_of(folder_of(family), sixteen, scst_samples=3)
    torch.manual_seed(0)
    found = critic.sample(ids, encoded)
    assert np.allclose(found.rated.advantages.sum(1), 0, atol=1e-9)
    module = FinetuningModule(critic.captioner, settings(folder_of(family)), [0], {}, critic.scst.options, critic)  # type: ignore[arg-type]
    checked = 0
    for image, samples in enumerate(found.samples):
        for number, sample in enumerate(samples):
            if not sample.finished:
                continue
            found.rated.advantages[:] = 0.0
            found.rated.advantages[image, number] = 1.0
            with torch.no_grad():
                total = sum(
                    float(critic.loss(module.logits(each.inputs, each.targets.shape[1]), each))
                    for each in critic.passes(encoded, found, 5)
                )
            assert total == pytest.approx(-sum(sample.log_probs), abs=1e-3)
            checked += 1
    assert checked


def test_a_step_along_the_gradient_favours_rewarded_samples(folder_of: Folders, sixteen: Path) -> None:
    critic, encoded, ids = critic_of(folder_of("blip"), sixteen, scst_samples=4)
    module = FinetuningModule(critic.captioner, settings(folder_of("blip")), [0], {}, critic.scst.options, critic)  # type: ignore[arg-type]
    torch.manual_seed(1)
    found = critic.sample(ids, encoded)
    found.rated.advantages[:] = np.random.default_rng(1).normal(size=found.rated.advantages.shape)

    def loss() -> torch.Tensor:
        passes = critic.passes(encoded, found, 5)
        return torch.stack(
            [critic.loss(module.logits(each.inputs, each.targets.shape[1]), each) for each in passes]
        ).sum()

    before = loss()
    before.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for weight in critic.captioner.model.parameters():
            if weight.grad is not None:
                weight -= 1e-3 * weight.grad
        assert float(loss()) < float(before) - 1e-4


def test_greedy_baseline_is_the_reward_of_the_greedy_caption(folder_of: Folders, sixteen: Path) -> None:
    critic, encoded, ids = critic_of(folder_of("blip"), sixteen, scst_samples=2, scst_baseline="greedy")
    found = critic.sample(ids, encoded)
    again = critic.sample(ids, encoded)
    assert found.rated.baseline == again.rated.baseline
    assert found.samples != again.samples


def test_second_stage_keeps_the_score_and_resumes(folder_of: Folders, sixteen: Path, tmp_path: Path) -> None:
    first = settings(folder_of("blip"), lora=True, epochs=8, log_every=50, checkpoint_every=500)
    train(first, sixteen, tmp_path / "first")
    before = read_run(tmp_path / "first").info.progress["best"]
    command = ["train", str(sixteen), "--scst", "--init-from", str(tmp_path / "first"), "--limit-images", "48"]
    options = ["--epochs", "2", "--captions-per-pass", "30", "--log-every", "1", "--checkpoint-every", "2"]
    assert cli.main([*command, *options, "--out", str(tmp_path / "whole")]) == 0
    config = read_run(tmp_path / "whole").config
    assert config.training.learning_rate == pytest.approx(first.training.learning_rate / 10)
    assert all(float(row["reward"]) > 0 for row in rows(tmp_path / "whole") if row["reward"])
    assert read_run(tmp_path / "whole").info.progress["best"] >= 0.9 * before
    train_with_kills(config, sixteen, tmp_path / "broken", steps=(0, 4))
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")


def test_the_first_stage_must_have_the_same_kind_of_weights(folder_of: Folders, sixteen: Path, tmp_path: Path) -> None:
    train(settings(folder_of("blip"), limit_images=16, epochs=1), sixteen, tmp_path / "first")
    config = settings(folder_of("blip"), lora=True, init_from=str(tmp_path / "first"))
    with pytest.raises(ConfigError, match=r"start from a run with the same --model and --lora"):
        train(config, sixteen, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"starts from a trained run; pass --init-from RUN"):
        train(settings(folder_of("blip"), scst_weight=0.5), sixteen, tmp_path / "run")
