"""Collections of pictures: where they are found, and captions written so that a stopped job goes on."""

from seesay.bulk.deposits import Existing, Place
from seesay.bulk.destination import Destination
from seesay.bulk.failures import list_of_job
from seesay.bulk.finding import Found, find_pictures
from seesay.bulk.job import BulkReport, caption_collection
from seesay.bulk.rows import json_line

__all__ = [
    "BulkReport",
    "Destination",
    "Existing",
    "Found",
    "Place",
    "caption_collection",
    "find_pictures",
    "json_line",
    "list_of_job",
]
