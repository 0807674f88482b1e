"""Search as it runs where asking the device costs nothing, and where it does."""

from collections.abc import Iterator

import pytest

import seesay.decoding.search
import seesay.decoding.selection


@pytest.fixture(params=["asks", "never asks"], scope="module")
def asking(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways through a search: with the short cuts of a processor, and as on a graphics card without them."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "never asks":
            for module in (seesay.decoding.search, seesay.decoding.selection):
                patch.setattr(module, "surely_none", lambda found: False)
        yield request.param
