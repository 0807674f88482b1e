"""Image features kept on disk: one float16 file an extraction, memory-mapped, and how it is filled."""

from seesay.features.extraction import ExtractionReport, extract_features, store_path
from seesay.features.imports import import_features
from seesay.features.joined import FeatureSource, JoinedStores
from seesay.features.mirrored import match_mirrored, part_stores
from seesay.features.store import FeatureStore

__all__ = [
    "ExtractionReport",
    "FeatureSource",
    "FeatureStore",
    "JoinedStores",
    "extract_features",
    "import_features",
    "match_mirrored",
    "part_stores",
    "store_path",
]
