"""Recognising by looking which form of captions a path holds, and which of several files is meant."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from seesay.data.readers.coco import read_coco, read_karpathy
from seesay.data.readers.flickr import read_flickr
from seesay.data.readers.parquet import read_parquet
from seesay.data.readers.pictures import is_picture_name, list_images
from seesay.data.readers.sidecar import SIDECAR_SUFFIXES, has_sidecars, read_sidecar
from seesay.data.readers.sniff import TABLE_SUFFIXES, by_suffix, sniff
from seesay.data.readers.tables import read_csv, read_json, read_jsonl
from seesay.data.readers.text import is_split_list
from seesay.data.readers.webdataset import read_webdataset
from seesay.data.records import SPLIT_WORDS, Reading, count, name_some
from seesay.errors import ConfigError, DataError

# In order of preference, where a folder holds several.
READERS: dict[str, Callable[[list[Path], list[Path]], Reading]] = {
    "flickr": read_flickr,
    "karpathy": read_karpathy,
    "coco": read_coco,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "json": read_json,
    "webdataset": read_webdataset,
    "parquet": read_parquet,
}
# Names for the format flag that stand for readers above; imagefolder is a table called metadata.
_STANDS_FOR = {"tsv": ("csv",), "imagefolder": ("jsonl", "csv", "parquet")}
FORMATS = ("auto", *READERS, *_STANDS_FOR, "sidecar")

# Neighbours of COCO's captions, and the stemmed captions of Flickr8k.
_NOT_CAPTIONS = re.compile(r"(instances|person_keypoints|panoptic|stuff|image_info)_|.*\blemma\b", re.IGNORECASE)
_CAPTION_NAME = re.compile(r"caption|annotation|metadata|token|results|dataset", re.IGNORECASE)
_SPLIT = re.compile(rf"(?<![a-z])({SPLIT_WORDS})(?![a-z])")
_LOOKED_FOR = (
    "Flickr token files, COCO or Karpathy JSON, CSV, TSV, JSONL, JSON or Parquet with a picture and a "
    "caption column, WebDataset tars, and .txt files named like the pictures"
)


@dataclass(frozen=True)
class Recognised:
    """The form that a path holds, how to read it, and what else was there."""

    format: str
    read: Callable[[], Reading]
    remarks: tuple[str, ...] = ()


def recognise(source: Path, format: str) -> Recognised:
    """Returns the form of captions at a path.

    Args:
        source: A captions file, or a folder with one in it or one level deeper.
        format: One of FORMATS; `auto` looks.

    Raises:
        ConfigError: No such format.
        DataError: No such path, nothing recognised, or several files none of which is the obvious one.
    """
    if format not in FORMATS:
        raise ConfigError(f"data.format is {format!r}; it must be one of {', '.join(FORMATS)}")
    if not source.exists():
        raise DataError(f"{source} does not exist; name a captions file or the folder that holds one")
    if source.is_dir():
        return _recognise_folder(source, format)
    if format == "sidecar":
        raise DataError(f"{source} is a file; the sidecar reader wants the folder of pictures and texts")
    wanted = _STANDS_FOR.get(format, (format,))
    kind = format if format in READERS else sniff(source) or by_suffix(source)
    if kind is None or is_picture_name(source.name):
        raise DataError(f"{source} is no captions file of a known form; looked for {_LOOKED_FOR}")
    if format != "auto" and kind not in wanted:
        kind = wanted[0]
    return _with_files(kind, [source], source.parent)


def _recognise_folder(folder: Path, format: str) -> Recognised:
    """Returns the form of captions in a folder: of what lies in it, else of what lies one level deeper."""
    for level in (_captions_like, _deeper) if format != "sidecar" else ():
        found = _by_kind(level(folder), format)
        if found:
            return _choose(folder, found)
    if format in ("auto", "sidecar") and has_sidecars(folder):
        return Recognised("sidecar", lambda: read_sidecar(folder))
    # A table with other columns says best itself what it lacks.
    for path in [*_captions_like(folder), *_deeper(folder)]:
        if path.suffix.lower() in TABLE_SUFFIXES and format in ("auto", by_suffix(path)):
            return _with_files(by_suffix(path) or "csv", [path], folder)
    what = "nothing" if format == "auto" else f"nothing for the {format} reader"
    listing = list_images(folder)
    pictures = count(len(listing.images), "picture")
    problem = f"{folder} holds {pictures} but {what} that gives captions; looked for {_LOOKED_FOR}"
    raise DataError("; ".join(filter(None, (problem, listing.remark()))))


def _captions_like(folder: Path) -> list[Path]:
    """Returns the files of a folder that may hold captions, sorted; texts named like a picture left out."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not entry.is_dir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from error
    stems = {Path(name).stem for name in names if is_picture_name(name)}
    return [
        folder / name
        for name in names
        if not is_picture_name(name)
        and not name.startswith(".")
        and not _NOT_CAPTIONS.match(name)
        and not (Path(name).suffix.lower() in SIDECAR_SUFFIXES and Path(name).stem in stems)
    ]


