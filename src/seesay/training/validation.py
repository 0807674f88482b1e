"""Validation of a training configuration, and its comparison with an existing run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seesay import config as configuration
from seesay.checkpoint import (
    ADAPTER_FOLDER,
    LAST_FILE,
    MODEL_FILE,
    PRETRAINED_FOLDER,
    RUN,
    RunRecord,
    is_run,
    read_run,
)
from seesay.config import Config
from seesay.errors import ConfigError
from seesay.models.captioning import check_model
from seesay.outputs import MARKER, delete_own

_TRAINED = (LAST_FILE, MODEL_FILE, ADAPTER_FOLDER, PRETRAINED_FOLDER)
"""Files and folders of a run that has trained something."""


def check_config(config: Config) -> None:
    """Check that the network can be built and that no setting is without effect, before reading data.

    Raises:
        ConfigError: the message names the contradiction and a fix.
    """
    if config.finetuning.model:
        raise ConfigError(f"finetuning.model is {config.finetuning.model}, but this trains a network of seesay's own")
    check_model(config.model)
    training, mode = config.training, config.encoder.encoder_training
    if training.second_stage and not training.init_from:
        raise ConfigError("training.scst_weight starts from a trained run; pass --init-from RUN")
    if mode == "cached" and training.crop_fraction:
        raise ConfigError(
            "training.crop_fraction crops images at random in each epoch, which needs uncached features; "
            "set encoder.encoder_training to frozen or full"
        )
    if mode != "cached" and config.model.retrieve:
        raise ConfigError(
            f"model.retrieve is {config.model.retrieve}, which searches similar images by stored features, but "
            f"encoder.encoder_training={mode} stores none; set it to cached, or model.retrieve to 0"
        )
    if mode != "cached" and config.encoder.feature_dtype != "float16":
        raise ConfigError(
            f"encoder.feature_dtype is {config.encoder.feature_dtype}, but encoder.encoder_training={mode} stores no "
            "features; set it to cached"
        )
    if mode != "full" and training.encoder_learning_rate:
        raise ConfigError(
            f"training.encoder_learning_rate is set, but encoder.encoder_training={mode} does not train the encoder; "
            "set it to full"
        )


def existing_run(out: Path, config: Config, overwrite: bool) -> RunRecord | None:
    """Return the run in `out` to resume, if any.

    Args:
        out: the run folder.
        config: the configuration of the training.
        overwrite: delete an existing run; files that seesay did not write are kept.

    Raises:
        ConfigError: the run has another configuration.
    """
    if overwrite and is_run(out):
        delete_own(out, RUN, keep=(MARKER,))  # this process holds the marker's lock
    if not is_run(out):
        return None
    run = read_run(out)
    there, here = configuration.to_dict(run.config), configuration.to_dict(config)
    there["training"]["devices"] = here["training"]["devices"]  # a run may resume with another number of processes
    differing = differences(there, here)
    trained = run.info.progress or any((out / name).exists() for name in _TRAINED)
    if differing and not trained:
        return None  # the start failed, for example because of a wrong setting
    if differing:
        raise ConfigError(
            f"{out} contains a run with other settings ({'; '.join(differing[:3])}); "
            f"--resume alone uses its settings; or choose another --out, with --init-from {out} to start from its "
            "weights, or discard it with --overwrite"
        )
    return run


def differences(there: Mapping[str, Mapping[str, Any]], here: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a phrase for each setting whose values differ; missing settings count as None.

    Args:
        there: sections of named values of a run, as from `config.to_dict`.
        here: those of this training.
    """
    pairs = [
        (f"{section}.{name}", there.get(section, {}).get(name), here.get(section, {}).get(name))
        for section in sorted({*there, *here})
        for name in sorted({*there.get(section, {}), *here.get(section, {})})
    ]
    return [f"{name} is {old!r} there, {new!r} here" for name, old, new in pairs if old != new]
