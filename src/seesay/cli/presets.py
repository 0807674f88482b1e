"""`seesay presets`: list and show the built-in configurations."""

from cyclopts import App

from seesay.cli.console import show_table

presets = App(name="presets", help="List the built-in presets, or show one.")


@presets.default
@presets.command(name="list")
def presets_list() -> None:
    """List the presets."""
    from seesay import config as configuration

    names = [*configuration.preset_names(), *configuration.preset_names(overlays=True)]
    rows = [(name, configuration.preset_description(name)) for name in names]
    show_table("", ("preset", "description"), rows, numbers=False)


@presets.command(name="show")
def presets_show(name: str) -> None:
    """Print the settings of a preset as YAML for --config; for an overlay, only the settings that it changes.

    Args:
        name: the preset.
    """
    import yaml

    from seesay import config as configuration

    overlay = name in configuration.preset_names(overlays=True)
    values = configuration.preset_values(name) if overlay else configuration.to_dict(configuration.resolve_config(name))
    print(yaml.safe_dump(values, sort_keys=False), end="")
