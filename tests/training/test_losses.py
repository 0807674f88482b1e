import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from seesay.models.packing import pack_captions
from seesay.tokenizer import END_ID, PAD_ID, START_ID, UNK_ID
from seesay.training.losses import cross_entropy, sampled_log_probs


def log_probs(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(logits - np.log(np.exp(logits).sum(1, keepdims=True)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_loss_is_the_mean_cross_entropy_in_nats(smoothing: float) -> None:
    """Szegedy et al. 2016: label smoothing spreads a share of the target probability over the vocabulary."""
    random = np.random.default_rng(0)
    logits, targets = random.normal(size=(7, 5)) * 3, random.integers(0, 5, 7)
    wanted = np.full((7, 5), smoothing / 5)
    wanted[np.arange(7), targets] += 1 - smoothing
    expected = -(wanted * log_probs(logits)).sum(1).mean()
    loss = cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets), smoothing)
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_padding_does_not_count() -> None:
    """Tutorial code averages over padding too, which lowers the loss where caption lengths differ."""
    random = torch.Generator().manual_seed(0)
    short, long = [1, 4, 2, 0, 0, 0, 0], [1, 5, 6, 7, 5, 6, 2]
    table = torch.randn(8, 8, generator=random)  # the next word depends only on the current one

    def loss(tokens: list[list[int]]) -> float:
        packed = pack_captions(torch.tensor([tokens]))
        return float(cross_entropy(table[packed.inputs], packed.targets))

    alone = [loss([short]), loss([long])]
    assert loss([short, long]) == pytest.approx((2 * alone[0] + 6 * alone[1]) / 8, rel=1e-6)


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits = torch.full((1, 5000), 1.0, dtype=torch.bfloat16)
    loss = cross_entropy(logits, torch.tensor([0]))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(np.log(5000), rel=1e-6)


@pytest.mark.parametrize("allow_unk", [True, False])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_sampled_log_probs_exclude_tokens_that_cannot_be_sampled(
    dtype: torch.dtype, near: float, allow_unk: bool
) -> None:
    """Against a softmax over the other columns, in float64, with random output gradients."""
    torch.manual_seed(0)
    logits = (3 * torch.randn(9, 40)).to(dtype)
    logits[:, [PAD_ID, START_ID, UNK_ID]] += 20  # never generated, however probable
    words = torch.tensor([END_ID, *range(10, 18)])
    weights = torch.randn(9)
    never = [PAD_ID, START_ID] + ([] if allow_unk else [UNK_ID])
    allowed = [word for word in range(40) if word not in never]

    wide = logits.double().requires_grad_()
    places = torch.tensor([allowed.index(word) for word in words.tolist()])
    wanted = torch.log_softmax(wide[:, allowed], 1)[torch.arange(9), places]
    (slope,) = torch.autograd.grad((wanted * weights).sum(), wide)
    own = logits.requires_grad_()
    found = sampled_log_probs(own, words, allow_unk)
    (grad,) = torch.autograd.grad((found * weights).sum(), own)

    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad.double(), slope, rtol=near, atol=near)
    assert not grad[:, never].any()
    assert grad.dtype == dtype


def test_masked_padding_has_a_zero_gradient() -> None:
    logits = torch.randn(3, 9, requires_grad=True)
    found = sampled_log_probs(logits, torch.tensor([4, PAD_ID, 5]), allow_unk=False)
    counted = torch.where(torch.tensor([True, False, True]), found, 0.0)
    (grad,) = torch.autograd.grad(counted.sum(), logits)
    assert torch.isfinite(grad).all()
    assert not grad[1].any()
    assert grad[0].any()
