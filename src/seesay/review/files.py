"""The captions to review, by the kind of their file."""

from pathlib import Path

from seesay.errors import ConfigError, DataError
from seesay.files import require_suffix
from seesay.review.entries import CaptionFile
from seesay.review.sidecars import SidecarFolder
from seesay.review.tables import CsvFile, JsonlFile

_SUFFIXES = {".jsonl": "JSON lines", ".csv": "CSV", ".tsv": "TSV"}


def caption_file(path: Path, sidecar: str = "") -> CaptionFile:
    """Return the captions at a path, not opened yet.

    Args:
        path: a file of captions, or a folder of images.
        sidecar: for a folder, the suffix of the text file beside each image.

    Raises:
        DataError: there is no such file or folder.
        ConfigError: the format cannot be reviewed, or `sidecar` does not fit.
    """
    if not path.exists():
        raise DataError(f"there is no {path}; pass a file written by `seesay caption --out`, or a folder of images")
    if path.is_dir() and path.suffix.lower() != ".parquet":
        if not sidecar:
            raise ConfigError(f"{path} is a folder; name the text files beside its images with --sidecar .txt")
        return SidecarFolder(path, sidecar)
    if sidecar:
        raise ConfigError(f"--sidecar needs a folder of images, and {path} is a file; drop --sidecar")
    require_suffix(path, _SUFFIXES, "captions")
    return JsonlFile(path) if path.suffix.lower() == ".jsonl" else CsvFile(path)
