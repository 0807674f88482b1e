"""Fixtures of the tests of compiled functions."""

import pytest
import torch

from seesay.models.kernels import Kernels, kernels_for


@pytest.fixture
def kernels() -> Kernels:
    """The functions of kernels.c, after seeding; skips without a compiler."""
    torch.manual_seed(3)
    found = kernels_for(torch.zeros(1))
    if found is None:
        pytest.skip("needs a C compiler (cc)")
    return found
