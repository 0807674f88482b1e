"""Flags of the command line: all of the configuration, and only what was provided_flags."""

import io
import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import pytest
from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from seesay.cli import app
from seesay.config import Config, field_paths, resolve_config
from seesay.flags import flags_of, provided_flags

SECTIONS = ("data", "text", "encoder", "model", "training", "decoding")


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def parse(*arguments: str) -> dict[str, Any]:
    """What `provided_flags` makes of a command line with every section's flags."""
    kind = flags_of("Every", *SECTIONS)
    parser = App(name="tool")

    @parser.default
    def command(*, flags: Annotated[kind, Parameter(name="*")] = kind()) -> dict[str, Any]:  # type: ignore[valid-type]  # noqa: B008
        return provided_flags(flags)

    found: dict[str, Any] = parser(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    return found


def help_of(*command: str) -> str:
    out = io.StringIO()
    app.help_print([*command], console=Console(file=out, width=400, color_system=None))
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
    for name, (section, leaf, kind) in field_paths().items():
        (line,) = [line for line in lines if f" {flag(name)} " in line]
        assert leaf.metadata["help"] in line
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
    assert all(
        (flag(name) in text) is (section == "decoding")
        for name, (section, _, _) in field_paths().items()
        if name not in ("format", "device", "seed", "image_column", "caption_column")
    )


def test_nothing_given_is_nothing() -> None:
    assert parse() == {}
    assert provided_flags(None) == {}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--epochs", "3"], {"epochs": 3}),
        (["--epochs", "20"], {"epochs": 20}),  # provided_flags, though it is the default
        (["--learning-rate", "1e-3"], {"learning_rate": 0.001}),
        (["--learning-rate", "1"], {"learning_rate": 1.0}),
        (["--max-length", "0", "--layer", ""], {"max_length": 0, "layer": ""}),
        (["--no-lowercase"], {"lowercase": False}),
        (["--lowercase"], {"lowercase": True}),
        (["--allow-unk"], {"allow_unk": True}),
        (["--mean", "0.1", "0.2", "0.3"], {"mean": [0.1, 0.2, 0.3]}),
        (["--lr-drop-epochs", "3", "5", "--epochs", "9"], {"lr_drop_epochs": [3, 5], "epochs": 9}),
        (["--lr-drop-epochs", "3", "--lr-drop-epochs", "5"], {"lr_drop_epochs": [3, 5]}),
        (["--empty-lr-drop-epochs"], {"lr_drop_epochs": []}),
        (["--loggers", "CSVLogger"], {"loggers": ["CSVLogger"]}),
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
        kept = getattr(getattr(config, field_paths()[name][0]), name)
        assert kept == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "1.5"],  # bug: was rounded to 2
        ["--lr-drop-epochs", "3", "5.5"],
        ["--epochs", "none"],  # bug: was taken for a flag that is not provided_flags
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
    with pytest.raises(CycloptsError):
        parse(*arguments)


def test_a_refusal_names_the_value() -> None:
    with pytest.raises(CycloptsError, match=r"--epochs: '1\.5' is not a whole number"):
        parse("--epochs", "1.5")


def test_only_the_sections_asked_for() -> None:
    kind = flags_of("Some", "decoding", "data")
    assert set(kind.__dataclass_fields__) == {
        name for name, (section, _, _) in field_paths().items() if section in ("decoding", "data")
    }


def test_every_default_can_be_typed() -> None:
    arguments = []
    for name, (_, leaf, kind) in field_paths().items():
        if kind is bool:
            arguments.append(flag(name) if leaf.default else f"--no-{flag(name)[2:]}")
        elif isinstance(leaf.default, tuple):
            arguments.append(f"--empty-{flag(name)[2:]}")
        else:
            arguments.append(f"{flag(name)}={leaf.default}")
    found = parse(*arguments)
    assert set(found) == set(field_paths())
    assert resolve_config(overrides=found) == Config()


def test_flags_may_be_absent_where_another_library_has_loaded_pydantic() -> None:
    """cyclopts then has every value checked against its type, those that were not provided_flags too."""
    pytest.importorskip("pydantic")
    assert parse() == {}
    assert parse("--beam-size", "4", "--allow-unk") == {"beam_size": 4, "allow_unk": True}
    with pytest.raises(CycloptsError):
        parse("--beam-size", "four")
