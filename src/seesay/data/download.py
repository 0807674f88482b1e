"""Fetching public data sets: resumed where they stopped, checked, unpacked, ready for `load_annotations`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seesay.data.transfer import Progress, Transfer
from seesay.data.unpacking import BadArchiveError, unpack
from seesay.errors import DownloadError
from seesay.files import write_atomically
from seesay.outputs import FileKind, check_file, check_name

RECORD = "downloads.json"  # in the data set's folder: address, size and digest of what was fetched

_RECORD = FileKind("a record of downloads by seesay", lambda head: head.startswith(b'{\n "') or head == b"{}\n")


@dataclass(frozen=True)
class Archive:
    """One zip of a data set.

    Attributes:
        path: Its address after the data set's base.
        size: Its bytes, where they are known.
        sha256: Its digest, where one is published.
        only: A pattern of the members that are wanted; empty = all.
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    only: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class PublicDataset:
    """Where a public data set is to be had."""

    base_url: str
    archives: tuple[Archive, ...]


_COCO_URL = "http://images.cocodataset.org"
# The annotation archives also hold boxes and key points, five times as large as the captions.
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
    """Fetches and unpacks a public data set and returns its folder, ready for `load_annotations`.

    It may be stopped at any moment: another call goes on where it stopped, within an archive by an HTTP
    range. What has been unpacked is not fetched again. Sizes are checked where they are known, digests where
    they are published; the digests seen are recorded in `downloads.json`. Files that were there before stay: an
    archive of the same name is used and kept, and a file that differs from the archive's is refused.

    Args:
        name: One of the data sets: flickr8k, coco2014, coco2017.
        folder: Where it goes; made where absent.
        base_url: A mirror that has the same paths.
        datasets: What is to be had.
        keep_archives: Keep the zips after unpacking.
        progress: Told how far each archive is.
        retry_delay: Seconds before the second attempt; doubled for every further one.

    Raises:
        DownloadError: An unknown name, or an archive that cannot be fetched whole, is not what was
            published, or must not be unpacked.
    """
    if name not in datasets:
        raise DownloadError(f"no data set is called {name!r}; there are {', '.join(datasets)}")
    target = Path(folder)
    base = (base_url or datasets[name].base_url).rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise DownloadError(f"{base} is no http(s) address")
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
    """Fetches, checks, records and unpacks one archive, skipping what has been done."""
    record = _read_record(folder)
    entry = record.get(archive.name, {})
    unpacked = entry.get("unpacked")
    if isinstance(unpacked, list) and all((folder / str(name)).exists() for name in unpacked):
        return
    local = folder / archive.name
    if not local.exists():
        partial = folder / f"{archive.name}.part"
        Transfer(url, partial, archive.size, progress, retry_delay).run()
        entry = {"url": url}  # marks the archive as one that was fetched
        _write_record(folder, {**record, archive.name: entry})
        partial.replace(local)
    if "sha256" not in entry or entry.get("bytes") != local.stat().st_size:
        fetched = entry if "sha256" not in entry else {}
        entry = {**fetched, "bytes": local.stat().st_size, "sha256": _sha256(local)}
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
            f"{error}; {_discard(local, entry, record)}, run the command again to fetch it anew"
        ) from error
    _write_record(folder, {**record, archive.name: {**entry, "unpacked": names}})
    if not keep and "url" in entry:
        local.unlink()


def _discard(local: Path, entry: dict[str, Any], record: dict[str, dict[str, Any]]) -> str:
    """Removes a bad archive, which would fail every time, and its entry; one that was not fetched stays.

    Returns:
        What was done or is to be done, for the message.
    """
    if "url" not in entry:
        return "it was there before and stays; remove it"
    local.unlink()
    _write_record(local.parent, {name: each for name, each in record.items() if name != local.name})
    return "it was removed"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_record(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns what has been fetched into a folder; nothing where there is no record or a damaged one."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entries = record.items() if isinstance(record, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, dict)}


def _write_record(folder: Path, record: dict[str, dict[str, Any]]) -> None:
    """Writes what has been fetched, whole or not at all."""
    write_atomically(folder / RECORD, f"{json.dumps(record, indent=1)}\n".encode())
