"""seesay: train, evaluate, explain and run image captioners.

The public names are loaded when they are first used, so that importing the package does no work.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seesay.openmp import limit_spinning

if TYPE_CHECKING:
    from seesay.captioners import load_captioner
    from seesay.captioners.base import Captioner
    from seesay.captioners.caption import Caption
    from seesay.captioners.trained import TrainedCaptioner
    from seesay.config import Config, DecodingOptions, resolve_config
    from seesay.data import Annotation, Annotations, check_data, load_annotations, make_scenes
    from seesay.errors import SeesayError
    from seesay.evaluation import Comparison, Evaluation, compare, evaluate
    from seesay.explanation.explain import Explanation, explain
    from seesay.features import FeatureStore, extract_features
    from seesay.metrics import Scores, bootstrap_intervals, compute_metrics, paired_bootstrap
    from seesay.tokenizer import Tokenizer
    from seesay.training.train import TrainingResult, train
    from seesay.training.tuning.tune import TuningResult, tune

__version__ = "0.2.0"

limit_spinning()  # here, because torch reads it as it is loaded

_HOMES = {
    "Annotation": "seesay.data",
    "Annotations": "seesay.data",
    "Caption": "seesay.captioners.caption",
    "Captioner": "seesay.captioners.base",
    "TrainedCaptioner": "seesay.captioners.trained",
    "Comparison": "seesay.evaluation",
    "Config": "seesay.config",
    "DecodingOptions": "seesay.config",
    "Evaluation": "seesay.evaluation",
    "Explanation": "seesay.explanation.explain",
    "FeatureStore": "seesay.features",
    "Scores": "seesay.metrics",
    "SeesayError": "seesay.errors",
    "Tokenizer": "seesay.tokenizer",
    "TrainingResult": "seesay.training.train",
    "TuningResult": "seesay.training.tuning.tune",
    "bootstrap_intervals": "seesay.metrics",
    "check_data": "seesay.data",
    "compare": "seesay.evaluation",
    "compute_metrics": "seesay.metrics",
    "evaluate": "seesay.evaluation",
    "explain": "seesay.explanation.explain",
    "extract_features": "seesay.features",
    "load_annotations": "seesay.data",
    "load_captioner": "seesay.captioners",
    "make_scenes": "seesay.data",
    "paired_bootstrap": "seesay.metrics",
    "resolve_config": "seesay.config",
    "train": "seesay.training.train",
    "tune": "seesay.training.tuning.tune",
}

__all__ = [
    "Annotation",
    "Annotations",
    "Caption",
    "Captioner",
    "Comparison",
    "Config",
    "DecodingOptions",
    "Evaluation",
    "Explanation",
    "FeatureStore",
    "Scores",
    "SeesayError",
    "Tokenizer",
    "TrainedCaptioner",
    "TrainingResult",
    "TuningResult",
    "bootstrap_intervals",
    "check_data",
    "compare",
    "compute_metrics",
    "evaluate",
    "explain",
    "extract_features",
    "load_annotations",
    "load_captioner",
    "make_scenes",
    "paired_bootstrap",
    "resolve_config",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'seesay' has no attribute {name!r}")
    from seesay.errors import core_dependencies

    with core_dependencies(f"seesay.{name}"):
        value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # a module of the same name (seesay.explanation.explain) would else take its place
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
