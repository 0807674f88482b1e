"""What several tests of training share."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What seesay logs, also where the command line has run before and cut its logger off from the root."""
    logger = logging.getLogger("seesay")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
    logger.setLevel(level)
