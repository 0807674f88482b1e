import contextlib
import io
import logging
import subprocess
import sys

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


TRAIN = """
import logging, sys
from seesay.logs import visible_log
if len(sys.argv) > 1:
    logging.getLogger("seesay").setLevel(sys.argv[1])
for _ in range(2):
    with visible_log():
        logging.getLogger("seesay.training").info("epoch 1 done")
logging.getLogger("seesay.training").info("afterwards")
"""


@pytest.mark.parametrize(("level", "lines"), [("", 2), ("WARNING", 0)])
def test_a_program_without_logging_sees_the_progress_of_training(level: str, lines: int) -> None:
    # Bug: training from Python printed nothing until its end.
    command = [sys.executable, "-c", TRAIN, *filter(None, [level])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, len(done.stderr.splitlines())) == ("", lines)
    assert done.stderr.count("epoch 1 done") == lines
