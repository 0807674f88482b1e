import contextlib
import io
import logging

import pytest

from seesay.cli.main import main
from seesay.logs import logging_to


def state(name: str) -> tuple[list[logging.Handler], int, bool]:
    logger = logging.getLogger(name)
    return logger.handlers[:], logger.level, logger.propagate


def test_records_go_to_the_handler_alone_until_the_end(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    before = state("seesay"), state("other")
    with contextlib.suppress(KeyError), logging_to(logging.StreamHandler(stream), seesay="INFO", other="ERROR"):
        logging.getLogger("seesay.part").info("an event")
        logging.getLogger("seesay").debug("detail")
        logging.getLogger("other").warning("noise")
        raise KeyError
    assert stream.getvalue() == "an event\n"
    assert not caplog.records
    assert (state("seesay"), state("other")) == before


def test_a_command_restores_logging(capsys: pytest.CaptureFixture[str]) -> None:
    """Bug: threads of later tests logged to the stream of an earlier one, which was closed."""
    before = state("seesay")
    assert main(["presets"]) == 0
    assert main(["review", "nothing.jsonl"]) == 2
    assert state("seesay") == before
