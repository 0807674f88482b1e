import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seesay.checkpoint import load_run
from seesay.config import Config, DecodingOptions, ModelConfig, TrainingConfig
from seesay.data.batches import Batch, Example, GlobalBatchStats, pad_captions
from seesay.decoding import Hypothesis
from seesay.errors import ConfigError
from seesay.models.captioning import CaptionModel, build_model
from seesay.models.packing import pack_captions
from seesay.tokenizer import END_ID, START_ID
from seesay.training import scst as self_critical
from seesay.training.losses import policy_gradient
from seesay.training.scst import ScstOutput, SelfCritic, make_critic, without_dropout
from seesay.training.train import train
from tests import tiny
from tests.training.outcomes import epochs, first_loss, rows

EXAMPLES = (
    Example("a", "", ((START_ID, 4, 5, END_ID), (START_ID, 5, END_ID))),
    Example("b", "", ((START_ID, 4, END_ID),)),
    Example("c", "", ((START_ID, 5, 5, END_ID),)),
)
ALLOWED = [END_ID, 4, 5]
LONGEST = 2
"""Maximum number of words of a caption in these tests."""


def a_model(decoder: str = "attention") -> CaptionModel:
    torch.manual_seed(1)
    sizes = {"projection_size": 5, "hidden_size": 5, "embedding_size": 4, "attention_size": 3, "output_size": 0}
    sizes = tiny.what_is_read(decoder, sizes)
    dropout = {"feature_dropout": 0.3, "embedding_dropout": 0.3, "output_dropout": 0.3}
    config = ModelConfig(decoder=decoder, initialisation="torch", **sizes, **dropout)  # type: ignore[arg-type]
    return build_model(config, 6, 4).double().train()


def a_batch() -> tuple[Batch, Tensor]:
    features = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    captions = pack_captions(pad_captions([EXAMPLES[0].tokens]))
    return Batch(
        ("a",), features, None, None, captions, GlobalBatchStats(1, captions.rows, len(captions.targets))
    ), features


def a_critic(baseline: str, samples: int = 2) -> SelfCritic:
    training = TrainingConfig(scst_samples=samples, scst_baseline=baseline)  # type: ignore[arg-type]
    return make_critic(training, DecodingOptions(), LONGEST, EXAMPLES, SelfCritic)


def every_caption() -> list[tuple[int, ...]]:
    """Return every caption of the words 4 and 5 that can be sampled, with its end unless truncated."""
    ended = [(*words, END_ID) for length in range(LONGEST + 1) for words in itertools.product((4, 5), repeat=length)]
    return [*ended, *itertools.product((4, 5), repeat=LONGEST)]


def as_samples(captions: Sequence[Sequence[int]]) -> list[list[Hypothesis]]:
    """Return captions of one image as samples."""
    return [[Hypothesis(tuple(w for w in row if w != END_ID), (), 0.0, END_ID in row) for row in captions]]


def caption_probabilities(model: CaptionModel, features: Tensor, captions: list[tuple[int, ...]]) -> Tensor:
    """Return the probability of each caption, step by step over the allowed words."""
    found = []
    for caption in captions:
        state, probability, last = (
            model.step_decoder.init_state(model.project(features), None),
            torch.ones(()).double(),
            START_ID,
        )
        for word in caption:
            logits, state, _ = model.step_decoder.step(torch.tensor([[last]]), state)
            probability = probability * torch.softmax(logits[0, 0, ALLOWED], 0)[ALLOWED.index(word)]
            last = word
        if END_ID not in caption:  # truncated: any further word
            logits, state, _ = model.step_decoder.step(torch.tensor([[last]]), state)
            probability = probability * (1 - torch.softmax(logits[0, 0, ALLOWED], 0)[ALLOWED.index(END_ID)])
        found.append(probability)
    return torch.stack(found)


def gradient(loss: Tensor, model: CaptionModel) -> Tensor:
    parts = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return torch.cat(
        [
            torch.zeros(p.numel()).double() if g is None else g.flatten()
            for g, p in zip(parts, model.parameters(), strict=True)
        ]
    )


