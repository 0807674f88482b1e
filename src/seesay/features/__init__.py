"""Feature stores on disk: one memory-mapped file per extraction, float16 or int8."""

from seesay.features.conversion import convert_store
from seesay.features.extraction import ExtractionReport, extract_features, store_name, store_path
from seesay.features.imports import import_features
from seesay.features.joined import JoinedStores
from seesay.features.layout import FeatureDtype
from seesay.features.mirrored import match_mirrored, split_stores
from seesay.features.store import FeatureStore

__all__ = [
    "ExtractionReport",
    "FeatureDtype",
    "FeatureStore",
    "JoinedStores",
    "convert_store",
    "extract_features",
    "import_features",
    "match_mirrored",
    "split_stores",
    "store_name",
    "store_path",
]
