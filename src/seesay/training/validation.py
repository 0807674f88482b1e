"""What a training is refused for before anything is read: its settings, or those of the run in its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seesay import config as configuration
from seesay.checkpoint import RUN, Run, is_run, load_run
from seesay.config import Config
from seesay.errors import ConfigError
from seesay.models.captioning import check_model
from seesay.outputs import MARKER, delete_own


def check_config(config: Config) -> None:
    """Refuses, before anything is read, a network that cannot be built and settings that would do nothing.

    Raises:
        ConfigError: what contradicts what, and what to set instead.
    """
    check_model(config.model)
    training, mode = config.training, config.encoder.encoder_training
    if training.second_stage and not training.init_from:
        raise ConfigError("training.scst_weight makes a second stage; name the run of the first with --init-from RUN")
    if mode == "cached" and training.crop_fraction:
        raise ConfigError(
            "training.crop_fraction cuts images anew each time, which cached features cannot follow; "
            "set encoder.encoder_training to frozen or full"
        )
    if mode != "cached" and config.encoder.feature_dtype != "float16":
        raise ConfigError(
            f"encoder.feature_dtype is {config.encoder.feature_dtype}, but with encoder.encoder_training={mode} no "
            "features are kept; set that to cached"
        )
    if mode != "full" and training.encoder_learning_rate:
        raise ConfigError(
            f"training.encoder_learning_rate is given, but with encoder.encoder_training={mode} the encoder does not "
            "learn; set that to full"
        )


def existing_run(out: Path, config: Config, overwrite: bool) -> Run | None:
    """Returns the run in `out` that this training goes on with, if any.

    Args:
        out: the run folder.
        config: of the training.
        overwrite: delete the run that is there, and start with nothing; files that seesay did not write stay.

    Raises:
        ConfigError: the run there has another configuration.
    """
    if overwrite and is_run(out):
        delete_own(out, RUN, keep=(MARKER,))  # whose lock this process holds
    if not is_run(out):
        return None
    run = load_run(out)
    there, here = configuration.to_dict(run.config), configuration.to_dict(config)
    there["training"]["devices"] = here["training"]["devices"]  # a run may go on with another number of processes
    differing = differences(there, here)
    if differing:
        raise ConfigError(
            f"{out} holds a run with other settings ({'; '.join(differing[:3])}); "
            "go on with it by --resume, choose another --out, or throw it away with --overwrite"
        )
    return run


def differences(there: Mapping[str, Mapping[str, Any]], here: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns a phrase for each setting that has another value there than here; what is absent counts as None.

    Args:
        there: sections of named values, such as `config.to_dict` gives.
        here: the same.
    """
    pairs = [
        (f"{section}.{name}", there.get(section, {}).get(name), here.get(section, {}).get(name))
        for section in sorted({*there, *here})
        for name in sorted({*there.get(section, {}), *here.get(section, {})})
    ]
    return [f"{name} is {old!r} there, {new!r} here" for name, old, new in pairs if old != new]