@pytest.mark.parametrize(
    ("decoder", "baseline"), [("attention", "others"), ("attention", "greedy"), ("pooled", "others")]
)
def test_gradient_is_on_average_that_of_the_expected_reward(
    decoder: str, baseline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pair of samples, weighted by its probability, against the enumerated expectation."""
    model, (batch, features), critic = a_model(decoder), a_batch(), a_critic(baseline)
    captions = every_caption()
    assert len(captions) == 1 + 2 + 4 + 4
    padded = pad_captions([captions])  # (1, 11, 3)
    rewards = torch.from_numpy(critic.reward(("a",), padded.numpy())[0])
    model.eval()
    probability = caption_probabilities(model, features, captions)
    wanted = gradient(-(probability * rewards).sum(), model)
    probability = probability.detach()
    assert float(probability.sum()) == pytest.approx(1)
    model.train()
    average = torch.zeros_like(wanted)
    deviations = []
    for first, second in itertools.combinations_with_replacement(range(len(captions)), 2):
        drawn = as_samples([captions[first], captions[second]])
        monkeypatch.setattr(self_critical, "sample_captions", lambda *_, drawn=drawn: drawn)
        found = gradient(critic(model, features, batch).loss, model)
        weight = float(probability[first] * probability[second]) * (1 if first == second else 2)  # in either order
        average += weight * found
        deviations.append(weight * float((found**2).sum()))
    mean_length = 5 / 2  # of the reference captions, with end tokens
    torch.testing.assert_close(average * mean_length, wanted, rtol=1e-6, atol=1e-9)
    assert float(wanted.norm()) > 1e-3
    assert sum(deviations) > 3 * float((average**2).sum()), "each single draw is far from the mean"


def test_the_gradient_of_random_samples_averages_to_the_exact_one() -> None:
    """The mean over many images and samples approaches the exact gradient."""
    torch.manual_seed(0)
    model, (batch, features), critic = a_model(), a_batch(), a_critic("others", samples=400)
    captions = every_caption()
    rewards = torch.from_numpy(critic.reward(("a",), pad_captions([captions]).numpy())[0])
    found = sum(gradient(critic(model, features, batch).loss, model) for _ in range(25)) / 25
    model.eval()
    wanted = gradient(-(caption_probabilities(model, features, captions) * rewards).sum(), model) / 2.5
    assert float((found - wanted).norm()) < 0.15 * float(wanted.norm())


def test_the_baseline_others_is_the_mean_of_the_image_s_other_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (batch, features), critic = a_model(), a_batch(), a_critic("others", samples=3)
    drawn = [[4, 5, END_ID], [5, END_ID], [5, 5]]
    monkeypatch.setattr(self_critical, "sample_captions", lambda *_: as_samples(drawn))
    seen = {}

    def spy(log_probs: Tensor, advantages: Tensor, samples: int) -> Tensor:
        seen["advantages"] = advantages
        return policy_gradient(log_probs, advantages, samples)

    monkeypatch.setattr(self_critical, "policy_gradient", spy)
    found = critic(model, features, batch)
    rewards = critic.reward(("a",), pad_captions([drawn]).numpy())[0]
    assert len(set(rewards)) == 3
    wanted = [rewards[k] - (rewards.sum() - rewards[k]) / 2 for k in range(3)]
    order = [0, 2, 1, 0, 2, 1, 0, 2]  # three steps, the longest rows first
    np.testing.assert_allclose(seen["advantages"].numpy(), [wanted[k] for k in order])
    assert found.reward == pytest.approx(rewards.mean()) == pytest.approx(found.baseline)


def test_the_greedy_baseline_is_the_reward_of_the_greedy_caption() -> None:
    torch.manual_seed(0)
    model, (batch, features), critic = a_model(), a_batch(), a_critic("greedy")
    found = critic(model, features, batch)
    model.eval()
    captions = every_caption()
    walked: list[int] = []
    state, last = model.step_decoder.init_state(model.project(features), None), START_ID
    while last != END_ID and len(walked) <= LONGEST:
        logits, state, _ = model.step_decoder.step(torch.tensor([[last]]), state)
        last = ALLOWED[int(logits[0, 0, ALLOWED].argmax())]
        walked.append(last)
    walked = walked if walked[-1] == END_ID else walked[:LONGEST]
    assert tuple(walked) in captions
    assert found.baseline == pytest.approx(critic.reward(("a",), np.array([[walked]]))[0, 0])


def test_dropout_is_off_in_scst_and_restored_after() -> None:
    model, (batch, features), critic = a_model(), a_batch(), a_critic("others", samples=5)

    def once() -> ScstOutput:
        torch.manual_seed(5)
        return critic(model, features, batch)

    first, second = once(), once()
    assert first.loss.item() == second.loss.item()
    assert model.training
    assert model.feature_dropout.training


def test_dropout_changes_the_log_probabilities_but_not_the_samples() -> None:
    model, (batch, features) = a_model(), a_batch()
    found = {}
    for dropout in (False, True):
        torch.manual_seed(5)
        training = TrainingConfig(scst_samples=5, scst_dropout=dropout)
        critic = make_critic(training, DecodingOptions(), LONGEST, EXAMPLES, SelfCritic)
        found[dropout] = critic(model, features, batch)
        assert model.training
    assert found[True].reward == found[False].reward
    assert found[True].loss.item() != found[False].loss.item()


def scst_config(weights: Path, first: Path, **overrides: object) -> Config:
    return tiny.cached(weights, **{"scst_weight": 0.8, "init_from": str(first), **overrides})


@pytest.mark.parametrize("baseline", ["others", "greedy"])
def test_scst_raises_its_reward(
    cached_run: Path, colours: Path, features: Path, weights: Path, tmp_path: Path, baseline: str
) -> None:
    config = scst_config(weights, cached_run, scst_baseline=baseline, scst_weight=1.0, learning_rate=3e-3, epochs=20)
    train(config, colours, tmp_path / "run", features=features)
    rewards = epochs(tmp_path / "run", "reward")
    assert np.mean(rewards[-4:]) > np.mean(rewards[:4]) + 0.25
    steps = [row for row in rows(tmp_path / "run") if not row["val_loss"]]
    assert all(row["reward"] and row["baseline"] for row in steps)
    if baseline == "others":
        assert all(float(row["reward"]) == pytest.approx(float(row["baseline"])) for row in steps)


def test_scst_weight_mixes_reward_and_cross_entropy(
    cached_run: Path, colours: Path, features: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SelfCritic, "__call__", lambda *_: ScstOutput(torch.tensor(2.0, requires_grad=True), 0.5, 0.5))
    losses = {}
    for share in (0.25, 0.5, 1.0):
        config = scst_config(weights, cached_run, epochs=1, scst_weight=share)
        losses[share] = first_loss(config, tmp_path / str(share), colours, features)
    cross_entropy_rows = (losses[0.5] - 0.5 * 2) / 0.5
    assert cross_entropy_rows > 0.01
    assert losses[0.25] == pytest.approx(0.75 * cross_entropy_rows + 0.25 * 2, rel=1e-5)
    assert losses[1.0] == pytest.approx(2.0)


def test_cross_entropy_training_logs_no_rewards(cached_run: Path) -> None:
    assert {row["reward"] for row in rows(cached_run)} == {row["baseline"] for row in rows(cached_run)} == {""}


def test_scst_without_a_trained_run_raises(colours: Path, features: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^training\.scst_weight starts from a trained run; .*--init-from RUN$"):
        train(tiny.cached(weights, scst_weight=0.8), colours, tmp_path / "run", features=features)
    assert not (tmp_path / "run").exists()


def test_scst_starts_from_the_best_weights_of_the_run(
    cached_run: Path, colours: Path, features: Path, weights: Path, tmp_path: Path
) -> None:
    """With a tiny learning rate its validation score equals the run's best."""
    config = scst_config(weights, cached_run, learning_rate=1e-12, epochs=1)
    result = train(config, colours, tmp_path / "run", features=features)
    assert result.best == pytest.approx(load_run(cached_run).info.progress["best"], abs=1e-9)


@pytest.mark.parametrize("decoder", ["attention", "pooled"])
def test_without_dropout_equals_evaluation_mode_with_gradients(decoder: str) -> None:
    config = ModelConfig(
        decoder=decoder,
        projection_size=8,
        hidden_size=8,
        embedding_size=8,
        output_size=0,
        num_layers=2 if decoder == "pooled" else 1,
        feature_dropout=0.5,
        embedding_dropout=0.5,
        output_dropout=0.5,
    )
    model = build_model(config, 9, 5).train()
    model.projection.eval()  # its mode must be restored too
    modes = {name: module.training for name, module in model.named_modules()}
    features, tokens = torch.randn(2, 3, 5), torch.tensor([[[1, 4, 5, 2]], [[1, 6, 2, 0]]])
    captions = pack_captions(tokens)
    with without_dropout(model):
        found = model(features, None, captions)
        recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
        assert all(module.training for module in recurrent)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert [module.dropout for module in recurrent] == [0.5] * len(recurrent)
    assert not torch.allclose(model(features, None, captions), found)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    torch.testing.assert_close(model.eval()(features, None, captions), found)
