"""Show, Attend and Tell against torch.nn.LSTMCell; hard attention against the sum over all samples."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seesay.models import hard_attention
from seesay.models.captioning import CaptionModel
from seesay.models.decoders import show_attend_tell
from seesay.models.hard_attention import sample_regions
from seesay.models.packing import pack_captions
from seesay.models.recurrent import doubly_stochastic_penalty
from seesay.training.scheduled_sampling import mix_in_samples
from tests.models.decoder_cases import MASK, TOKENS, D, V, decoder, fed, memories, spread


def cell_of(made: Any) -> nn.LSTMCell:
    """Return torch's cell over (context, word) with the decoder's weights."""
    cell = nn.LSTMCell(D + made.embedding.embedding_dim, made.hidden_size).double()
    with torch.no_grad():
        cell.weight_ih.copy_(torch.cat([made.context_gates.weight, made.word_gates.weight], dim=1))
        cell.bias_ih.copy_(made.word_gates.bias)
        cell.weight_hh.copy_(made.state_gates.weight)
        cell.bias_hh.zero_()
    return cell


def reference(made: Any, memory: Tensor, words: list[int]) -> Tensor:
    """Return logits (T, V) of one image (N, D) and one caption, by the equations of the paper."""
    cell, mean = cell_of(made), memory.mean(0)
    hidden = torch.tanh(made.first_hidden.weight @ mean + made.first_hidden.bias)[None]
    memory_cell = torch.tanh(made.first_cell.weight @ mean + made.first_cell.bias)[None]
    rows, attention = [], made.attention
    for word in words:
        inner = memory @ attention.key.weight.T + attention.key.bias + attention.query.weight @ hidden[0]
        weights = torch.softmax(torch.tanh(inner) @ attention.score.weight[0], dim=0)
        beta = torch.sigmoid(made.beta.weight[0] @ hidden[0] + made.beta.bias)
        context = beta * (weights @ memory)
        embedded = made.embedding.weight[word]
        hidden, memory_cell = cell(torch.cat([context, embedded])[None], (hidden, memory_cell))
        deep = embedded + made.hidden_output(hidden[0]) + made.context_output.weight @ context
        rows.append(made.output.weight @ deep + made.output.bias)
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["show-attend-tell", "show-attend-tell-hard"])
def test_it_equals_the_equations_of_the_paper(name: str) -> None:
    """Hard attention too, which uses the weighted mean outside training."""
    made, memory = decoder(name), memories()
    for (image, caption), logits in spread(made(memory, MASK, pack_captions(TOKENS)).logits, TOKENS).items():
        wanted = reference(made, memory[image][MASK[image]], fed(image, caption))
        torch.testing.assert_close(logits, wanted, rtol=1e-10, atol=1e-10)


def test_the_doubly_stochastic_penalty_is_added_in_training_only() -> None:
    made, packed = decoder("show-attend-tell", doubly_stochastic=0.3), pack_captions(TOKENS)
    assert made(memories(), MASK, packed).penalty() == 0.0
    maps = torch.zeros(len(packed.inputs), 4, dtype=torch.float64)
    state = made.init_state(memories(), MASK).pick(torch.zeros(3, 2, dtype=torch.int64))
    places = {int(place): row for row, place in enumerate(packed.caption_of_row)}
    for t in range(5):
        output = made.step(TOKENS[:, :, t], state)
        state = output.state
        for place, row in places.items():
            token = (packed.row_of_token() == row) & (packed.step_of_token() == t)
            maps[token] = output.attention[place // 2, place % 2]
    wanted = 0.3 * doubly_stochastic_penalty(maps, packed, MASK[packed.image_of_row])
    torch.testing.assert_close(made.train()(memories(), MASK, packed).penalty(), wanted)
    made.doubly_stochastic = 0.0
    assert made(memories(), MASK, packed).penalty() == 0.0


def test_regions_are_sampled_with_their_weights() -> None:
    torch.manual_seed(0)
    weights = torch.tensor([0.6, 0.3, 0.1, 0.0], dtype=torch.float64).expand(20000, 4).clone().requires_grad_()
    region, log_probs = sample_regions(weights)
    assert not region.requires_grad
    assert torch.equal(region.sum(1), torch.ones(20000, dtype=torch.float64))
    torch.testing.assert_close(region.mean(0), weights[0].detach(), atol=0.015, rtol=0)
    torch.testing.assert_close(log_probs, (region * weights).sum(1).log())


TWO = torch.tensor([[[1, 4, 2]]])
"""One caption of two tokens, so that three regions give nine combinations of samples."""


def every_draw(made: Any, patch: pytest.MonkeyPatch, baseline: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield probability, cross-entropy and penalty of each combination of sampled regions."""
    for regions in itertools.product(range(3), repeat=2):
        left = list(regions)
        dropout_masks: list[Tensor] = []

        def scripted(weights: Tensor, left: list[int] = left, dropout_masks: list[Tensor] = dropout_masks) -> Any:
            chosen = left.pop(0)
            one_hot = torch.zeros_like(weights)
            one_hot[..., chosen] = 1.0
            dropout_masks.append(weights[..., chosen])
            return one_hot, weights[..., chosen].log()

        patch.setattr(show_attend_tell, "sample_regions", scripted)
        made.hard_loss.baseline.copy_(torch.tensor([baseline, 1.0]))
        packed = pack_captions(TWO)
        logits, penalty = made(memories()[:1, :3], None, packed)
        yield torch.stack(dropout_masks).prod(), nn.functional.cross_entropy(logits, packed.targets), penalty()


