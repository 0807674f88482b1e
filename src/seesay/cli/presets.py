"""`seesay presets`: list and show the built-in configurations."""

from typing import Annotated

from cyclopts import App

from seesay.cli.console import print_json, print_line, show_table
from seesay.cli.options import COMMON, Json

presets = App(name="presets", help="List the built-in presets, or show one.")


@presets.default
@presets.command(name="list")
def presets_list(*, json: Json = False) -> None:
    """List the presets.

    Example: seesay presets list
    """
    from seesay import config as configuration

    names = [*configuration.preset_names(), *configuration.preset_names(overlays=True)]
    rows = [(name, configuration.preset_description(name)) for name in names]
    if json:
        print_json([{"name": name, "description": text} for name, text in rows])
        return
    show_table("", ("preset", "description"), rows, numbers=False)


@presets.command(name="show")
def presets_show(name: Annotated[str, COMMON], *, json: Json = False) -> None:
    """Print the settings of a preset as YAML for --config; for an overlay, only the settings that it changes.

    Example: seesay presets show attention-gru

    Args:
        name: the preset.
    """
    import yaml

    from seesay import config as configuration

    overlay = name in configuration.preset_names(overlays=True)
    values = configuration.preset_values(name) if overlay else configuration.to_dict(configuration.resolve_config(name))
    if json:
        print_json(values)
    else:
        print_line(yaml.safe_dump(values, sort_keys=False).rstrip("\n"))
