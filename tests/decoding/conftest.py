"""Runs a search over torch tensors and over NumPy arrays."""

from collections.abc import Iterator

import pytest

from tests.decoding import oracles


@pytest.fixture(params=["torch", "numpy"], scope="module")
def library(request: pytest.FixtureRequest) -> Iterator[str]:
    """Library of the arrays in which `oracles.decode` runs the search."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracles, "LIBRARY", request.param)
        yield request.param
