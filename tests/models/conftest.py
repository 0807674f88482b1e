"""What the tests of compiled functions share."""

import pytest
import torch

from seesay.models.kernels import Kernels, kernels_for


@pytest.fixture
def kernels() -> Kernels:
    """The functions of kernels.c, after a seed; skips where there is no compiler for them."""
    torch.manual_seed(3)
    found = kernels_for(torch.zeros(1))
    if found is None:
        pytest.skip("needs a C compiler (cc)")
    return found
