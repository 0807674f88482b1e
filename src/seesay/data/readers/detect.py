"""Detection of the caption format at a path, and selection among several files."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from seesay.data.readers.assemble import Coverage, measure
from seesay.data.readers.coco import read_coco, read_karpathy
from seesay.data.readers.columns import ColumnNames
from seesay.data.readers.flickr import read_flickr
from seesay.data.readers.images import (
    ImageFinder,
    is_image_name,
    list_image_paths,
    list_images,
    root_of,
    walk_files,
)
from seesay.data.readers.json_tables import read_json, read_jsonl
from seesay.data.readers.own_output import is_own_output
from seesay.data.readers.parquet import read_parquet
from seesay.data.readers.saved import find_saved_files, read_saved
from seesay.data.readers.sidecar import SIDECAR_SUFFIXES, has_sidecars, read_sidecar
from seesay.data.readers.sniff import TABLE_SUFFIXES, by_suffix, sniff
from seesay.data.readers.tables import read_csv
from seesay.data.readers.text import is_split_list
from seesay.data.readers.webdataset import read_webdataset
from seesay.data.records import SPLIT_WORDS, Reading, count, name_some
from seesay.errors import ConfigError, DataError
from seesay.names import to_nfc

# In order of preference, if several formats in a folder caption the same number of images.
READERS: dict[str, Callable[[list[Path], list[Path], ColumnNames], Reading]] = {
    "flickr": read_flickr,
    "karpathy": read_karpathy,
    "coco": read_coco,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "json": read_json,
    "webdataset": read_webdataset,
    "parquet": read_parquet,
}
# Aliases of the format flag for the readers above; imagefolder is a table called metadata.
_ALIASES = {"tsv": ("csv",), "imagefolder": ("jsonl", "csv", "parquet")}
_SAVED = "datasets"
FORMATS = ("auto", *READERS, *_ALIASES, "sidecar", _SAVED)
_WITH_COLUMNS = ("jsonl", "csv", "json", "webdataset", "parquet")

# Other COCO annotations, the lemmatised captions of Flickr8k, and recipes of captions written by seesay.
_NOT_CAPTIONS = re.compile(
    r"(instances|person_keypoints|panoptic|stuff|image_info)_|.*\blemma\b|.*\.recipe\.json$", re.IGNORECASE
)
_CAPTION_NAME = re.compile(r"caption|annotation|metadata|token|results|dataset", re.IGNORECASE)
_SPLIT = re.compile(rf"(?<![a-z])({SPLIT_WORDS})(?![a-z])")
_KNOWN_FORMATS = (
    "Flickr token files, COCO or Karpathy JSON, CSV, TSV, JSONL, JSON or Parquet with an image and a "
    "caption column, WebDataset tar files, folders of save_to_disk, and .txt files named like the images"
)


@dataclass(frozen=True)
class Recognised:
    """A detected format, the function that reads it, remarks about other files, and the folder of the images."""

    format: str
    read: Callable[[], Reading]
    remarks: tuple[str, ...] = ()
    root: Path | None = None


@dataclass(frozen=True)
class _Request:
    """Options of detection.

    Attributes:
        format: One of FORMATS.
        columns: Table columns selected by the user.
        own: Accept captions written by seesay: a folder called `captions.parquet` is one output.
    """

    format: str
    columns: ColumnNames
    own: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """The permitted readers, in order of preference."""
        kinds = tuple(READERS) if self.format == "auto" else _ALIASES.get(self.format, (self.format,))
        return tuple(kind for kind in READERS if kind in kinds and (not self.columns or kind in _WITH_COLUMNS))

    @property
    def sidecars(self) -> bool:
        """Whether text files beside images are permitted."""
        return self.format in ("auto", "sidecar") and not self.columns


@dataclass
class _Candidate:
    """One source of captions in a folder: files, or the text files beside its images."""

    kind: str
    files: tuple[Path, ...]
    level: int
    folder: Path
    columns: ColumnNames

    @property
    def format(self) -> str:
        """Name of the format."""
        metadata = self.files and all(path.stem.lower() == "metadata" for path in self.files)
        return "imagefolder" if metadata else self.kind

    @property
    def names(self) -> list[str]:
        """Names for messages."""
        return [str(path.relative_to(self.folder)) for path in self.files] or ["text files beside the images"]

    @cached_property
    def reading(self) -> Reading:
        """The records; read once."""
        if not self.files:
            return read_sidecar(self.folder)
        return READERS[self.kind](list(self.files), _split_lists(self.files, self.folder), self.columns)

    def coverage(self, finder: ImageFinder) -> Coverage:
        """Return the number of captioned images; zero if unreadable."""
        try:
            return measure(self.reading, finder)
        except DataError:
            return Coverage(0, 0, 0)


def recognise(source: Path, format: str, columns: ColumnNames) -> Recognised:
    """Return the format of the captions at a path.

    Args:
        source: A captions file, a folder that contains one (directly or one level deeper), or `hf:NAME`.
        format: One of FORMATS; `auto` detects.
        columns: Table columns selected by the user.

    Raises:
        ConfigError: Unknown format, or columns for a format without columns.
        DataError: The path does not exist, no format is detected, or several files are equally plausible.
    """
    if format not in FORMATS:
        raise ConfigError(f"data.format is {format!r}; it must be one of {', '.join(FORMATS)}")
    saved = find_saved_files(source) if format in ("auto", _SAVED) else None
    if saved is not None:
        folder = next((path.parent for paths in saved.values() for path in paths), source)
        return Recognised(_SAVED, partial(read_saved, source, saved, columns), root=folder)
    if not source.exists():
        raise DataError(f"{source} does not exist; pass a captions file or a folder that contains one")
    if format == _SAVED:
        raise DataError(f"{source} is not a folder of save_to_disk; pass one, or hf:NAME")
    if source.is_dir():
        return _recognise_folder(source, _Request(format, columns, own=source.suffix.lower() == ".parquet"))
    if format == "sidecar":
        raise DataError(f"{source} is a file; the sidecar reader needs the folder of images and text files")
    requested = _ALIASES.get(format, (format,))
    kind = format if format in READERS else sniff(source, columns) or by_suffix(source)
    if kind is None or is_image_name(source.name):
        raise DataError(f"{source} is not a captions file of a known format; supported: {_KNOWN_FORMATS}")
    if format != "auto" and kind not in requested:
        kind = requested[0]
    if columns and kind not in _WITH_COLUMNS:
        raise ConfigError(f"--image-column and --caption-column select columns of tables; {source} is read as {kind}")
    remarks = (_own_remark(source.parent, [source], used=True),) if is_own_output(source) else ()
    return _recognised(_Candidate(kind, (source,), 0, source.parent, columns), remarks)


def _recognised(candidate: _Candidate, remarks: tuple[str, ...] = ()) -> Recognised:
    return Recognised(candidate.format, lambda: candidate.reading, remarks)


@dataclass(frozen=True)
class _Files:
    """Possible captions files of a folder, or of the folders one level deeper.

    Attributes:
        by_reader: files of a known format, by reader.
        own: files written by seesay.
        unknown: tables and JSON files of an unknown format.
    """

    by_reader: dict[str, list[Path]]
    own: list[Path]
    unknown: list[Path]


def _recognise_folder(folder: Path, request: _Request) -> Recognised:
    """Return the format of the captions in a folder.

    The candidate that captions most of the existing images wins. Ties: a file in the folder before one a level deeper,
    then the order of READERS, text files beside images last. Files a level deeper are considered if those in the folder
    caption less than half of the images. Files written by seesay are not read.
    """
    direct = _classify(_possible_captions(folder), request)
    nested = _classify(_nested_captions(folder), request)
    upper, lower = (
        _candidates(folder, files.by_reader, level, request) for level, files in enumerate((direct, nested))
    )
    has_texts = request.sidecars and has_sidecars(folder)
    beside = [_Candidate("sidecar", (), 2, folder, request.columns)] if has_texts else []
    candidates = [*(upper or lower), *beside]
    own = [*direct.own, *nested.own]
    if not candidates:
        return _nothing_found(folder, request, own, [*direct.unknown, *nested.unknown])
    finder = ImageFinder(root_of(folder))
    best = _best(candidates, finder)
    if upper and lower and 2 * best.coverage(finder).found < len(list_image_paths(folder)):
        candidates = [*upper, *lower, *beside]
        best = _best(candidates, finder)
    used = best.names
    unused = [
        str(path.relative_to(folder))
        for files in (direct, nested)
        for some in files.by_reader.values()
        for path in some
    ]
    unused = [name for name in [*unused, *(name for each in beside for name in each.names)] if name not in used]
    remarks = []
    if unused:
        remarks.append(f"captions read from {name_some(used)}, not from {name_some(unused)}; pass a file to select it")
    if own:
        remarks.append(_own_remark(folder, own, request.own))
    return _recognised(best, tuple(remarks))


def _best(candidates: list[_Candidate], finder: ImageFinder) -> _Candidate:
    """Return the candidate that captions the most images.

    Raises:
        DataError: Several candidates of one format are tied.
    """
    if len(candidates) == 1:
        return candidates[0]
    coverages = [candidate.coverage(finder) for candidate in candidates]
    order = [*READERS, "sidecar"]
    top = [one for one, coverage in zip(candidates, coverages, strict=True) if coverage == max(coverages)]
    first = min(top, key=lambda one: (one.level, order.index(one.kind)))
    equal = [one for one in top if (one.level, one.kind) == (first.level, first.kind)]
    if len(equal) > 1:
        names = [name for one in candidates if one.kind == first.kind for name in one.names]
        raise DataError(f"{first.folder} contains several captions files ({name_some(names)}); pass the file to read")
    return first


def _own_remark(folder: Path, own: list[Path], used: bool) -> str:
    """Return the remark about captions written by seesay."""
    names = name_some([str(path.relative_to(folder)) for path in own])
    if used:
        return f"{names} written by seesay: the captions are generated by a model"
    return f"{names} written by seesay, not read as human captions; pass a file to use its captions"


def _nothing_found(folder: Path, request: _Request, own: list[Path], unknown: list[Path]) -> Recognised:
    """Return the only table of the folder, so that its reader reports the missing columns.

    Raises:
        DataError: There is no table, or several.
    """
    readable = [path for path in unknown if request.format in ("auto", by_suffix(path))]
    if len(readable) == 1:
        kind = by_suffix(readable[0]) or "csv"
        return _recognised(_Candidate(kind, (readable[0],), 0, folder, request.columns))
    what = "nothing" if request.format == "auto" else f"nothing for the {request.format} reader"
    listing = list_images(folder)
    problem = f"{folder} contains {count(len(listing.images), 'image')} but {what} with captions"
    messages = [f"{problem}; supported: {_KNOWN_FORMATS}"]
    beside = (Path(path) for path in walk_files(folder) if re.search(r"(?<!\.recipe)\.json$", path, re.IGNORECASE))
    unused = sorted({str(path.relative_to(folder)) for path in (*unknown, *beside) if path not in own})
    if unused:
        messages.append(f"unknown format: {name_some(unused)} (pass one of them for details)")
    if own:
        messages.append(_own_remark(folder, own, used=False))
    raise DataError("; ".join(filter(None, (*messages, listing.remark()))))


def _possible_captions(folder: Path) -> list[Path]:
    """Return the possible captions files of a folder, sorted, without text files named like an image."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not entry.is_dir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from error
    visible = [name for name in names if not (name.startswith(".") or _NOT_CAPTIONS.match(name))]
    others = [name for name in visible if not is_image_name(name)]
    beside = {name for name in others if name.lower().endswith(SIDECAR_SUFFIXES)}
    if beside:
        images = {to_nfc(name) for name in names if is_image_name(name)}
        images |= {name.rpartition(".")[0] for name in images}
        beside = {name for name in beside if to_nfc(name.rpartition(".")[0]) in images}
    return [folder / name for name in others if name not in beside]


