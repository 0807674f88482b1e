"""Ctrl-C at any time ends a command with one line, and the same command finishes afterwards."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from seesay.cli.interrupts import keyboard_interrupts

IMPORTS = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "seesay.cli.options":  # one of the first imports of the command line
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
from seesay.__main__ import run
run()
"""
COMMANDS = {
    "caption": "caption {data}/images --model run --out captions.jsonl",
    "explain": "explain {image} --model run --out explained.html",
    "train": "train {data} --preset scenes --epochs 2 --out trained",
    "tune": "tune {data} --preset scenes --epochs 1 --trials 2 --out tuned",
    "evaluate": "evaluate run {data} --split test",
    "export": "export run --out exported",
    "data-scenes": "data scenes scenes --train 2000 --val 10 --test 10",
    "data-check": "data check {data}",
    "models": "models",
}
SERVERS = {
    "serve": "serve run --port 0",
    "review": "review reviewed.jsonl --port 0",
}


def start(folder: Path, arguments: list[str]) -> subprocess.Popen[str]:
    """Start Python with a handler of SIGINT as in a terminal; a process in the background may ignore the signal."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_while_the_command_line_is_imported(tmp_path: Path) -> None:
    process = start(tmp_path, ["-c", IMPORTS])
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "seesay: stopped; run the same command again\n")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn scenes, enough for seconds of work."""
    from seesay.data.synthetic.scenes import make_scenes

    folder = tmp_path_factory.mktemp("data")
    make_scenes(folder, 300, 20, 20)
    return folder


@pytest.fixture
def folder(tmp_path: Path, data: Path, loop_run: Path) -> Path:
    """A working folder with a run and a file of captions."""
    shutil.copytree(loop_run, tmp_path / "run")
    image = sorted((data / "images").iterdir())[0]
    (tmp_path / "reviewed.jsonl").write_text(f'{{"image": "{image}", "caption": "a circle"}}\n')
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("name", COMMANDS)
def test_while_a_command_runs(folder: Path, data: Path, name: str, seconds: float) -> None:
    """The signal arrives at another step of the command on every machine; what must hold is the same at each."""
    image = min((data / "images").iterdir())
    arguments = ["-m", "seesay", *COMMANDS[name].format(data=data, image=image).split()]
    process = start(folder, arguments)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    if process.returncode == 130:
        assert err.splitlines()[-1].startswith("seesay: stopped")
    else:
        assert process.returncode in (0, -signal.SIGINT)  # finished; -SIGINT: while the interpreter shut down
    again = start(folder, arguments)
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_servers_end_with_code_0(folder: Path, name: str) -> None:
    process = start(folder, ["-m", "seesay", *SERVERS[name].split()])
    assert process.stdout is not None

    assert "http://127.0.0.1:" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err


@pytest.fixture
def default_handler() -> Iterator[None]:
    """The handler of SIGINT of a new process; libraries of earlier tests may have replaced it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_handler")
def test_an_error_that_replaces_an_interrupt() -> None:
    # Bug: Ctrl-C during an import of torch.onnx was reported as "cannot be exported".
    @keyboard_interrupts()
    def interrupted() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise AttributeError("partially initialized module") from None

    with pytest.raises(KeyboardInterrupt):
        interrupted()


@pytest.mark.usefixtures("default_handler")
def test_an_interrupt_in_a_destructor(capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    @keyboard_interrupts()
    def interrupted() -> None:
        Interrupted()
        time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capsys.readouterr().err == ""


def test_other_errors_and_handlers_are_kept() -> None:
    handler, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    with pytest.raises(ZeroDivisionError), keyboard_interrupts():
        math.log(1 / 0)
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == (handler, hook)
