"""Command lines that cannot be parsed: exit code 2 and one line."""

import pytest

from seesay.cli.main import COMMANDS, main
from seesay.cli.usage import OTHER_NAMES


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train", "DATA is missing; see seesay train --help"),
        ("presets show", "NAME is missing; see seesay presets show --help"),
        ("evaluate run data --split", "--split needs a value; see seesay evaluate --help"),
        ("train data --batch-size 3", "unknown option --batch-size of seesay train; did you mean --batch-captions?"),
        ("train data --lr=0.1", "unknown option --lr of seesay train; did you mean --learning-rate?"),
        ("caption a.jpg -o b.jsonl", "unknown option -o of seesay caption; did you mean --out?"),
        ("train data --epoch 3", "unknown option --epoch of seesay train; did you mean --epochs?"),
        ("caption a.jpg --foo", "unknown option --foo of seesay caption; seesay caption --help-all lists the options"),
        ("caption a.jpg --format x", 'invalid value "x" for --format. Choose from: "text", "jsonl".'),
        ("train data --seed 1 --seed 2", "parameter --seed specified multiple times."),
        ("data chek", 'unknown command "chek". Did you mean "check"?'),
    ],
)
def test_one_line(capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"seesay: error: {message}")
    assert err.count("\n") == 1


def test_other_names_lead_to_options_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (*COMMANDS, "demo"):
        main([command, "--help-all"])
    text = capsys.readouterr().out
    assert {name for name in OTHER_NAMES.values() if f"{name} " not in text} == set()
