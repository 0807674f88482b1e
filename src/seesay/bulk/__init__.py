"""Collections of images: where they are found, and captions written so that a stopped job goes on."""

from seesay.bulk.destination import Destination
from seesay.bulk.discovery import ImageList, find_images
from seesay.bulk.failures import list_of_job
from seesay.bulk.job import BulkReport, caption_collection
from seesay.bulk.rows import json_line
from seesay.bulk.sinks import Existing, Place

__all__ = [
    "BulkReport",
    "Destination",
    "Existing",
    "ImageList",
    "Place",
    "caption_collection",
    "find_images",
    "json_line",
    "list_of_job",
]
