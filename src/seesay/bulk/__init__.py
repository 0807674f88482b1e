"""Captioning of collections: finding images, and writing captions so that an interrupted job can resume."""

from seesay.bulk.destination import Destination
from seesay.bulk.discovery import ImageList, find_images
from seesay.bulk.failures import default_failures_path
from seesay.bulk.job import BulkReport, caption_collection
from seesay.bulk.rows import json_line
from seesay.bulk.sinks import EmbedField, Existing

__all__ = [
    "BulkReport",
    "Destination",
    "EmbedField",
    "Existing",
    "ImageList",
    "caption_collection",
    "default_failures_path",
    "find_images",
    "json_line",
]
