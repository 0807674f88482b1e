"""What commands print."""

import pytest
from rich.console import Console

from seesay import console as console_module


def test_a_line_that_is_said_is_not_broken_for_a_reader_that_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Where the width was not known, `seesay extract` once broke what it says at 80 characters.
    monkeypatch.setattr(console_module, "console", Console(width=20))
    console_module.say("[36] pictures in features/colours-test_resnet-48.safetensors; 36 encoded now")
    assert capsys.readouterr().out.splitlines() == [
        "[36] pictures in features/colours-test_resnet-48.safetensors; 36 encoded now"
    ]