def _deeper(folder: Path) -> list[Path]:
    """Returns the files that may hold captions one level below a folder."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    visible = [path for path in folders if not path.name.startswith((".", "__MACOSX"))]
    return [file for path in visible for file in _captions_like(path)]


def _by_kind(files: Iterable[Path], format: str) -> dict[str, list[Path]]:
    """Returns the files that hold captions by the reader they need, only those of the format asked for."""
    wanted = READERS if format == "auto" else _STANDS_FOR.get(format, (format,))
    found: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        if format == "imagefolder" and path.stem.lower() != "metadata":
            continue
        kind = sniff(path)
        if kind is not None and kind in wanted:
            found[kind].append(path)
    return {kind: found[kind] for kind in READERS if kind in found}


def _choose(folder: Path, found: dict[str, list[Path]]) -> Recognised:
    """Returns the preferred form of those found in a folder, and remarks on the others.

    Raises:
        DataError: Several files of that form are equally likely.
    """
    kind = next(iter(found))
    families: dict[str, list[Path]] = defaultdict(list)
    for path in found[kind]:
        families[_family(path.relative_to(folder).as_posix())].append(path)
    likely = list(families)
    for test in (_is_named_after_captions, _has_pictures_of_its_year):
        if len(likely) > 1:
            likely = [family for family in likely if test(folder, family)] or likely
    if len(likely) > 1:
        names = [str(path.relative_to(folder)) for path in found[kind]]
        raise DataError(f"{folder} holds several captions files ({name_some(names)}); name the one to read")
    chosen = families[likely[0]]
    others = [path for files in found.values() for path in files if path not in chosen]
    remarks: tuple[str, ...] = ()
    if others:
        used = name_some([str(path.relative_to(folder)) for path in chosen])
        unused = name_some([str(path.relative_to(folder)) for path in others])
        remarks = (f"captions read from {used}, not from {unused}; name a file to choose it",)
    return _with_files(kind, chosen, folder, remarks)


def _family(name: str) -> str:
    """Returns what the files of one data set have in common: their names without split and shard number."""
    name = re.sub(r"-\d+-of-\d+[^./]*", "", name.lower())
    name = _SPLIT.sub("*", name)
    return re.sub(r"[-_]?\d+(?=\.(tar|tgz|tar\.gz|parquet|jsonl)$)", "#", name)


def _is_named_after_captions(folder: Path, family: str) -> bool:
    return _CAPTION_NAME.search(family.rsplit("/", 1)[-1]) is not None


def _has_pictures_of_its_year(folder: Path, family: str) -> bool:
    """Tells whether a folder such as train2014 stands by captions of 2014, as COCO has both years."""
    year = re.search(r"20\d\d", family)
    places = [folder, folder.parent] if "annotations" in folder.name.lower() else [folder, folder / "images"]
    return year is not None and any(path.is_dir() for place in places for path in place.glob(f"*{year.group()}"))


def _with_files(kind: str, files: list[Path], folder: Path, remarks: tuple[str, ...] = ()) -> Recognised:
    """Returns the form, to be read from the given files with the split lists near them."""
    format = kind
    if all(path.stem.lower() == "metadata" for path in files):
        format = "imagefolder"
    return Recognised(format, lambda: READERS[kind](files, _split_lists(files, folder)), remarks)


def _split_lists(files: list[Path], folder: Path) -> list[Path]:
    """Returns the lists of pictures a split, in the folder, beside the captions, or one level deeper."""
    near = [*dict.fromkeys([folder, *(path.parent for path in files)])]
    candidates = [path for place in near for path in _captions_like(place)] + _deeper(folder)
    return [path for path in dict.fromkeys(candidates) if path not in files and is_split_list(path)]
