import logging
from pathlib import Path

import pytest

from seesay.training.inputs import read_captions
from tests import foreign, tiny


@pytest.mark.parametrize(("language", "level", "lines"), [("zh", "word", 1), ("zh", "character", 0), ("de", "word", 0)])
def test_training_on_words_without_spaces_warns(
    language: str, level: str, lines: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign.make_data(tmp_path, language)
    with caplog.at_level(logging.WARNING, "seesay"):
        read_captions(tiny.in_loop(level=level), tmp_path)
    assert sum("use --level character" in line for line in caplog.messages) == lines
