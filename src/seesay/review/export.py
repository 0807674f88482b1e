"""Accepted captions as training data."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from seesay.data.annotations import Annotation, write_annotations
from seesay.data.readers.images import is_url
from seesay.errors import DataError
from seesay.review.entries import Entry


def accepted(entries: Iterable[Entry]) -> list[Annotation]:
    """Return the accepted captions by image, one per line of text; empty captions are left out.

    Raises:
        DataError: there is none.
    """
    captions: dict[str, list[str]] = {}
    sources: dict[str, str] = {}
    for entry in entries:
        texts = [line.strip() for line in entry.state.caption.splitlines() if line.strip()]
        if entry.state.review == "accepted" and texts:
            known = captions.setdefault(entry.image, [])
            known.extend(text for text in texts if text not in known)
            sources[entry.image] = entry.source if is_url(entry.source) else os.path.abspath(entry.source)  # noqa: PTH100
    if not captions:
        raise DataError("no caption is accepted yet; accept captions on the page of `seesay review`, then export")
    return [Annotation(image, sources[image], tuple(texts), None) for image, texts in captions.items()]


def export_accepted(entries: Iterable[Entry], path: Path) -> int:
    """Write the accepted captions as JSON lines that `load_annotations` reads; return the number of images.

    Raises:
        DataError: no caption is accepted, or the path is another file.
        SeesayError: it cannot be written.
    """
    annotations = accepted(entries)
    write_annotations(annotations, path)
    return len(annotations)


def exported_bytes(entries: Iterable[Entry]) -> bytes:
    """Return the content of `export_accepted` with absolute paths, so that it can be saved anywhere.

    Raises:
        DataError: no caption is accepted.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "accepted.jsonl")
        export_accepted(entries, path)
        return path.read_bytes()
