"""Each compiled function against the same in float64, by torch."""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seesay.models import kernels as module
from seesay.models.additive import doubled_exponential, energies
from seesay.models.cells import gru_update, lstm_update
from seesay.models.kernels import Kernels, kernels_for
from seesay.training.losses import cross_entropy


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


# Widths that fill the blocks of kernels.c, that do not, and that are smaller than one.
SIZES = [(3, 4, 5), (20, 7, 64), (37, 16, 128), (33, 49, 200), (5, 3, 321)]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("rows", "regions", "units"), SIZES)
def test_additive_attention_and_its_gradients(kernels: Kernels, rows: int, regions: int, units: int) -> None:
    images = 4
    keys, query = torch.randn(images, regions, units), torch.randn(rows, units)
    score, grad = torch.randn(units), torch.randn(rows, regions)
    image = torch.randint(0, images, (rows,))
    wide = [tensor.double().requires_grad_() for tensor in (keys, query, score)]
    wanted = torch.tanh(wide[0][image] + wide[1][:, None]) @ wide[2]
    slopes = torch.autograd.grad((wanted * grad).sum(), wide)
    doubled, factors = doubled_exponential(keys), doubled_exponential(query)
    found = kernels.additive_energies(doubled, factors, score, image)
    torch.testing.assert_close(found.double() + wide[2].sum(), wanted, rtol=1e-4, atol=1e-4)
    sums = torch.zeros_like(keys), torch.zeros_like(score)
    by_query = kernels.additive_gradients(doubled, factors, grad, image, sums)
    close(4 * score * by_query, slopes[1])
    close(4 * score * sums[0], slopes[0])
    close(-2 * sums[1] + grad.sum(), slopes[2])  # what is the same for all regions is left out


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("rows", "regions", "units"), SIZES)
def test_a_look_is_softmax_and_weighted_mean(kernels: Kernels, rows: int, regions: int, units: int) -> None:
    keys, query, memory = (
        torch.randn(3, size, width) for size, width in ((regions, units), (rows, units), (regions, 9))
    )
    score = torch.randn(units)
    wide = [tensor.double() for tensor in (keys, query, score, memory)]
    weights = (torch.tanh(wide[0][:, None] + wide[1][:, :, None]) @ wide[2]).softmax(-1)
    found = kernels.additive_attend(doubled_exponential(keys), query, score, memory)
    torch.testing.assert_close(found[1].double(), weights, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0].double(), weights @ wide[3], rtol=1e-4, atol=1e-5)


def test_a_look_bears_queries_that_are_too_large(kernels: Kernels) -> None:
    keys, query = torch.randn(1, 4, 8), torch.full((1, 2, 8), 500.0)
    query[0, 1] = -500.0
    context, weights = kernels.additive_attend(doubled_exponential(keys), query, torch.randn(8), torch.randn(1, 4, 3))
    torch.testing.assert_close(weights, torch.full((1, 2, 4), 0.25), rtol=1e-3, atol=1e-3)
    assert torch.isfinite(context).all()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inner", "outputs"), [(3, 5), (64, 32), (70, 33), (512, 200)])
def test_products_of_few_rows(kernels: Kernels, inner: int, outputs: int, bias: bool) -> None:
    weight, added = torch.randn(outputs, inner), torch.randn(outputs) if bias else None
    packed, x = kernels.pack_rows(weight), torch.randn(13, inner)
    for rows in range(1, 14):
        found = kernels.rows_product(x[:rows], packed, added, outputs)
        wide = F.linear(x[:rows].double(), weight.double(), None if added is None else added.double())
        torch.testing.assert_close(found.double(), wide, rtol=1e-4, atol=1e-4)


def test_a_row_does_not_depend_on_its_company(kernels: Kernels) -> None:
    weight, x = torch.randn(100, 70), torch.randn(4, 17, 70)
    packed = kernels.pack_rows(weight)
    whole = kernels.rows_product(x, packed, None, 100)
    assert whole.shape == (4, 17, 100)
    for rows in range(1, 14):
        assert torch.equal(kernels.rows_product(x[0, :rows].contiguous(), packed, None, 100), whole[0, :rows])


def test_sums_are_added_to(kernels: Kernels) -> None:
    keys, factors, grad = torch.rand(2, 3, 70), torch.rand(4, 70), torch.randn(4, 3)
    image, sums = torch.tensor([0, 1, 1, 0]), (torch.zeros(2, 3, 70), torch.zeros(70))
    kernels.additive_gradients(keys, factors, grad, image, sums)
    once = [each.clone() for each in sums]
    kernels.additive_gradients(keys, factors, grad, image, sums)
    for twice, single in zip(sums, once, strict=True):
        torch.testing.assert_close(twice, 2 * single)


