"""Options that all commands share: --json, --quiet, completion, the status line, and exit codes."""

import importlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts import App

from seesay.cli import console as console_module
from seesay.cli import main as cli
from seesay.cli.options import ExitCode

ROOT = Path(__file__).parents[2]


def document(capsys: pytest.CaptureFixture[str], *arguments: object) -> object:
    """Run a command with --json; return the document, which is all of stdout."""
    capsys.readouterr()
    assert cli.main([*map(str, arguments), "--json"]) == ExitCode.OK
    return json.loads(capsys.readouterr().out)


def test_results_are_one_json_document(
    cached_run: Path,
    colours: Path,
    images: list[str],
    features: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    found = document(capsys, "caption", images[0], "--model", cached_run)
    assert isinstance(found, dict)
    assert (found["image"], found["finished"]) == (images[0], True)
    job = document(capsys, "caption", images[0], "--model", cached_run, "--out", "out.jsonl")
    assert isinstance(job, dict)
    assert (job["captioned"], job["failed"], job["out"]) == (1, 0, "out.jsonl")
    scores = document(capsys, "evaluate", cached_run, colours, "--features", features, "--out", "scores", "--draws", 10)
    assert isinstance(scores, dict)
    assert scores == {**json.loads(Path("scores/scores.json").read_text()), "folder": "scores"}
    compared = document(capsys, "compare", "scores", "scores", "--draws", 10)
    assert isinstance(compared, dict)
    difference = compared["against_the_first"][0]["differences"]["CIDEr"]
    assert difference["first"] == difference["second"] == scores["scores"]["CIDEr"]
    explained = document(capsys, "explain", images[0], "--model", cached_run)
    assert isinstance(explained, dict)
    assert explained["caption"] == found["caption"]
    diagnosed = document(capsys, "doctor")
    assert isinstance(diagnosed, dict)
    assert "torch" in diagnosed
    listed = document(capsys, "models")
    assert isinstance(listed, dict)
    assert listed["runs"] == []
    assert listed["recommended"]
    presets = document(capsys, "presets")
    assert isinstance(presets, list)
    assert "attention-gru" in [preset["name"] for preset in presets]


def test_json_of_several_images_is_refused(images: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["caption", *images[:2], "--json"]) == ExitCode.ERROR
    assert "--format jsonl" in capsys.readouterr().err


def test_numbers_that_json_lacks_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    console_module.print_json({"score": float("nan"), "path": Path("a"), "pair": (1, [float("inf")])})
    assert json.loads(capsys.readouterr().out) == {"score": None, "path": "a", "pair": [1, [None]]}


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console_module.print_line("a :cat:\t[b]bold[/b]")
    assert capsys.readouterr().out == "a :cat:\t[b]bold[/b]\n"


def test_quiet_hides_notes_and_keeps_errors(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        console_module.set_quiet(True)
        console_module.print_note("a note")
        console_module.print_error("an error")
    finally:
        console_module.set_quiet(False)
    assert capsys.readouterr().err == "seesay: an error\n"
    for flag in ("--quiet", "-q"):
        assert cli.main(["presets", flag]) == ExitCode.OK
        assert cli.main(["caption", "missing.png", flag, "--model", "nowhere"]) == ExitCode.ERROR
        assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [True, False])
def test_the_status_line_is_on_a_terminal_only_and_removed_by_output(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_module.errors, "is_interactive", terminal)
    assert cli.main(["presets", "show", "attention-gru"]) == ExitCode.OK
    assert capsys.readouterr().err == ("\r\x1b[Kstarting ...\r\x1b[K" if terminal else "")
    assert cli.main(["presets", "--quiet"]) == ExitCode.OK
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "colours", [{}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}, {"FORCE_COLOR": "1", "NO_COLOR": "1"}]
)
def test_colours_are_only_forced_outside_a_terminal(colours: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in colours.items():
        monkeypatch.setenv(name, value)
    made = console_module._Console(file=io.StringIO(), force_interactive=False)
    made.print("[bold red]text")
    assert isinstance(made.file, io.StringIO)
    assert ("\x1b[1;31m" in made.file.getvalue()) is (colours == {"FORCE_COLOR": "1"})


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["presets"], ExitCode.OK),
        (["--version"], ExitCode.OK),
        (["evaluate", "nowhere.json", "nowhere"], ExitCode.ERROR),
        (["caption", "photo.png", "--model", "nowhere"], ExitCode.ERROR),
    ],
)
def test_exit_codes(arguments: list[str], code: int) -> None:
    assert cli.main(arguments) == code


@pytest.mark.parametrize(
    ("raised", "code"), [(KeyboardInterrupt(), ExitCode.INTERRUPTED), (BrokenPipeError(), ExitCode.BROKEN_PIPE)]
)
def test_interruptions_have_their_exit_codes(raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("seesay.cli.doctor.diagnose", fail)
    assert cli.main(["doctor"]) == code


def test_every_exit_code_is_documented() -> None:
    page = (ROOT / "docs/command-line.md").read_text(encoding="utf-8")
    assert all(f"| {code.value} |" in page for code in ExitCode)


def test_every_command_is_loaded_lazily() -> None:
    """The names are as in the modules, so that none fails when it is first used."""
    for name, (module, *_) in cli.COMMANDS.items():
        found = getattr(importlib.import_module(f"seesay.cli.{module}"), name)
        assert isinstance(found, App) or callable(found)


@pytest.fixture(scope="module")
def bash_completion() -> str:
    with pytest.MonkeyPatch.context() as patch:
        out = io.StringIO()
        patch.setattr(sys, "stdout", out)
        assert cli.main(["completion", "bash"]) == ExitCode.OK
    return out.getvalue()


BASH = shutil.which("bash")


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("seesay train data/mine --beam-s", "--beam-size"),
        ("seesay caption --sam", "--sampling-seed"),
        ("seesay ev", "evaluate"),
    ],
)
def test_bash_completes_commands_and_all_flags(bash_completion: str, words: str, expected: str) -> None:
    script = (
        f"{bash_completion}\nCOMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _seesay; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run([str(BASH), "--norc", "-c", script], capture_output=True, text=True, check=True)
    assert expected in done.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_and_valid(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ZSH", "ZSH_CUSTOM", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main(["completion", shell, "--install"]) == ExitCode.OK
    (path,) = [
        tmp_path / word.rstrip(";") for word in capsys.readouterr().out.split() if word.startswith(str(tmp_path))
    ]
    assert "beam-size" in path.read_text(encoding="utf-8")
    if program := shutil.which(shell):
        subprocess.run([program, "-n", path], check=True, env={**os.environ, "HOME": str(tmp_path)})
