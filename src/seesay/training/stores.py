"""The features of training: stores passed by the user, or stores extracted from the images."""

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
from seesay.features.store import describe_identity
from seesay.models.encoders import Encoder, build_encoder

log = logging.getLogger("seesay")


class Sources(NamedTuple):
    """The sources of features.

    Attributes:
        encoder: None if the user passed feature stores.
        plain: features of the original images; None if the encoder is in the loop.
        mirrored: features of the mirrored training images, if `training.hflip_prob` needs them.
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
    """Return the encoder and the feature stores, after extracting missing features.

    Args:
        config: the configuration.
        annotations: the images.
        data: path or name of the data set.
        folder: folder of feature stores.
        given: feature stores to use instead; their metadata marks those of mirrored images.
        progress: called with the number of images encoded.

    Raises:
        SeesayError: an encoder that is not available, a store of another encoder, or incompatible stores.
    """
    torch.manual_seed(config.training.seed)  # for encoders with random weights
    to_mirror = flippable_images(annotations) if config.training.hflip_prob else {}
    if given:
        stores = [FeatureStore(path) for path in given]
        require_unchanged(stores, {item.id: item.image for item in annotations if item.split is not None})
        return _sources_of_stores(config, stores, to_mirror, _Extraction(config, data, folder, progress))
    encoder = build_encoder(config.encoder)
    if config.encoder.encoder_training != "cached":
        encoder.requires_grad_(config.encoder.encoder_training == "full")
        return Sources(encoder, None)
    used = [item for split in ("train", "val", "test") for item in annotations.split(split)]
    extraction = _Extraction(config, data, folder, progress)
    plain = extraction.store({item.id: item.image for item in used}, encoder)
    mirrored = extraction.mirrored_store(to_mirror, encoder, plain) if to_mirror else None
    return Sources(encoder, plain, mirrored)


def _sources_of_stores(
    config: Config, stores: Sequence[FeatureStore], to_mirror: Mapping[str, str], extraction: "_Extraction"
) -> Sources:
    """Return the sources of stores passed by the user; a single store must match the configured encoder."""
    plain, mirrored = split_stores(stores)
    if config.training.crop_fraction:
        raise ConfigError("training.crop_fraction needs images, but feature stores were passed; drop one of them")
    if mirrored and not to_mirror:
        raise ConfigError(
            f"{mirrored[0].path} contains features of mirrored images, which training.hflip_prob=0 never uses; "
            "set it to 0.5, or drop the store"
        )
    joined, encoder = JoinedStores(plain), None
    if len(plain) == 1 and "encoder" in joined.identity:
        _check_encoder_name(config, plain[0])
        encoder = build_encoder(config.encoder)
        joined.require(encoder.identity)
    if not to_mirror:
        return Sources(encoder, joined)
    if encoder is not None and not mirrored:
        return Sources(encoder, joined, extraction.mirrored_store(to_mirror, encoder, joined))
    matched = match_mirrored(plain, mirrored)
    _check_mirrored(matched, [name for name in to_mirror if name in joined])
    return Sources(encoder, joined, matched)


def _check_encoder_name(config: Config, store: FeatureStore) -> None:
    """Check that a store is of the configured encoder, before its weights are loaded or downloaded.

    Raises:
        ConfigError: it is of another encoder.
    """
    extracted, configured = store.identity["encoder"], config.encoder.encoder
    if extracted != configured:
        raise ConfigError(
            f"{store.path} contains features of {describe_identity(store.identity)}, but encoder.encoder is "
            f"{configured}; pass the encoder options of its extraction, such as --encoder {extracted}"
        )


@dataclass(frozen=True)
class _Extraction:
    """Extracts feature stores into a folder."""

    config: Config
    data: str | Path
    folder: str | Path
    progress: Progress | None

    def store(self, images: Mapping[str, str], encoder: Encoder, *, mirrored: bool = False) -> JoinedStores:
        """Return the store of the images, after extracting missing features."""
        path = store_path(self.folder, self.data, encoder, mirrored=mirrored)
        device = choose_device(self.config.training.device)
        report = extract_features(images, encoder, path, device=device, progress=self.progress, mirrored=mirrored)
        if report.extracted:
            log.info(
                "%d%s images encoded into %s: %.0f images/s (encoder alone: %.0f)",
                report.extracted,
                " mirrored" if mirrored else "",
                path,
                report.rate,
                report.encoder_rate,
            )
        if report.pooled:
            log.info("%d images pooled into %s from their grid features", report.pooled, path)
        for line in report.unreadable:
            log.warning("left out: %s", line)
        return JoinedStores([FeatureStore(path)])

    def mirrored_store(self, images: Mapping[str, str], encoder: Encoder, plain: JoinedStores) -> JoinedStores:
        """Return the store of mirrored images, for the images in `plain`."""
        wanted = {name: image for name, image in images.items() if name in plain}
        made = self.store(wanted, encoder, mirrored=True)
        _check_mirrored(made, list(wanted))
        return made


def _check_mirrored(mirrored: JoinedStores, wanted: Sequence[str]) -> None:
    """Log the number of images without mirrored features.

    Raises:
        FeatureStoreError: no image has them.
    """
    missing = sum(name not in mirrored for name in wanted)
    if missing == len(wanted):
        raise FeatureStoreError(
            f"{mirrored.stores[0].path} contains none of the training images that can be mirrored; "
            "leave training.hflip_prob at 0"
        )
    if missing:
        log.warning("%d training images have no mirrored features and are not mirrored", missing)