def _nested_captions(folder: Path) -> list[Path]:
    """Return the possible captions files one level below a folder."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    visible = [path for path in folders if not path.name.startswith((".", "__MACOSX"))]
    return [file for path in visible for file in _possible_captions(path)]


def _classify(files: Iterable[Path], request: _Request) -> _Files:
    """Return which files contain captions in the requested format."""
    classified = _Files({}, [], [])
    by_reader: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        table = path.suffix.lower() in (*TABLE_SUFFIXES, ".json")
        if table and is_own_output(path):
            classified.own.append(path)
            if not request.own:
                continue
        if request.format == "imagefolder" and path.stem.lower() != "metadata":
            continue
        kind = sniff(path, request.columns)
        if kind is not None and kind in request.kinds:
            by_reader[kind].append(path)
        elif kind is None and table:
            classified.unknown.append(path)
    classified.by_reader.update({kind: by_reader[kind] for kind in READERS if kind in by_reader})
    return classified


def _candidates(folder: Path, by_reader: dict[str, list[Path]], level: int, request: _Request) -> list[_Candidate]:
    """Return the data sets formed by the files; of several in one format, those named after captions."""
    candidates = []
    for kind, files in by_reader.items():
        families: dict[str, list[Path]] = defaultdict(list)
        for path in files:
            families[_family(path.relative_to(folder).as_posix())].append(path)
        selected = list(families)
        for test in (_is_named_after_captions, _has_images_of_its_year):
            if len(selected) > 1:
                selected = [family for family in selected if test(folder, family)] or selected
        candidates += [_Candidate(kind, tuple(families[name]), level, folder, request.columns) for name in selected]
    return candidates


def _family(name: str) -> str:
    """Return the common name of the files of one data set: without split and shard number."""
    name = re.sub(r"-\d+-of-\d+[^./]*", "", name.lower())
    name = _SPLIT.sub("*", name)
    return re.sub(r"[-_]?\d+(?=\.(tar|tgz|tar\.gz|parquet|jsonl)$)", "#", name)


def _is_named_after_captions(folder: Path, family: str) -> bool:
    return _CAPTION_NAME.search(family.rsplit("/", 1)[-1]) is not None


def _has_images_of_its_year(folder: Path, family: str) -> bool:
    """Return whether an image folder such as train2014 has the year of the captions (COCO has two)."""
    year = re.search(r"20\d\d", family)
    folders = [folder, folder.parent] if "annotations" in folder.name.lower() else [folder, folder / "images"]
    return year is not None and any(path.is_dir() for place in folders for path in place.glob(f"*{year.group()}"))


def _split_lists(files: Iterable[Path], folder: Path) -> list[Path]:
    """Return the split lists in the folder, beside the captions, or one level deeper."""
    direct = [*dict.fromkeys([folder, *(path.parent for path in files)])]
    candidates = [path for place in direct for path in _possible_captions(place)] + _nested_captions(folder)
    return [path for path in dict.fromkeys(candidates) if path not in files and is_split_list(path)]
