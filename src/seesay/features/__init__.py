"""Image features kept on disk: one file an extraction, float16 or int8, memory-mapped, and how it is filled."""

from seesay.features.conversion import convert_store
from seesay.features.extraction import ExtractionReport, extract_features, store_name, store_path
from seesay.features.imports import import_features
from seesay.features.joined import FeatureSource, JoinedStores
from seesay.features.layout import FeatureDtype
from seesay.features.mirrored import match_mirrored, part_stores
from seesay.features.store import FeatureStore

__all__ = [
    "ExtractionReport",
    "FeatureDtype",
    "FeatureSource",
    "FeatureStore",
    "JoinedStores",
    "convert_store",
    "extract_features",
    "import_features",
    "match_mirrored",
    "part_stores",
    "store_name",
    "store_path",
]
