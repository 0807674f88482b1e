"""Where a second stage of training comes from and goes to, where the user says no more than that there be one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seesay.checkpoint import CONFIG_FILE, is_run
from seesay.errors import ConfigError


def second_stage(preset: str, flags: Mapping[str, Any]) -> tuple[Path, Path]:
    """Returns the run folder of the first stage and that of the second.

    The first is `init_from` of the flags, or else the preset's usual folder; the second lies beside it, with
    -scst after the name.
    """
    first = Path(flags.get("init_from") or Path("runs") / preset)
    return first, first.with_name(f"{first.name}-scst")


def settings_of_first(first: Path) -> Path:
    """Returns the file of the first stage's settings, which are the second's but for what makes it one.

    Raises:
        ConfigError: there is no such run.
    """
    if not is_run(first):
        raise ConfigError(
            f"--scst is a second stage, and {first} is no run to start from; train it without --scst first, "
            "or name another with --init-from RUN"
        )
    return first / CONFIG_FILE
