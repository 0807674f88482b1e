"""Captioned images: readers for common formats, splits, checks, downloads and the built-in data set.

annotations = load_annotations("data/flickr8k")
report = check_data(annotations, TextConfig())
"""

from seesay.data.annotations import (
    Annotation,
    Annotations,
    Box,
    limit_annotations,
    load_annotations,
    load_dataset,
    split_annotations,
    write_annotations,
)
from seesay.data.download import download_dataset
from seesay.data.readers.columns import USUAL_NAMES, ColumnNames
from seesay.data.synthetic.scenes import make_scenes
from seesay.data.validation.check import DataReport, check_data

__all__ = [
    "USUAL_NAMES",
    "Annotation",
    "Annotations",
    "Box",
    "ColumnNames",
    "DataReport",
    "check_data",
    "download_dataset",
    "limit_annotations",
    "load_annotations",
    "load_dataset",
    "make_scenes",
    "split_annotations",
    "write_annotations",
]
