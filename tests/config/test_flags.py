"""Flags of the command line: all of the configuration, and only what was given."""

import importlib
import inspect
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from seesay import config as configuration
from seesay.cli.main import COMMANDS, app
from seesay.cli.options import UNMARKED
from seesay.config import Config, DecodingOptions, field_paths, preset_names, resolve_config
from seesay.config.flags import FlagError, given_flags, make_flags
from seesay.config.section import bounds_of, is_common

SECTIONS = ("data", "text", "encoder", "model", "training", "finetuning", "decoding")


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def parse(*arguments: str) -> dict[str, Any]:
    """What `given_flags` makes of a command line with every section's flags."""
    kind = make_flags("Every", *SECTIONS)
    parser = App(name="tool")

    @parser.default
    def command(*, flags: Annotated[kind | None, Parameter(name="*")] = None) -> dict[str, Any]:  # type: ignore[valid-type]
        return given_flags(flags)

    found: dict[str, Any] = parser(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    return found


def help_of(*command: str, every: bool = True, width: int = 400) -> str:
    """The help of a command: all options, as by --help-all, or the common ones."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "default_parameter", None if every else UNMARKED)
        app.help_print([*command], console=Console(file=out, width=width, color_system=None))
    return out.getvalue()


def commands_below(parent: App, *names: str) -> Iterator[tuple[str, ...]]:
    """Yields every command and group of commands."""
    yield names
    for name in parent:
        if not name.startswith("-"):
            yield from commands_below(parent[name], *names, name)


@pytest.mark.parametrize("command", ["train", "tune"])
def test_every_field_is_a_flag_of_train_with_its_help_and_the_default_presets_value(command: str) -> None:
    """Help once showed the schema's 20 epochs, where the command trains the preset's 8."""
    lines = help_of(command).splitlines()
    preset = resolve_config("attention-gru")
    assert preset.training.epochs != Config().training.epochs
    for name, (section, info) in field_paths().items():
        kind = info.annotation
        (line,) = [line for line in lines if line.lstrip("│ ").startswith(f"{flag(name)} ")]
        assert str(info.description) in line
        assert all(f"{limit:g}" in line for limit in bounds_of(info).values())
        value = getattr(getattr(preset, section), name)
        if isinstance(value, (int, float)) or get_origin(kind) not in (tuple, None):
            assert f"[default: {value}]" in line
        if get_origin(kind) not in (tuple, None):
            assert f"[choices: {', '.join(get_args(kind))}]" in line


def test_help_of_no_command_has_empty_flags_choices_or_defaults() -> None:
    """Help once read `--model STR... --empty-model`, `[choices: , xmp, exif, both]` and `[default: ""]`."""
    commands = list(commands_below(app))
    assert ("data", "check") in commands
    for command in commands:
        text = help_of(*command)
        assert not re.search(r'--empty-|\[choices: ,|\[default: (?:"")?\]', text)


def test_flags_are_grouped_by_section() -> None:
    text = help_of("train")
    places = [text.index(f"{section} settings") for section in SECTIONS]
    assert places == sorted(places)


@pytest.mark.parametrize("command", ["caption", "explain", "evaluate"])
def test_commands_that_decode_have_the_flags_of_decoding(command: str) -> None:
    text = help_of(command)
    sections = ("decoding", "encoder") if command == "evaluate" else ("decoding",)  # of `evaluate knn`
    assert all(
        (flag(name) in text) is (section in sections)
        for name, (section, _) in field_paths().items()
        if name not in ("format", "device", "precision", "seed", "image_column", "caption_column", "model", "prompt")
    )


def test_nothing_given_is_nothing() -> None:
    assert parse() == {}
    assert given_flags(None) == {}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--epochs", "3"], {"epochs": 3}),
        (["--epochs", "20"], {"epochs": 20}),  # given, though it is the default
        (["--learning-rate", "1e-3"], {"learning_rate": 0.001}),
        (["--learning-rate", "1"], {"learning_rate": 1.0}),
        (["--max-length", "0", "--layer", ""], {"max_length": 0, "layer": ""}),
        (["--no-lowercase"], {"lowercase": False}),
        (["--lowercase"], {"lowercase": True}),
        (["--allow-unk"], {"allow_unk": True}),
        (["--mean", "0.1", "0.2", "0.3"], {"mean": (0.1, 0.2, 0.3)}),
        (["--lr-drop-epochs", "3", "5", "--epochs", "9"], {"lr_drop_epochs": (3, 5), "epochs": 9}),
        (["--lr-drop-epochs", "3", "--lr-drop-epochs", "5"], {"lr_drop_epochs": (3, 5)}),
        (["--empty-lr-drop-epochs"], {"lr_drop_epochs": ()}),
        (["--loggers", "CSVLogger"], {"loggers": ("CSVLogger",)}),
        (["--encoder-weights", "none"], {"encoder_weights": "none"}),
        (["--projection-activation", "none"], {"projection_activation": "none"}),
        (["--filter-characters", '"#'], {"filter_characters": '"#'}),
        (["--strategy=beam", "--beam-size=5"], {"strategy": "beam", "beam_size": 5}),
    ],
)
def test_what_is_given_and_nothing_else(arguments: list[str], expected: dict[str, Any]) -> None:
    found = parse(*arguments)
    assert found == expected
    config = resolve_config("attention-gru", overrides=found)
    for name, value in expected.items():
        assert getattr(getattr(config, field_paths()[name][0]), name) == value


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "1.5"],  # bug: was rounded to 2
        ["--lr-drop-epochs", "3", "5.5"],
        ["--epochs", "none"],  # bug: was taken for a flag that is not given
        ["--merge", "none"],
        ["--mean", "none"],
        ["--epochs", "many"],
        ["--strategy", "beams"],
        ["--learning-rate", "fast"],
        ["--epochs", "3", "--epochs", "4"],
        ["--epochss", "4"],
    ],
)
def test_what_does_not_fit_is_refused(arguments: list[str]) -> None:
    with pytest.raises((CycloptsError, FlagError)):
        parse(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--epochs 1.5", "--epochs must be a whole number, not '1.5'"),
        ("--learning-rate fast", "--learning-rate must be a number, not 'fast'"),
        ("--beam-size 0", "--beam-size is 0; it must be at least 1"),
        ("--output-dropout 1", "--output-dropout is 1.0; it must be below 1"),
        ("--temperature inf", "--temperature is inf; it must be finite"),
        ("--strategy beams", "--strategy is 'beams'; choose one of greedy, sample, beam"),
        ("--lr-drop-epochs 3 x", "--lr-drop-epochs must be a whole number, not 'x'"),
    ],
)
def test_a_refusal_is_one_line_that_names_flag_value_and_rule(arguments: str, message: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse(*arguments.split())
    assert str(caught.value) == message


def test_only_the_sections_asked_for() -> None:
    kind = make_flags("Some", "decoding", "data")
    assert set(kind.model_fields) == {
        name for name, (section, _) in field_paths().items() if section in ("decoding", "data")
    }


def test_every_default_can_be_typed() -> None:
    arguments = []
    for name, (_, info) in field_paths().items():
        if info.annotation is bool:
            arguments.append(flag(name) if info.default else f"--no-{flag(name)[2:]}")
        elif isinstance(info.default, tuple):
            arguments.append(f"--empty-{flag(name)[2:]}")
        else:
            arguments.append(f"{flag(name)}={info.default}")
    found = parse(*arguments)
    assert set(found) == set(field_paths())
    assert resolve_config(overrides=found) == Config()


def test_the_default_of_a_field_is_written_once() -> None:
    """A newcomer changes the beam size in the schema; Python, presets, flags and HTTP follow."""
    size = DecodingOptions.default_of("beam_size")
    assert DecodingOptions().beam_size == Config().decoding.beam_size == size
    assert {resolve_config(name).decoding.beam_size for name in preset_names()} == {size}
    assert make_flags("Decoding", "decoding").model_fields["beam_size"].default == size
    root = Path(configuration.__file__).parents[1]
    pattern = re.compile(r"beam_size(: int)? = (option\()?\d")
    files = [path for path in root.rglob("*.py") if pattern.search(path.read_text(encoding="utf-8"))]
    assert files == [root / "config" / "schema.py"]


def test_the_help_of_a_command_begins_with_its_docstring() -> None:
    """The help is kept apart from the functions, so that `seesay --help` loads none of their modules."""
    for name, (module, sentence, example, _) in COMMANDS.items():
        command = getattr(importlib.import_module(f"seesay.cli.{module}"), name)
        text = command.help if isinstance(command, App) else inspect.cleandoc(command.__doc__)
        assert sentence == text.partition("\n\n")[0].replace("\n", " "), name
        assert example.startswith(f"seesay {name}")


@pytest.mark.parametrize("command", list(commands_below(app)), ids=" ".join)
def test_help_is_short_and_begins_with_a_sentence_and_an_example(command: tuple[str, ...]) -> None:
    text = help_of(*command, every=False, width=100)
    lines = [line.rstrip() for line in text.splitlines()]
    assert len(lines) <= 2 * 50
    assert lines[0].startswith(" ".join(["Usage: seesay", *command]))
    sentence, example = " ".join(lines[2:]).split("Example: ", 1)
    assert sentence.strip().endswith(".")
    assert example.startswith(" ".join(["seesay", *command]))
    assert "--help-all" in text


def test_rare_options_are_listed_by_help_all_only() -> None:
    short, full = (help_of("train", every=every) for every in (False, True))
    for name, (_, info) in field_paths().items():
        assert f"{flag(name)} " in full
        assert (f"{flag(name)} " in short) is is_common(info), name
    assert {is_common(info) for _, info in field_paths().values()} == {True, False}


def test_help_does_not_parse_source_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug: cyclopts parsed the source of flag classes, in which CPython 3.11.7 once failed with a SystemError."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("source code is parsed")

    monkeypatch.setattr("docstring_parser.attrdoc.AttributeDocstrings.get_attr_docs", fail)
    for command in ("caption", "serve", "train", "doctor"):
        assert "--" in help_of(command)
    assert "images per batch" in help_of("caption")
    assert "address to listen on" in help_of("serve")
