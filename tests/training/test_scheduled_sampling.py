from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from seesay.config import TrainingConfig
from seesay.models.packing import PackedCaptions, pack_captions
from seesay.training.scheduled_sampling import mix_in_samples, sampling_probability
from seesay.training.train import train
from tests import tiny
from tests.training.outcomes import epochs


class ShiftModel(nn.Module):
    """Predicts token 10 + 10 b + w after token w of image b."""

    def forward(self, features: Tensor, memory_mask: Tensor | None, captions: PackedCaptions) -> Tensor:
        predicted = 10 + 10 * captions.image_of_row[captions.row_of_token()] + captions.inputs
        logits = torch.full((len(predicted), 40), -1e4)
        logits[:, :4] = 1e4  # special tokens must not be sampled
        return logits.scatter(1, predicted[:, None], 0.0)


TOKENS = torch.tensor([[[1, 4, 5, 6, 2], [1, 7, 2, 0, 0]], [[1, 8, 9, 2, 0], [0, 0, 0, 0, 0]]])


def inputs_by_row(captions: PackedCaptions) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for row, word in zip(captions.row_of_token().tolist(), captions.inputs.tolist(), strict=True):
        found.setdefault(int(captions.caption_of_row[row]), []).append(word)
    return found


def test_a_sample_replaces_the_token_that_it_predicts() -> None:
    captions = pack_captions(TOKENS)
    mixed = mix_in_samples(ShiftModel(), torch.zeros(2, 1, 1), None, captions, 1.0)  # type: ignore[arg-type]
    assert inputs_by_row(captions) == {0: [1, 4, 5, 6], 1: [1, 7], 2: [1, 8, 9]}
    # The sample at position t is predicted from the true token before it, 10 for the first image and 20 for the second.
    assert inputs_by_row(mixed) == {0: [1, 11, 14, 15], 1: [1, 11], 2: [1, 21, 28]}
    assert torch.equal(mixed.targets, captions.targets)
    assert mixed.sizes == captions.sizes


def test_replacements_have_the_given_probability_at_all_positions() -> None:
    captions = pack_captions(torch.tensor([[[1, *([5] * 20), 2]] * 200]))
    torch.manual_seed(0)
    mixed = mix_in_samples(ShiftModel(), torch.zeros(1, 1, 1), None, captions, 0.3)  # type: ignore[arg-type]
    guessed = (mixed.inputs != captions.inputs).view(21, 200).float().mean(1)
    assert guessed[0] == 0
    assert float(guessed[1:].mean()) == pytest.approx(0.3, abs=0.03)
    assert float((guessed[1:] - 0.3).abs().max()) < 4.5 * (0.3 * 0.7 / 200) ** 0.5


def test_the_probability_rises_to_its_maximum() -> None:
    training = TrainingConfig(scheduled_sampling=0.4, scheduled_sampling_epochs=4)
    found = [sampling_probability(training, epoch) for epoch in range(7)]
    assert found == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert sampling_probability(TrainingConfig(), 10) == 0


def test_training_with_scheduled_sampling_starts_equal_then_differs(
    colours: Path, features: Path, weights: Path, tmp_path: Path
) -> None:
    for name, share in (("plain", 0.0), ("guessing", 0.5)):
        config = tiny.cached(weights, scheduled_sampling=share, scheduled_sampling_epochs=2, epochs=6)
        train(config, colours, tmp_path / name, features=features)
    plain, guessing = (epochs(tmp_path / name, "train_loss") for name in ("plain", "guessing"))
    assert plain[0] == guessing[0]
    assert guessing[-1] > plain[-1]  # it is harder
    assert guessing[-1] < 0.7 * guessing[0]
