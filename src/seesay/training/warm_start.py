"""A training that starts from the weights of another run, whose vocabulary may be another."""

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
    """Gives the model the best weights of the run `training.init_from` and returns how many words it knew.

    Rows that stand for words are taken over word by word, and the projection's columns encoder by encoder, in
    whatever order stores were joined; those of words and encoders that the run did not have stay as they are.
    Everything else must fit. The encoder's weights come along where it is trained.

    Args:
        model: freshly initialised.
        config: the new run's.
        info: the new run's, for what its features are.
        tokenizer: the new run's words.

    Raises:
        CheckpointError: no run there, or a damaged one.
        ConfigError: its weights are of another network; or a second stage on other features than the first.
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
        taken = _take_over(own[name], weights[name], axis, matched) if name in weights else None
        if taken is None:
            misfits.append(name)
        else:
            own[name] = taken
    if misfits:
        raise ConfigError(
            f"the run {run.folder} cannot be started from: {len(misfits)} of {len(layout)} tensors do not fit, such as "
            f"{misfits[0]}; give the model settings of its config.yaml"
        )
    if config.encoder.encoder_training == "full":
        own |= {name: weights[name] for name in own if name.startswith("encoder.") and _fits(own[name], weights, name)}
    model.load_state_dict(own)
    log.info("started from %s: %d of %d words were known there", run.folder, len(rows), len(tokenizer))
    if len(columns.here) < info.feature_size:
        log.info("%d of %d columns of features were known there", len(columns.here), info.feature_size)
    return len(rows)


class _Matched(NamedTuple):
    """Places along an axis of a new tensor, and those along the given one that they are filled from."""

    here: Sequence[int]
    there: Sequence[int]


def _compare_features(run: Run, config: Config, info: RunInfo) -> None:
    """Names what made the features where that is not what made the run's.

    Raises:
        ConfigError: they differ in a second stage.
    """
    if run.info.features == info.features:
        return
    here, there = describe_identity(info.features), describe_identity(run.info.features)
    said = f"{run.folder} was trained on features of {there}, not of {here}"
    if config.training.second_stage:
        raise ConfigError(f"{said}; a second stage needs the first's: give the same encoder settings and stores")
    log.warning("%s", said)


def _match_columns(run: RunInfo, info: RunInfo) -> _Matched:
    """Returns which columns of the features are of an encoder and layer that gave columns to the run's too.

    Images may be of another size and weights may have been trained since: a channel still says much the same.
    """
    if (run.features, run.feature_size) == (info.features, info.feature_size):
        return _Matched(range(info.feature_size), range(run.feature_size))
    given = _columns_of_sources(run)
    here: list[int] = []
    there: list[int] = []
    for source, columns in _columns_of_sources(info):
        place = next((i for i, (other, _) in enumerate(given) if other == source), None)
        if place is not None:
            here += columns
            there += given.pop(place)[1]
    return _Matched(here, there)


def _columns_of_sources(info: RunInfo) -> list[tuple[object, range]]:
    """Returns what gave features, with its width, and its columns, in order; nothing where a run does not tell."""
    parts = info.features.get("joined", [info.features])
    sizes = info.source_sizes or [info.feature_size]
    if len(sizes) != len(parts):
        return []  # an older run
    names = [(part.get("encoder"), part.get("layer"), part.get("imported")) for part in parts]
    return [
        ((*name, size), range(end - size, end)) for name, end, size in zip(names, accumulate(sizes), sizes, strict=True)
    ]


def _layout(config: ModelConfig, feature_size: int) -> dict[str, tuple[int | None, int | None]]:
    """Returns every tensor of the captioner without its encoder -> the axes that count words and features, or None.

    Found by building the network, without its memory, for two vocabularies and two widths: so it holds for any decoder.
    """
    with torch.device("meta"):
        usual, wordier, wider = (
            build_model(config, *sizes).state_dict()
            for sizes in ((100, feature_size), (101, feature_size), (100, feature_size + 1))
        )

    def changed(name: str, other: Mapping[str, Tensor]) -> int | None:
        axes = [axis for axis, size in enumerate(usual[name].shape) if other[name].shape[axis] != size]
        return axes[0] if axes else None

    return {name: (changed(name, wordier), changed(name, wider)) for name in usual}


def _take_over(own: Tensor, given: Tensor, axis: int | None, matched: _Matched) -> Tensor | None:
    """Returns `own` with the given run's values, along `axis` only where they match; None if the shapes do not fit."""
    if axis is None:
        return given.to(own) if given.shape == own.shape else None
    if given.ndim != own.ndim or any(given.shape[i] != size for i, size in enumerate(own.shape) if i != axis):
        return None
    here, there = (torch.tensor(places, dtype=torch.int64) for places in matched)
    return own.index_copy(axis, here, given.index_select(axis, there).to(own))


def _fits(own: Tensor, weights: Mapping[str, Tensor], name: str) -> bool:
    return name in weights and weights[name].shape == own.shape