def test_a_search_asks_for_as_many_rows_to_each_image(kernels: Kernels) -> None:
    keys, factors, score = torch.rand(3, 6, 130), torch.rand(3, 5, 130), torch.randn(130)
    wanted = (1 / (1 + keys[:, None] * factors[:, :, None])) @ (-2 * score)
    torch.testing.assert_close(kernels.additive_energies(keys, factors, score, None), wanted, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(energies(factors, keys, score), wanted, rtol=1e-4, atol=1e-4)


def test_saturated_sides_give_numbers(kernels: Kernels) -> None:
    keys = doubled_exponential(torch.tensor([[[1e4, -1e4, 1e4, 0.0]]]))
    factors = doubled_exponential(torch.tensor([[1e4, -1e4, -1e4, 0.0]]))
    found = kernels.additive_energies(keys, factors, torch.ones(4), torch.tensor([0]))
    torch.testing.assert_close(found + 4, torch.tanh(torch.tensor([[1e4, -1e4, 0.0, 0.0]])).sum(1, keepdim=True))
    sums = torch.zeros_like(keys), torch.zeros(4)
    slopes = kernels.additive_gradients(keys, factors, torch.ones(1, 1), torch.tensor([0]), sums)
    for each in (slopes, *sums):
        assert bool(torch.isfinite(each).all())


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("rows", "inner", "columns"), SIZES)
def test_products_with_the_matrix_of_a_image(kernels: Kernels, rows: int, inner: int, columns: int) -> None:
    matrix, image = torch.randn(3, inner, columns), torch.randint(0, 3, (rows,))
    x, grad = torch.randn(rows, inner), torch.randn(rows, columns)
    close(kernels.image_product(matrix, x, image), torch.bmm(x[:, None].double(), matrix[image].double())[:, 0])
    wanted = torch.bmm(matrix[image].double(), grad[..., None].double())[..., 0]
    close(kernels.image_product_back(matrix, grad, image), wanted)


@pytest.mark.usefixtures("threads", "kernels")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
def test_cross_entropy_is_torchs(dtype: torch.dtype, near: float, smoothing: float) -> None:
    logits = (4 * torch.randn(33, 517)).to(dtype).requires_grad_()
    targets = torch.randint(0, 517, (33,))
    wide = logits.detach().double().requires_grad_()
    wanted = F.cross_entropy(wide, targets, label_smoothing=smoothing)
    found = cross_entropy(logits, targets, smoothing)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    (grad,), (slope,) = torch.autograd.grad(3 * found, logits), torch.autograd.grad(3 * wanted, wide)
    assert grad.dtype == dtype
    close(grad, slope, near)


