"""The captions to review, by the kind of their file."""

import json
import logging
from pathlib import Path

from seesay.bulk.parquet_writer import read_rows
from seesay.errors import ConfigError, DataError
from seesay.files import require_suffix, text_bytes, unescape_name, write_atomically
from seesay.review.entries import CaptionFile
from seesay.review.sidecars import SidecarFolder
from seesay.review.tables import CsvFile, JsonlFile

log = logging.getLogger("seesay")

_SUFFIXES = {".jsonl": "JSON lines", ".csv": "CSV", ".tsv": "TSV"}


def caption_file(path: Path, sidecar: str = "") -> CaptionFile:
    """Return the captions at a path, not opened yet.

    Args:
        path: a file of captions, a folder of images, or a Parquet output, of which a copy is reviewed.
        sidecar: for a folder, the suffix of the text file beside each image.

    Raises:
        DataError: there is no such file or folder; or the copy of a Parquet output exists already.
        ConfigError: the format cannot be reviewed, or `sidecar` does not fit.
    """
    if not path.exists():
        raise DataError(f"there is no {path}; pass a file written by `seesay caption --out`, or a folder of images")
    is_parquet = path.is_dir() and path.suffix.lower() == ".parquet"
    if path.is_dir() and not is_parquet:
        if not sidecar:
            raise ConfigError(f"{path} is a folder; name the text files beside its images with --sidecar .txt")
        return SidecarFolder(path, sidecar)
    if sidecar:
        raise ConfigError(f"--sidecar needs a folder of images, and {path} is a file; drop --sidecar")
    if is_parquet:
        return JsonlFile(_copy_parquet(path))
    require_suffix(path, _SUFFIXES, "captions")
    return JsonlFile(path) if path.suffix.lower() == ".jsonl" else CsvFile(path)


def _copy_parquet(folder: Path) -> Path:
    """Write the captions of a Parquet output as JSON lines beside it, because its parts cannot be edited in place."""
    copy = folder.with_suffix(".jsonl")
    if copy.exists():
        raise DataError(f"{folder} is reviewed as a copy in {copy}, which exists; review {copy}, or move it")
    rows = ({**row, "image": unescape_name(row["image"])} for row in read_rows(folder))
    lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    if not lines:
        raise DataError(f"{folder} has no captions to review")
    write_atomically(copy, text_bytes(lines))
    log.info("copied the captions of %s to %s, which is reviewed", folder, copy)
    return copy
