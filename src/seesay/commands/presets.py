"""The systems that ship."""

from cyclopts import App

from seesay import config as configuration
from seesay.console import show_table

presets_app = App(name="presets", help="The systems that ship with seesay: list them, or show one.")


@presets_app.default
@presets_app.command(name="list")
def presets_list() -> None:
    """List the presets."""
    rows = [(name, configuration.preset_description(name)) for name in configuration.preset_names()]
    show_table("", ("preset", "what it is"), rows, numbers=False)


@presets_app.command(name="show")
def presets_show(name: str) -> None:
    """Print every setting of a preset as YAML, ready for --config.

    Args:
        name: the preset.
    """
    import yaml

    print(yaml.safe_dump(configuration.to_dict(configuration.resolve_config(name)), sort_keys=False), end="")
