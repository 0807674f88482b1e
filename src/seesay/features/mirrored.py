"""Stores of mirrored images, which stand beside those of the images as they are and never for them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from seesay.errors import FeatureStoreError
from seesay.features.joined import JoinedStores
from seesay.features.store import FeatureStore, describe_identity

_MARK = "mirrored"


def mirrored_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the identity of features that are made in the same way, but of the mirrored images."""
    return {**identity, _MARK: True}


def part_stores(stores: Sequence[FeatureStore]) -> tuple[list[FeatureStore], list[FeatureStore]]:
    """Returns the stores of images as they are, and those of mirrored ones, each in the order given.

    Raises:
        FeatureStoreError: all are of mirrored images.
    """
    plain = [store for store in stores if _MARK not in store.identity]
    mirrored = [store for store in stores if _MARK in store.identity]
    if mirrored and not plain:
        raise FeatureStoreError(
            f"{mirrored[0].path} holds features of mirrored images; name the store of the images as they are too"
        )
    return plain, mirrored


def match_mirrored(plain: Sequence[FeatureStore], mirrored: Sequence[FeatureStore]) -> JoinedStores:
    """Returns the stores of mirrored images in the order of those of the images as they are, joined like them.

    Args:
        plain: one or several stores of images as they are.
        mirrored: one for each of them, in any order: which one goes with which their encoders tell.

    Raises:
        FeatureStoreError: one is missing, goes with none of the others, or is there twice.
    """
    by_identity: dict[str, FeatureStore] = {}
    for store in mirrored:
        twin = by_identity.setdefault(_key(store.identity), store)
        if twin is not store:
            raise FeatureStoreError(
                f"{twin.path} and {store.path} both hold {describe_identity(store.identity)}; name one"
            )
    wanted = [_key(mirrored_identity(store.identity)) for store in plain]
    for key, store in by_identity.items():
        if key not in wanted:
            raise FeatureStoreError(
                f"{store.path} holds {describe_identity(store.identity)}, which goes with no other store given; "
                "name the one by the same encoder too, or leave it"
            )
    for key, store in zip(wanted, plain, strict=True):
        if key not in by_identity:
            raise FeatureStoreError(_missing(store))
    return JoinedStores([by_identity[key] for key in wanted])


def _missing(store: FeatureStore) -> str:
    if "encoder" not in store.identity:
        return (
            f"{store.path} holds {describe_identity(store.identity)}, of which there are none of mirrored images; "
            "leave training.hflip_prob at 0"
        )
    return (
        f"{store.path} has no counterpart of mirrored images, which training.hflip_prob needs; make it by "
        "seesay extract DATA --mirror with the flags of its encoder, and name it with --store too"
    )


def _key(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)
