"""Fixtures of the tests of training."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def log_capture(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Captures seesay's log, even after a command has detached its logger from the root."""
    logger = logging.getLogger("seesay")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
    logger.setLevel(level)
