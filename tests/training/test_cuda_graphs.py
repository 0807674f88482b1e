"""Steps as CUDA graphs against plain steps: on a CPU, where a graph is a plain call, and on a GPU if available."""

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from seesay.config import DecodingOptions, TrainingConfig
from seesay.data.batches import Example
from seesay.models.captioning import CaptionModel, build_model
from seesay.models.packing import pack_captions, pad_to_longest
from seesay.tokenizer import END_ID
from seesay.training import cuda_graphs as graphs
from seesay.training.cuda_graphs import Graph, GraphedCritic, GraphedTrainStep, Graphs, samples_of, uses_graphs
from seesay.training.losses import cross_entropy
from seesay.training.scst import SelfCritic, make_critic
from tests.models.decoder_cases import CONFIGS, TOKENS, V, sized

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))
DEVICES = ["cpu", GPU]
SOFT = sorted(set(CONFIGS) - {"show-attend-tell-hard"})
LONGEST = 11


def a_model(name: str, device: str) -> CaptionModel:
    torch.manual_seed(0)
    return build_model(sized(name).replace(initialisation="torch"), V, 5).to(device).train()


def features(device: str, seed: int = 1, images: int = 3) -> Tensor:
    return torch.randn(images, 4, 5, generator=torch.Generator().manual_seed(seed)).half().to(device)


