"""Printing and progress bars."""

import io

import pytest
from rich.console import Console

from seesay.cli import console as console_module


def test_lines_are_not_wrapped_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Bug: without a known width, `seesay extract` wrapped its output at 80 characters.
    monkeypatch.setattr(console_module, "console", Console(width=20))
    console_module.print_line("[36] images in features/colours-test_resnet-48.safetensors; 36 encoded now")
    assert capsys.readouterr().out.splitlines() == [
        "[36] images in features/colours-test_resnet-48.safetensors; 36 encoded now"
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_bars_are_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    out = io.StringIO()
    monkeypatch.setattr(console_module, "errors", Console(file=out, force_terminal=terminal, width=100))
    with console_module.progress("encoding", "images") as advance, console_module.step_progress() as step:
        for done in range(1, 4):  # one bar after the other: a terminal shows one at a time
            advance(done, 3)
        for label in ("epoch 1/2 step", "epoch 1/2 validation step"):
            for done in range(1, 4):
                step(label, done, 3)
    shown = out.getvalue()
    assert all((part in shown) is terminal for part in ("encoding", "epoch 1/2 step", "epoch 1/2 validation step"))
    assert (shown == "") is not terminal