def gradients(made: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    made.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("baseline", [-3.0, 0.0, 10.0])
def test_the_gradient_of_hard_attention_equals_that_of_the_expectation(
    baseline: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For any baseline, which reduces the variance without bias."""
    made = decoder("show-attend-tell-hard", hard_reward=1.0, hard_entropy=0.0, hard_share=1.0).train()
    expected = torch.zeros((), dtype=torch.float64)
    for probability, cross_entropy_rows, _ in every_draw(made, monkeypatch, baseline):
        expected = expected + probability * cross_entropy_rows
    exact = gradients(made, expected)
    total = 0.0
    estimated = {name: torch.zeros_like(gradient) for name, gradient in exact.items()}
    for probability, cross_entropy_rows, penalty in every_draw(made, monkeypatch, baseline):
        total += float(probability.detach())
        for name, gradient in gradients(made, cross_entropy_rows + penalty).items():
            estimated[name] += probability.detach() * gradient
    assert total == pytest.approx(1.0)
    assert float(exact["attention.query.weight"].abs().sum()) > 1e-6
    for name, gradient in exact.items():
        torch.testing.assert_close(estimated[name], gradient, rtol=1e-8, atol=1e-12)


def test_the_entropy_term_is_the_entropy_of_the_sampled_captions() -> None:
    torch.manual_seed(3)
    packed = pack_captions(TOKENS)
    made = decoder("show-attend-tell-hard", hard_reward=0.0, hard_entropy=0.5, hard_share=1.0).train()
    recorded: list[Tensor] = []
    weigh = made.attention.weigh

    def recording(*arguments: Any) -> Tensor:
        recorded.append(weigh(*arguments))
        return recorded[-1]

    made.attention.weigh = recording
    penalty = made(memories(), None, packed).penalty()
    weights = torch.cat(recorded)
    torch.testing.assert_close(penalty, 0.5 * (weights * weights.log()).sum() / len(weights))
    made.hard_share = 0.0  # no regions are sampled, so that there is no reward
    assert not made(memories(), None, packed).penalty().detach().any()


def test_the_baseline_is_a_moving_average_of_captions_likelihoods() -> None:
    loss = hard_attention.HardAttentionLoss(1.0, 0.0)
    befores = [float(loss._update_baseline(torch.tensor(values))) for values in ([-4.0, -6.0], [-1.0], [-9.0])]
    weights = [0.1 * 0.9, 0.1]
    assert befores == pytest.approx([-5.0, -5.0, (-5 * weights[0] - 1 * weights[1]) / sum(weights)])
    again = hard_attention.HardAttentionLoss(1.0, 0.0)
    again.load_state_dict(loss.state_dict())  # a resumed run restores it
    assert torch.equal(again.baseline, loss.baseline)
    assert loss.baseline.any()


def test_the_baseline_is_updated_once_per_step() -> None:
    """Scheduled sampling and SCST run the model in training mode too."""
    torch.manual_seed(0)
    made = decoder("show-attend-tell-hard", hard_reward=1.0).train()
    model, packed = CaptionModel(nn.Linear(D, D).double(), made), pack_captions(TOKENS)
    mix_in_samples(model, memories(), MASK, packed, 0.5)
    model(memories(), MASK, packed)
    assert not made.hard_loss.baseline.any()
    model.forward_with_penalty(memories(), MASK, packed).penalty()
    assert float(made.hard_loss.baseline[1]) == pytest.approx(0.1)


def test_hard_attention_learns_to_attend() -> None:
    """One region determines the next word, the others have no information; training must prefer it."""
    torch.manual_seed(0)
    made = decoder("show-attend-tell-hard", hard_reward=1.0, hard_share=1.0).train()
    for layer in (made.first_hidden, made.first_cell):  # otherwise the initial state would determine the word
        nn.init.zeros_(layer.weight)
        layer.requires_grad_(False)
    memory = torch.zeros(32, 4, D, dtype=torch.float64)
    memory[:, :, 0] = 1.0
    words = torch.arange(32) % 2
    memory[torch.arange(32), 2, 1 + words] = 3.0
    memory[:, 2, 3] = 2.0
    tokens = torch.tensor([[[1, 4, 2]], [[1, 5, 2]]])[words]
    optimizer, packed = torch.optim.Adam(made.parameters(), 0.03), pack_captions(tokens)
    for _ in range(120):
        logits, penalty = made(memory, None, packed)
        loss = nn.functional.cross_entropy(logits, packed.targets) + penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made.eval()
    with torch.no_grad():
        output = made.step(torch.ones(32, 1, dtype=torch.int64), made.init_state(memory, None))
    assert float(output.attention[:, 0, 2].min()) > 0.8
    assert output.logits[:, 0].argmax(-1).tolist() == (4 + words).tolist()
    assert output.logits.shape == (32, 1, V)