def gradients(loss: Tensor, model: CaptionModel) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    assert largest > 1e-3
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SOFT)
def test_a_padded_step_has_the_loss_and_gradients_of_a_packed_one(name: str, device: str) -> None:
    model = a_model(name, device)
    steps = GraphedTrainStep(model, label_smoothing=0.1)
    for seed, tokens in ((1, TOKENS), (2, TOKENS.flip(0)), (3, TOKENS[:2, :, :4]), (1, TOKENS)):
        inputs, words = features(device, seed, len(tokens)), tokens.to(device)
        captions = pack_captions(tokens).to(torch.device(device))
        logits, penalty_of = model.forward_with_penalty(inputs, None, captions)
        wanted_penalty = penalty_of()
        wanted = cross_entropy(logits, captions.targets, 0.1)
        expected = gradients(wanted + wanted_penalty, model)
        loss, penalty = steps(inputs, words)
        assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
        assert float(penalty) == pytest.approx(float(torch.as_tensor(wanted_penalty).detach()), rel=1e-5)
        same(gradients(loss + penalty, model), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_a_loss_keeps_its_gradients_after_the_next_step(device: str) -> None:
    model = a_model("attention", device)
    steps = GraphedTrainStep(model, label_smoothing=0.0)
    words = TOKENS.to(device)
    wanted = gradients(steps(features(device, 1), words)[0], model)
    first, _ = steps(features(device, 1), words)
    steps(features(device, 2), words)
    same(gradients(first, model), wanted)


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_uses_weights_updated_by_an_optimizer(device: str) -> None:
    model = a_model("attention", device)
    steps, inputs, words = GraphedTrainStep(model, 0.0), features(device), TOKENS.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss, _ = steps(inputs, words)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("device", DEVICES)
def test_dropout_depends_on_the_seed_not_on_whether_the_shape_is_new(device: str) -> None:
    model = a_model("attention", device)
    model.feature_dropout.p = 0.5
    steps, inputs, words = GraphedTrainStep(model, 0.0), features(device), TOKENS.to(device)
    found = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        found.append(float(steps(inputs, words)[0].detach()))
    assert found[0] == found[1] != found[2]


def critics(dropout: bool = False) -> tuple[SelfCritic, SelfCritic]:
    examples = [
        Example(str(at), "", tuple(tuple(c[c > 0].tolist()) for c in of if c[0])) for at, of in enumerate(TOKENS)
    ]
    training = TrainingConfig(scst_samples=3, scst_dropout=dropout)
    return tuple(  # type: ignore[return-value]
        make_critic(training, DecodingOptions(), LONGEST, examples, kind) for kind in (SelfCritic, GraphedCritic)
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SOFT)
def test_samples_and_their_loss_equal_those_without_graphs(name: str, device: str) -> None:
    model = a_model(name, device)
    plain, graphed = critics()
    cut = []
    for seed in (1, 2, 1):
        inputs = features(device, seed)
        torch.manual_seed(seed)
        wanted = plain.sample(model, inputs, None)
        torch.manual_seed(seed)
        found = graphed.sample(model, inputs, None)
        assert found.tokens.tolist() == wanted.tokens.tolist()
        assert found.cut.tolist() == wanted.cut.tolist()
        assert found.rewarded.tolist() == wanted.rewarded.tolist()
        cut.append(found.cut.float().mean())
        advantages = torch.randn(found.cut.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        loss = plain.loss(model, inputs, None, wanted, advantages)
        expected = gradients(loss, model)
        again = graphed.loss(model, inputs, None, found, advantages)
        assert float(again.detach()) == pytest.approx(float(loss.detach()), rel=1e-4, abs=1e-5)
        same(gradients(again, model), expected)
    assert 0 < sum(cut) / len(cut) < 1, "some samples finish, some are truncated"


@pytest.mark.parametrize("device", DEVICES)
def test_dropout_stays_active_on_samples_if_configured(device: str) -> None:
    model = a_model("attention", device)
    model.feature_dropout.p = 0.5
    _, graphed = critics(dropout=True)
    inputs = features(device)
    found = graphed.sample(model, inputs, None)
    losses = set()
    for seed in range(3):
        torch.manual_seed(seed)
        losses.add(float(graphed.loss(model, inputs, None, found, torch.ones(found.cut.shape)).detach()))
    assert len(losses) == 3
    assert graphed.sample(model, inputs, None).tokens.shape[:2] == (3, 3)


@pytest.mark.parametrize("device", DEVICES)
def test_a_trained_encoder_gets_the_gradient_of_the_reward(device: str) -> None:
    """A graph computes no gradient of the features."""
    model = a_model("attention", device)
    plain, graphed = critics()
    found = []
    for critic in (plain, graphed):
        inputs = features(device).float().requires_grad_()
        torch.manual_seed(1)
        samples = critic.sample(model, inputs, None)
        advantages = torch.arange(9.0, dtype=torch.float64).reshape(3, 3)
        critic.loss(model, inputs, None, samples, advantages).backward()  # type: ignore[no-untyped-call]
        assert inputs.grad is not None
        found.append(inputs.grad)
    assert found[0].abs().max() > 1e-3
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)


class RecordsAutocast(torch.autograd.Function):
    """The identity; its backward pass records whether autocast is enabled."""

    was_on: ClassVar[list[bool]] = []

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        return inputs * 1

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        RecordsAutocast.was_on.append(torch.is_autocast_enabled(grad.device.type))
        return grad


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_does_not_apply_to_the_backward_pass(device: str) -> None:
    model = nn.Linear(3, 1).to(device)
    loss = graphs._loss(model, lambda x: (RecordsAutocast.apply(model(x)).float().sum(), ()))
    RecordsAutocast.was_on.clear()
    with torch.autocast(device, torch.bfloat16):
        found, _ = loss(torch.ones(2, 3, device=device))
    found.backward()  # type: ignore[no-untyped-call]
    assert RecordsAutocast.was_on
    assert not any(RecordsAutocast.was_on)
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == [[2.0, 2.0, 2.0]]


def test_tokens_after_the_end_are_not_part_of_a_sample() -> None:
    sampled = torch.tensor([[[5, END_ID, 6, 7], [5, 6, 7, END_ID], [5, 6, 7, 8], [END_ID, END_ID, 4, 5]]])
    found = samples_of(sampled, 3)
    assert found.tokens.tolist() == [[[1, 5, 2, 0, 0], [1, 5, 6, 7, 2], [1, 5, 6, 7, 2], [1, 2, 0, 0, 0]]]
    assert found.cut.tolist() == [[False, False, True, False]]
    assert found.rewarded.tolist() == [[[5, 2, 0, 0], [5, 6, 7, 2], [5, 6, 7, 0], [2, 0, 0, 0]]]


@pytest.mark.parametrize("device", DEVICES)
def test_a_graph_equals_its_function_for_each_shape(device: str) -> None:
    of_each = Graphs(lambda x, y: (x * y + 1).sum(0))
    for rows in (2, 5, 2, 3):
        x, y = torch.randn(2, rows, 4, device=device).unbind()
        assert torch.equal(of_each(x, y), (x * y + 1).sum(0))


@pytest.mark.parametrize("device", DEVICES)
def test_capturing_a_graph_keeps_the_random_state(device: str) -> None:
    graph = Graph(lambda: torch.rand(3, device=device), device=torch.device(device))
    torch.manual_seed(1)
    first = graph().clone()
    torch.manual_seed(1)
    assert torch.equal(graph(), first)


def test_training_on_a_cpu_uses_no_graphs() -> None:
    model = a_model("attention", "cpu")
    assert not uses_graphs(TrainingConfig(device="cpu"), model)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_graphs_are_used_for_capturable_models() -> None:
    assert uses_graphs(TrainingConfig(device="cuda"), a_model("attention", "cpu"))
    assert not uses_graphs(TrainingConfig(device="cuda", cuda_graphs=False), a_model("attention", "cpu"))
    assert not uses_graphs(TrainingConfig(device="cuda"), a_model("show-attend-tell-hard", "cpu"))


def test_padded_captions_index_the_same_tokens_as_packed_ones() -> None:
    padded, packed = pad_to_longest(TOKENS), pack_captions(TOKENS)
    values = torch.arange(len(packed.targets))
    by_place = {
        (int(packed.caption_of_row[row]), int(step)): int(value)
        for row, step, value in zip(packed.row_of_token(), packed.step_of_token(), values, strict=True)
    }
    assert int(padded.real.sum()) == len(values)
    for row, step, real, target in zip(
        padded.row_of_token(), padded.step_of_token(), padded.real, padded.targets, strict=True
    ):
        place = (int(padded.caption_of_row[row]), int(step))
        assert bool(real) == (place in by_place)
        if real:
            assert int(target) == int(packed.targets[by_place[place]])
    by_image = padded.by_image(3)
    spread = by_image.pad(torch.arange(len(padded.targets)) + 1)
    assert sorted(spread.flatten().tolist()) == list(range(1, len(padded.targets) + 1))
    assert by_image.pack(spread).tolist() == list(range(1, len(padded.targets) + 1))
    assert [int(image) for image in by_image.row] == [int(padded.image_of_row[row]) for row in padded.row_of_token()]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", SOFT)
def test_a_gpu_has_the_loss_and_gradients_of_a_cpu(name: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        model = a_model(name, device)
        loss, penalty = GraphedTrainStep(model, label_smoothing=0.1)(features(device), TOKENS.to(device))
        found.append((float(loss.detach()), gradients(loss + penalty, model)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    same({key: gradient.cpu() for key, gradient in found[1][1].items()}, found[0][1])
