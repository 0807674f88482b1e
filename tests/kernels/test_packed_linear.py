import pytest
import torch
import torch.nn.functional as F

from seesay.kernels.native import native
from seesay.kernels.packed_linear import pack_linear, packed_linear, reference


@pytest.mark.usefixtures("way", "threads")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (64, 32), (70, 33), (512, 200)])
def test_it_is_torchs_linear_layer(inputs: int, outputs: int, bias: bool) -> None:
    weight, added = torch.randn(outputs, inputs), torch.randn(outputs) if bias else None
    packed = pack_linear(weight)
    if packed is None:  # laid out by hand, for the reference
        packed = F.pad(weight, (0, 0, 0, -outputs % 16)).view(-1, 16, inputs).transpose(1, 2).contiguous()
    for rows in (*range(1, 15), 40):
        x = torch.randn(rows, inputs)
        wanted = F.linear(x, weight, added)
        torch.testing.assert_close(packed_linear(x, packed, added, outputs), wanted, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(reference(x, packed, added, outputs), wanted, rtol=1e-5, atol=1e-4)
    assert packed_linear(torch.randn(2, 3, inputs), packed, added, outputs).shape == (2, 3, outputs)


def test_a_row_does_not_depend_on_the_others() -> None:
    packed = pack_linear(torch.randn(90, 64))
    if packed is None:
        pytest.skip("no native library")
    x = torch.randn(23, 64)
    whole = packed_linear(x, packed, None, 90)
    for begin in range(23):
        for end in range(begin + 1, 24):
            assert torch.equal(packed_linear(x[begin:end], packed, None, 90), whole[begin:end])


def test_only_float32_is_packed() -> None:
    weight = torch.randn(5, 4)
    assert (pack_linear(weight) is None) == (native(weight) is None)
    assert pack_linear(weight.double()) is None
    assert pack_linear(weight.bfloat16()) is None
