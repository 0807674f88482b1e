"""Feature stores of mirrored images, which supplement the stores of the original images."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from seesay.errors import FeatureStoreError
from seesay.features.joined import JoinedStores
from seesay.features.store import FeatureStore, describe_identity

_MIRRORED = "mirrored"


def mirrored_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity of the features of the mirrored images."""
    return {**identity, _MIRRORED: True}


def split_stores(stores: Sequence[FeatureStore]) -> tuple[list[FeatureStore], list[FeatureStore]]:
    """Return the stores of original images and the stores of mirrored images, in order.

    Raises:
        FeatureStoreError: all are of mirrored images.
    """
    plain = [store for store in stores if _MIRRORED not in store.identity]
    mirrored = [store for store in stores if _MIRRORED in store.identity]
    if mirrored and not plain:
        raise FeatureStoreError(
            f"{mirrored[0].path} has features of mirrored images; also pass the store of the original images"
        )
    return plain, mirrored


def match_mirrored(plain: Sequence[FeatureStore], mirrored: Sequence[FeatureStore]) -> JoinedStores:
    """Return the joined stores of mirrored images in the order of the stores of original images.

    Args:
        plain: stores of original images.
        mirrored: one store for each of them, in any order, matched by encoder.

    Raises:
        FeatureStoreError: a store is missing, unmatched or duplicate.
    """
    by_identity: dict[str, FeatureStore] = {}
    for store in mirrored:
        other = by_identity.setdefault(_key(store.identity), store)
        if other is not store:
            raise FeatureStoreError(
                f"{other.path} and {store.path} both have {describe_identity(store.identity)}; pass one"
            )
    required = [_key(mirrored_identity(store.identity)) for store in plain]
    for key, store in by_identity.items():
        if key not in required:
            raise FeatureStoreError(
                f"{store.path} has {describe_identity(store.identity)}, which matches no other store; "
                "also pass the store of the same encoder, or remove it"
            )
    for key, store in zip(required, plain, strict=True):
        if key not in by_identity:
            raise FeatureStoreError(_missing(store))
    return JoinedStores([by_identity[key] for key in required])


def _missing(store: FeatureStore) -> str:
    if "encoder" not in store.identity:
        return (
            f"{store.path} has {describe_identity(store.identity)}, which have no mirrored counterpart; "
            "set training.hflip_prob to 0"
        )
    return (
        f"{store.path} has no store of mirrored images, which training.hflip_prob requires; create it with "
        "seesay extract DATA --mirror and the flags of its encoder, and also pass it with --store"
    )


def _key(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)
