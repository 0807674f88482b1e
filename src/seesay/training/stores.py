"""Where a training's features come from: stores that the user names, or those that are made of the images."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from seesay.config import Config
from seesay.data.augmentation import flippable_images
from seesay.data.records import Annotations
from seesay.devices import choose_device
from seesay.errors import ConfigError, FeatureStoreError
from seesay.features import FeatureStore, JoinedStores, extract_features, match_mirrored, split_stores, store_path
from seesay.features.extraction import Progress
from seesay.features.stamps import require_unchanged
from seesay.models.encoders import Encoder, build_encoder

log = logging.getLogger("seesay")


class Sources(NamedTuple):
    """What gives features.

    Attributes:
        encoder: None where given stores stand for it.
        plain: features of the images as they are; None if the encoder is in the loop.
        mirrored: those of mirrored training images, where `training.hflip_prob` asks for them.
    """

    encoder: Encoder | None
    plain: JoinedStores | None
    mirrored: JoinedStores | None = None


def open_sources(
    config: Config,
    annotations: Annotations,
    data: str | Path,
    folder: str | Path,
    given: Sequence[str | Path],
    progress: Progress | None,
) -> Sources:
    """Returns the encoder and the stores of features, which are filled where images are lacking.

    Args:
        config: the whole configuration.
        annotations: the images.
        data: the data set, as it was named.
        folder: of feature stores.
        given: stores to use instead; those of mirrored images are told from the others by their mark.
        progress: told of images encoded, if any have to be.

    Raises:
        SeesayError: an encoder that cannot be had, a store of another encoder, stores that do not go together.
    """
    torch.manual_seed(config.training.seed)  # for the weights of encoders that start from nothing
    to_mirror = flippable_images(annotations) if config.training.hflip_prob else {}
    if given:
        stores = [FeatureStore(path) for path in given]
        require_unchanged(stores, {item.id: item.image for item in annotations if item.split is not None})
        return _given_sources(config, stores, to_mirror, _Extraction(config, data, folder, progress))
    encoder = build_encoder(config.encoder)
    if config.encoder.encoder_training != "cached":
        encoder.requires_grad_(config.encoder.encoder_training == "full")
        return Sources(encoder, None)
    used = [item for split in ("train", "val", "test") for item in annotations.split(split)]
    extraction = _Extraction(config, data, folder, progress)
    plain = extraction.store({item.id: item.image for item in used}, encoder)
    mirrored = extraction.mirrored_store(to_mirror, encoder, plain) if to_mirror else None
    return Sources(encoder, plain, mirrored)


def _given_sources(
    config: Config, stores: Sequence[FeatureStore], to_mirror: Mapping[str, str], extraction: "_Extraction"
) -> Sources:
    """Returns stores named by the user; a single one made by an encoder must be the configuration's."""
    plain, mirrored = split_stores(stores)
    if config.training.crop_fraction:
        raise ConfigError("training.crop_fraction cuts images, which given stores have no more; leave one of them")
    if mirrored and not to_mirror:
        raise ConfigError(
            f"{mirrored[0].path} holds features of mirrored images, which training.hflip_prob=0 never shows; "
            "set that to 0.5, or leave the store"
        )
    joined, encoder = JoinedStores(plain), None
    if len(plain) == 1 and "encoder" in joined.identity:
        encoder = build_encoder(config.encoder)
        joined.require(encoder.identity)
    if not to_mirror:
        return Sources(encoder, joined)
    if encoder is not None and not mirrored:
        return Sources(encoder, joined, extraction.mirrored_store(to_mirror, encoder, joined))
    matched = match_mirrored(plain, mirrored)
    _tell_lacking(matched, [name for name in to_mirror if name in joined])
    return Sources(encoder, joined, matched)


@dataclass(frozen=True)
class _Extraction:
    """Stores of our own, in a folder."""

    config: Config
    data: str | Path
    folder: str | Path
    progress: Progress | None

    def store(self, images: Mapping[str, str], encoder: Encoder, *, mirrored: bool = False) -> JoinedStores:
        """Returns the store of the data's images, after encoding those that it lacks."""
        path = store_path(self.folder, self.data, encoder, mirrored=mirrored)
        device = choose_device(self.config.training.device)
        report = extract_features(images, encoder, path, device=device, progress=self.progress, mirrored=mirrored)
        if report.extracted:
            log.info(
                "%d%s images encoded into %s: %.0f images/s (%.0f of the encoder alone)",
                report.extracted,
                " mirrored" if mirrored else "",
                path,
                report.rate,
                report.encoder_rate,
            )
        if report.pooled:
            log.info("%d images pooled into %s from the store of their grids", report.pooled, path)
        for line in report.unreadable:
            log.warning("left out: %s", line)
        return JoinedStores([FeatureStore(path)])

    def mirrored_store(self, images: Mapping[str, str], encoder: Encoder, plain: JoinedStores) -> JoinedStores:
        """Returns the store of mirrored images, of those that the plain one has."""
        wanted = {name: image for name, image in images.items() if name in plain}
        made = self.store(wanted, encoder, mirrored=True)
        _tell_lacking(made, list(wanted))
        return made


def _tell_lacking(mirrored: JoinedStores, wanted: Sequence[str]) -> None:
    """Warns of images that could be shown mirrored, but whose features so are not there.

    Raises:
        FeatureStoreError: that is all of them.
    """
    lacking = sum(name not in mirrored for name in wanted)
    if lacking == len(wanted):
        raise FeatureStoreError(
            f"{mirrored.stores[0].path} holds none of the training images that could be mirrored; "
            "leave training.hflip_prob at 0"
        )
    if lacking:
        log.warning("%d training images have no features of them mirrored and stay as they are", lacking)
