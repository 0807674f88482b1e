"""Resumable downloads of public data sets, verified and unpacked for `load_annotations`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seesay.data.transfer import Progress, Transfer
from seesay.data.unpacking import BadArchiveError, unpack
from seesay.errors import DownloadError
from seesay.files import sha256, write_atomically
from seesay.outputs import FileKind, check_file, check_name

RECORD = "downloads.json"  # in the data set's folder: URL, size and digest of each archive

_RECORD = FileKind("a download record of seesay", lambda head: head.startswith(b'{\n "') or head == b"{}\n")


@dataclass(frozen=True)
class Archive:
    """One zip archive of a data set.

    Attributes:
        path: URL path relative to the data set's base URL.
        size: Size in bytes, or None if unknown.
        sha256: Published digest, or None.
        only: Regular expression of the members to extract; empty: all.
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    only: str = ""

    @property
    def name(self) -> str:
        """File name."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class PublicDataset:
    """Base URL and archives of a public data set."""

    base_url: str
    archives: tuple[Archive, ...]


_COCO_URL = "http://images.cocodataset.org"
# The annotation archives also contain boxes and key points, five times as large as the captions.
_COCO_CAPTIONS = r"annotations/captions_.*\.json"

DATASETS: Mapping[str, PublicDataset] = {
    "flickr8k": PublicDataset(
        "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k",
        (Archive("Flickr8k_text.zip"), Archive("Flickr8k_Dataset.zip")),
    ),
    "coco2014": PublicDataset(
        _COCO_URL,
        (
            Archive("annotations/annotations_trainval2014.zip", 252_872_794, only=_COCO_CAPTIONS),
            Archive("zips/val2014.zip"),
            Archive("zips/train2014.zip", 13_510_573_713),
        ),
    ),
    "coco2017": PublicDataset(
        _COCO_URL,
        (
            Archive("annotations/annotations_trainval2017.zip", only=_COCO_CAPTIONS),
            Archive("zips/val2017.zip"),
            Archive("zips/train2017.zip"),
        ),
    ),
}


def download_dataset(
    name: str,
    folder: str | Path,
    *,
    base_url: str | None = None,
    datasets: Mapping[str, PublicDataset] = DATASETS,
    keep_archives: bool = False,
    progress: Progress | None = None,
    retry_delay: float = 1.0,
) -> Path:
    """Download and unpack a public data set and return its folder, ready for `load_annotations`.

    A stopped download resumes with the next call (HTTP ranges within an archive); unpacked archives are skipped. Known
    sizes and published digests are verified; actual digests are recorded in `downloads.json`. Existing files are kept:
    an archive of the same name is used, and an existing file that differs from the archive's is an error.

    Args:
        name: Name of the data set: flickr8k, coco2014, coco2017.
        folder: Output folder; created if missing.
        base_url: A mirror with the same paths.
        datasets: The known data sets.
        keep_archives: Keep the archives after unpacking.
        progress: Called with the progress of each archive.
        retry_delay: Seconds before the first retry; doubled for each further retry.

    Raises:
        DownloadError: The name is unknown, or an archive cannot be downloaded completely, differs from the published
            size or digest, or is unsafe to unpack.
    """
    if name not in datasets:
        raise DownloadError(f"unknown data set {name!r}; choose one of {', '.join(datasets)}")
    target = Path(folder)
    base = (base_url or datasets[name].base_url).rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise DownloadError(f"{base} is not an http(s) URL")
    check_name(target, "FOLDER")
    check_file(target / RECORD, _RECORD, "FOLDER")
    try:
        target.mkdir(parents=True, exist_ok=True)
        for archive in datasets[name].archives:
            _fetch_archive(archive, f"{base}/{archive.path}", target, keep_archives, progress, retry_delay)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(f"{target} cannot be written: {error.strerror or error}") from error
    return target


def _fetch_archive(
    archive: Archive, url: str, folder: Path, keep: bool, progress: Progress | None, retry_delay: float
) -> None:
    """Download, verify, record and unpack one archive, skipping completed steps."""
    record = _read_record(folder)
    entry = record.get(archive.name, {})
    unpacked = entry.get("unpacked")
    if isinstance(unpacked, list) and all((folder / str(name)).exists() for name in unpacked):
        return
    local = folder / archive.name
    if not local.exists():
        partial = folder / f"{archive.name}.part"
        Transfer(url, partial, archive.size, progress, retry_delay).run()
        entry = {"url": url}  # marks the archive as downloaded by seesay
        _write_record(folder, {**record, archive.name: entry})
        partial.replace(local)
    if "sha256" not in entry or entry.get("bytes") != local.stat().st_size:
        fetched = entry if "sha256" not in entry else {}
        entry = {**fetched, "bytes": local.stat().st_size, "sha256": sha256(local)}
        _write_record(folder, {**record, archive.name: entry})
    if archive.sha256 not in (None, entry["sha256"]):
        raise DownloadError(
            f"{url} has the digest {entry['sha256']}, not {archive.sha256}; {_discard(local, entry, record)}"
        )

    def unpacking(done: int, total: int) -> None:
        if progress is not None:
            progress(f"unpacking {archive.name}", done, total)

    try:
        names = unpack(local, folder, archive.only, unpacking)
    except BadArchiveError as error:
        raise DownloadError(
            f"{error}; {_discard(local, entry, record)}, run the command again to download it"
        ) from error
    _write_record(folder, {**record, archive.name: {**entry, "unpacked": names}})
    if not keep and "url" in entry:
        local.unlink()


def _discard(local: Path, entry: dict[str, Any], record: dict[str, dict[str, Any]]) -> str:
    """Remove a damaged archive that seesay downloaded and its entry; return what was done, for the message."""
    if "url" not in entry:
        return "it was not downloaded by seesay; remove it"
    local.unlink()
    _write_record(local.parent, {name: other for name, other in record.items() if name != local.name})
    return "it was removed"


def _read_record(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the download record of a folder; empty if missing or damaged."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entries = record.items() if isinstance(record, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, dict)}


def _write_record(folder: Path, record: dict[str, dict[str, Any]]) -> None:
    write_atomically(folder / RECORD, f"{json.dumps(record, indent=1)}\n".encode())
