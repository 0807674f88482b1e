"""A training that starts from the weights of another run, whose vocabulary may be another."""

import logging
from collections.abc import Mapping, Sequence

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

    Rows that stand for words are taken over word by word; those of words that the run did not have stay as
    they are. Everything else must fit, but for the projection of features of another width. The encoder's
    weights come along where it is trained.

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
    same_features = _compare_features(run, config, info)
    known = {word: row for row, word in enumerate(run.tokenizer.vocabulary)}
    rows = [row for row, word in enumerate(tokenizer.vocabulary) if word in known]
    source = [known[tokenizer.vocabulary[row]] for row in rows]
    weights = read_weights(run)
    axes = _vocabulary_axes(config.model, info.feature_size)
    misfits = []
    own = model.state_dict()
    for name in axes:
        given = weights.get(name)
        taken = None if given is None else _take_over(own[name], given, axes[name], rows, source)
        if taken is not None:
            own[name] = taken
        elif same_features or not name.startswith("projection."):
            misfits.append(name)
    if misfits:
        raise ConfigError(
            f"the run {run.folder} cannot be started from: {len(misfits)} of {len(axes)} tensors do not fit, such as "
            f"{misfits[0]}; give the model settings of its config.yaml"
        )
    if config.encoder.encoder_training == "full":
        own |= {name: weights[name] for name in own if name.startswith("encoder.") and _fits(own[name], weights, name)}
    model.load_state_dict(own)
    log.info("started from %s: %d of %d words were known there", run.folder, len(rows), len(tokenizer))
    return len(rows)


def _compare_features(run: Run, config: Config, info: RunInfo) -> bool:
    """Tells whether the features are of one width; those of another encoder are named.

    Raises:
        ConfigError: they differ in a second stage.
    """
    if run.info.features != info.features:
        here, there = describe_identity(info.features), describe_identity(run.info.features)
        said = f"{run.folder} was trained on features of {there}, not of {here}"
        if config.training.scst:
            raise ConfigError(f"{said}; a second stage needs the first's: give the same encoder settings and stores")
        log.warning("%s", said)
    return run.info.feature_size == info.feature_size


def _vocabulary_axes(config: ModelConfig, feature_size: int) -> dict[str, int | None]:
    """Returns every tensor of the captioner without its encoder -> the axis that counts words, None if none does.

    Found by building the network, without its memory, for two vocabularies: so it holds for any decoder.
    """
    with torch.device("meta"):
        small, large = (build_model(config, size, feature_size).state_dict() for size in (100, 101))
    axes: dict[str, int | None] = {}
    for name, tensor in small.items():
        changed = [axis for axis, size in enumerate(tensor.shape) if large[name].shape[axis] != size]
        axes[name] = changed[0] if changed else None
    return axes


def _take_over(
    own: Tensor, given: Tensor, axis: int | None, rows: Sequence[int], source: Sequence[int]
) -> Tensor | None:
    """Returns `own` with the given run's values, along `axis` only at `rows`; None if the shapes do not fit."""
    if axis is None:
        return given.to(own) if given.shape == own.shape else None
    if given.ndim != own.ndim or any(given.shape[i] != size for i, size in enumerate(own.shape) if i != axis):
        return None
    return own.index_copy(axis, torch.tensor(rows), given.index_select(axis, torch.tensor(source)).to(own))


def _fits(own: Tensor, weights: Mapping[str, Tensor], name: str) -> bool:
    return name in weights and weights[name].shape == own.shape
