"""Warm start: initialises a model with the weights of another run, whose vocabulary may differ."""

import logging
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from seesay.checkpoint import Run, RunInfo, load_run, read_weights
from seesay.config import Config, ModelConfig
from seesay.errors import ConfigError
from seesay.features.store import describe_identity
from seesay.models.captioning import CaptionModel, build_model
from seesay.tokenizer import Tokenizer

log = logging.getLogger("seesay")


def warm_start(model: CaptionModel, config: Config, info: RunInfo, tokenizer: Tokenizer) -> int:
    """Load the best weights of the run `training.init_from` into the model; return the number of words shared.

    Rows of words are copied by word, and columns of the projection by encoder, whatever the order of the joined stores.
    Rows and columns of new words and encoders keep their initial values. All other tensors must have equal shapes. The
    encoder's weights are loaded if it is trained.

    Args:
        model: the initialised model.
        config: configuration of the new run.
        info: metadata of the new run; describes its features.
        tokenizer: tokenizer of the new run.

    Raises:
        CheckpointError: the run is missing or damaged.
        ConfigError: the run has another network; or SCST would use other features than the run.
    """
    run = load_run(config.training.init_from)
    _compare_features(run, config, info)
    known = {word: row for row, word in enumerate(run.tokenizer.vocabulary)}
    rows = [row for row, word in enumerate(tokenizer.vocabulary) if word in known]
    words = _Matched(rows, [known[tokenizer.vocabulary[row]] for row in rows])
    columns = _match_columns(run.info, info)
    weights = read_weights(run)
    own = model.state_dict()
    misfits = []
    layout = _layout(config.model, info.feature_size)
    for name, (word_axis, feature_axis) in layout.items():
        axis, matched = (feature_axis, columns) if word_axis is None else (word_axis, words)
        copied = _copy_matching(own[name], weights[name], axis, matched) if name in weights else None
        if copied is None:
            misfits.append(name)
        else:
            own[name] = copied
    if misfits:
        raise ConfigError(
            f"cannot start from the run {run.folder}: {len(misfits)} of {len(layout)} tensors do not fit, such as "
            f"{misfits[0]}; use the model settings of its config.yaml"
        )
    if config.encoder.encoder_training == "full":
        own |= {name: weights[name] for name in own if name.startswith("encoder.") and _fits(own[name], weights, name)}
    model.load_state_dict(own)
    log.info("started from %s: %d of %d words copied", run.folder, len(rows), len(tokenizer))
    if len(columns.here) < info.feature_size:
        log.info("%d of %d feature columns copied", len(columns.here), info.feature_size)
    return len(rows)


class _Matched(NamedTuple):
    """Indices along an axis of a new tensor, and those of the old tensor that they are copied from."""

    here: Sequence[int]
    there: Sequence[int]


def _compare_features(run: Run, config: Config, info: RunInfo) -> None:
    """Log a warning if the sources of the features differ from those of the run.

    Raises:
        ConfigError: they differ in SCST.
    """
    if run.info.features == info.features:
        return
    here, there = describe_identity(info.features), describe_identity(run.info.features)
    message = f"{run.folder} was trained on features of {there}, not of {here}"
    if config.training.second_stage:
        raise ConfigError(f"{message}; SCST needs the same features: pass the same encoder settings and stores")
    log.warning("%s", message)


def _match_columns(run: RunInfo, info: RunInfo) -> _Matched:
    """Return the feature columns of encoders and layers that the run used too.

    Image sizes and encoder weights may differ; the meaning of a channel is assumed to be similar.
    """
    if (run.features, run.feature_size) == (info.features, info.feature_size):
        return _Matched(range(info.feature_size), range(run.feature_size))
    old = _columns_of_sources(run)
    here: list[int] = []
    there: list[int] = []
    for source, columns in _columns_of_sources(info):
        place = next((i for i, (other, _) in enumerate(old) if other == source), None)
        if place is not None:
            here += columns
            there += old.pop(place)[1]
    return _Matched(here, there)


def _columns_of_sources(info: RunInfo) -> list[tuple[object, range]]:
    """Return the sources of the features with their widths and columns, in order; empty if a run lacks them."""
    parts = info.features.get("joined", [info.features])
    sizes = info.source_sizes or [info.feature_size]
    if len(sizes) != len(parts):
        return []  # an older run
    names = [(part.get("encoder"), part.get("layer"), part.get("imported")) for part in parts]
    return [
        ((*name, size), range(end - size, end)) for name, end, size in zip(names, accumulate(sizes), sizes, strict=True)
    ]


def _layout(config: ModelConfig, feature_size: int) -> dict[str, tuple[int | None, int | None]]:
    """Return, per tensor of the model without its encoder, its axes of words and of features, or None.

    Found by building the network on the meta device with two vocabulary sizes and two feature widths, which works for
    any decoder.
    """
    with torch.device("meta"):
        base, more_words, more_features = (
            build_model(config, *sizes).state_dict()
            for sizes in ((100, feature_size), (101, feature_size), (100, feature_size + 1))
        )

    def changed(name: str, other: Mapping[str, Tensor]) -> int | None:
        axes = [axis for axis, size in enumerate(base[name].shape) if other[name].shape[axis] != size]
        return axes[0] if axes else None

    return {name: (changed(name, more_words), changed(name, more_features)) for name in base}


def _copy_matching(own: Tensor, old: Tensor, axis: int | None, matched: _Matched) -> Tensor | None:
    """Return `own` with the values of `old` at the matched indices of `axis`; None if the shapes do not fit."""
    if axis is None:
        return old.to(own) if old.shape == own.shape else None
    if old.ndim != own.ndim or any(old.shape[i] != size for i, size in enumerate(own.shape) if i != axis):
        return None
    here, there = (torch.tensor(indices, dtype=torch.int64) for indices in matched)
    return own.index_copy(axis, here, old.index_select(axis, there).to(own))


def _fits(own: Tensor, weights: Mapping[str, Tensor], name: str) -> bool:
    return name in weights and weights[name].shape == own.shape