@pytest.mark.usefixtures("kernels")
def test_cross_entropy_of_far_apart_scores_is_no_infinity() -> None:
    logits = torch.tensor([[0.0, 300.0, -300.0], [-200.0, -200.0, -200.0]], requires_grad=True)
    found = cross_entropy(logits, torch.tensor([2, 0]))
    torch.testing.assert_close(found, (600 + torch.tensor(3.0).log()) / 2)
    (grad,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(grad, torch.tensor([[0.0, 0.5, -0.5], [-1 / 3, 1 / 6, 1 / 6]]), atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("target", [-1, 7])
def test_a_target_outside_the_vocabulary_is_refused_not_read(target: int) -> None:
    with pytest.raises(IndexError):
        cross_entropy(torch.randn(2, 7), torch.tensor([0, target]))


@pytest.mark.usefixtures("threads", "kernels")
@pytest.mark.parametrize("shape", [(3, 5), (40, 512), (2, 3, 33)])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
def test_gru_is_that_of_float64(shape: tuple[int, ...], dtype: torch.dtype, near: float) -> None:
    gates = [(2 * torch.randn(*shape[:-1], 3 * shape[-1])).to(dtype) for _ in range(2)]
    given = [*gates, torch.randn(shape)]
    chosen = torch.randn(shape)

    def run(tensors: list[Tensor]) -> tuple[Tensor, ...]:
        tensors = [tensor.clone().requires_grad_() for tensor in tensors]
        out = gru_update(tensors[0], tensors[1], tensors[2])
        return (out, *torch.autograd.grad((out * chosen).sum(), tensors))

    for found, wanted in zip(run(given), run([tensor.double() for tensor in given]), strict=True):
        close(found, wanted, near)


@pytest.mark.usefixtures("threads", "kernels")
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("shape", [(3, 5), (40, 512), (2, 3, 33)])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
def test_lstm_is_that_of_torch(shape: tuple[int, ...], parts: int, dtype: torch.dtype, near: float) -> None:
    rows, size = math.prod(shape[:-1]), shape[-1]
    given = [(2 * torch.randn(*shape[:-1], 4 * size)).to(dtype) for _ in range(parts)]
    chosen = torch.randn(shape), torch.randn(shape)
    cell = torch.randn(shape)

    def slopes(tensors: list[Tensor], hidden: Tensor, new: Tensor) -> tuple[Tensor, ...]:
        loss = (hidden * chosen[0]).sum() + (new * chosen[1]).sum()
        return (hidden, new, *torch.autograd.grad(loss, tensors))

    own = [tensor.clone().requires_grad_() for tensor in (cell, *given)]
    found = slopes(own, *lstm_update(own[1:], own[0]))
    with torch.no_grad():
        for one, other in zip(lstm_update(given, cell), found, strict=False):
            assert torch.equal(one, other)

    # torch's cell of an input that is the gates themselves, by an identity for a matrix
    wide = [tensor.double().requires_grad_() for tensor in (cell, *given)]
    layer = torch.nn.LSTMCell(4 * size, size, bias=False).double()
    layer.weight_ih.data, layer.weight_hh.data = torch.eye(4 * size).double(), torch.zeros(4 * size, size).double()
    gates, state = sum(wide[1:]).reshape(rows, -1), wide[0].reshape(rows, -1)  # type: ignore[union-attr]
    hidden, new = layer(gates, (torch.zeros_like(state), state))
    for one, other in zip(found, slopes(wide, hidden.view(shape), new.view(shape)), strict=True):
        close(one, other, near)
    assert [tensor.dtype for tensor in found] == [torch.float32] * 3 + [dtype] * parts


@pytest.mark.usefixtures("kernels")
def test_parts_of_an_lstms_gates_may_be_one_a_image() -> None:
    """up-down's mean region, which all hypotheses of an image share."""
    words, mean, cell = torch.randn(2, 5, 12), torch.randn(2, 1, 12, requires_grad=True), torch.randn(2, 5, 3)
    chosen, slopes = torch.randn(2, 2, 5, 3), []
    for parts in ([words, mean], [words + mean]):
        hidden, new = lstm_update(parts, cell)
        slopes.append((hidden, new, *torch.autograd.grad((chosen[0] * hidden + chosen[1] * new).sum(), mean)))
    for found, wanted in zip(*slopes, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("which", [0, 1])
def test_a_last_lstm_step_gets_a_gradient_of_one_output(which: int) -> None:
    gates, cell, chosen = torch.randn(4, 12), torch.randn(4, 3), torch.randn(4, 3)
    slopes = []
    for kind in (torch.float32, torch.float64):  # in C, and by torch's operations
        given = [tensor.to(kind).requires_grad_() for tensor in (gates, cell)]
        found = lstm_update(given[:1], given[1])[which]
        slopes.append(torch.autograd.grad((found * chosen).sum(), given))
    for one, other in zip(*slopes, strict=True):
        close(one, other)


@pytest.mark.usefixtures("kernels")
def test_gates_that_do_not_fit_the_state_are_refused_not_read() -> None:
    with pytest.raises(RuntimeError):
        lstm_update([torch.randn(4, 16)], torch.randn(4, 5))
    with pytest.raises(RuntimeError):
        gru_update(torch.randn(4, 15), torch.randn(4, 15), torch.randn(6, 5))
    with pytest.raises((RuntimeError, ValueError)):
        cross_entropy(torch.randn(3, 7), torch.tensor([1, 2]))


@pytest.mark.usefixtures("kernels")
def test_a_rounded_number_is_the_nearest_bfloat16() -> None:
    """Ties go to the even neighbour, as torch rounds."""
    logits = torch.linspace(-9, 9, 4001).bfloat16().view(1, -1).requires_grad_()
    (grad,) = torch.autograd.grad(cross_entropy(logits, torch.tensor([5])), logits)
    exact = torch.softmax(logits.detach().double(), -1)
    exact[0, 5] -= 1
    assert float(((grad - exact).abs() / exact.abs()).max()) <= 2**-8 * 1.01


def test_only_what_can_be_read_is_handed_to_them() -> None:
    for tensor in (torch.zeros(2, 3).T, torch.zeros(2, dtype=torch.float64), torch.zeros(2, device="meta")):
        assert kernels_for(tensor) is None
    assert kernels_for(torch.zeros(2, dtype=torch.bfloat16)) is None
    assert kernels_for(torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16), half=True) is None


def test_without_a_compiler_the_results_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 11), torch.randint(0, 11, (6,))
    gates, hidden = torch.randn(2, 4, 24), torch.randn(4, 8)

    def run() -> tuple[Tensor, ...]:
        lstm = lstm_update([gate[:, :20].contiguous() for gate in gates], hidden[:, :5].contiguous())
        return (cross_entropy(logits, targets, 0.1), gru_update(gates[0], gates[1], hidden), *lstm)

    with_it = run()
    monkeypatch.setattr(module, "compiled", lambda source: None)
    assert kernels_for(logits) is None
    for left, right in zip(with_it, run(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def close(found: Tensor, wanted: Tensor, near: float = 1e-5) -> None:
    found, wanted = found.detach().double(), wanted.detach().double()
    assert float((found - wanted).norm()) <= near * float(wanted.norm())
