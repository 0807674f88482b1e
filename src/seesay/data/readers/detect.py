"""Recognising by looking which form of captions a path holds, and which of several files is meant."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from seesay.data.readers.assemble import Extent, measure
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
from seesay.data.readers.sidecar import SIDECAR_SUFFIXES, has_sidecars, read_sidecar
from seesay.data.readers.sniff import TABLE_SUFFIXES, by_suffix, sniff
from seesay.data.readers.tables import read_csv
from seesay.data.readers.text import is_split_list
from seesay.data.readers.webdataset import read_webdataset
from seesay.data.records import SPLIT_WORDS, Reading, count, name_some
from seesay.errors import ConfigError, DataError
from seesay.names import composed

# In order of preference, where a folder holds several that caption equally many images.
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
# Names for the format flag that stand for readers above; imagefolder is a table called metadata.
_STANDS_FOR = {"tsv": ("csv",), "imagefolder": ("jsonl", "csv", "parquet")}
FORMATS = ("auto", *READERS, *_STANDS_FOR, "sidecar")
_WITH_COLUMNS = ("jsonl", "csv", "json", "webdataset", "parquet")

# Neighbours of COCO's captions, the stemmed captions of Flickr8k, and the recipes of captions that seesay wrote.
_NOT_CAPTIONS = re.compile(
    r"(instances|person_keypoints|panoptic|stuff|image_info)_|.*\blemma\b|.*\.recipe\.json$", re.IGNORECASE
)
_CAPTION_NAME = re.compile(r"caption|annotation|metadata|token|results|dataset", re.IGNORECASE)
_SPLIT = re.compile(rf"(?<![a-z])({SPLIT_WORDS})(?![a-z])")
_LOOKED_FOR = (
    "Flickr token files, COCO or Karpathy JSON, CSV, TSV, JSONL, JSON or Parquet with an image and a "
    "caption column, WebDataset tars, and .txt files named like the images"
)


@dataclass(frozen=True)
class Recognised:
    """The form that a path holds, how to read it, and what else was there."""

    format: str
    read: Callable[[], Reading]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Request:
    """What is to be recognised.

    Attributes:
        format: One of FORMATS.
        columns: The columns of tables.
        own: Whether captions that seesay wrote may be read: a folder called `captions.parquet` is one output.
    """

    format: str
    columns: ColumnNames
    own: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """The readers that may be used, in order of preference."""
        kinds = tuple(READERS) if self.format == "auto" else _STANDS_FOR.get(self.format, (self.format,))
        return tuple(kind for kind in READERS if kind in kinds and (not self.columns or kind in _WITH_COLUMNS))

    @property
    def sidecars(self) -> bool:
        """Whether texts beside images may be used."""
        return self.format in ("auto", "sidecar") and not self.columns


@dataclass
class _Candidate:
    """One source of captions in a folder: some files, or the texts beside its images."""

    kind: str
    files: tuple[Path, ...]
    level: int
    folder: Path
    columns: ColumnNames

    @property
    def format(self) -> str:
        """The name of the form."""
        metadata = self.files and all(path.stem.lower() == "metadata" for path in self.files)
        return "imagefolder" if metadata else self.kind

    @property
    def names(self) -> list[str]:
        """What it is called in messages."""
        return [str(path.relative_to(self.folder)) for path in self.files] or ["the texts beside the images"]

    @cached_property
    def reading(self) -> Reading:
        """What it holds; read once."""
        if not self.files:
            return read_sidecar(self.folder)
        return READERS[self.kind](list(self.files), _split_lists(self.files, self.folder), self.columns)

    def extent(self, finder: ImageFinder) -> Extent:
        """Returns how much it captions; nothing where it cannot be read."""
        try:
            return measure(self.reading, finder)
        except DataError:
            return Extent(0, 0, 0)


def recognise(source: Path, format: str, columns: ColumnNames) -> Recognised:
    """Returns the form of captions at a path.

    Args:
        source: A captions file, or a folder with one in it or one level deeper.
        format: One of FORMATS; `auto` looks.
        columns: The columns of tables that are named by the user.

    Raises:
        ConfigError: No such format, or columns for a form that has none.
        DataError: No such path, nothing recognised, or several files none of which is the obvious one.
    """
    if format not in FORMATS:
        raise ConfigError(f"data.format is {format!r}; it must be one of {', '.join(FORMATS)}")
    if not source.exists():
        raise DataError(f"{source} does not exist; name a captions file or the folder that holds one")
    if source.is_dir():
        return _recognise_folder(source, _Request(format, columns, own=source.suffix.lower() == ".parquet"))
    if format == "sidecar":
        raise DataError(f"{source} is a file; the sidecar reader wants the folder of images and texts")
    wanted = _STANDS_FOR.get(format, (format,))
    kind = format if format in READERS else sniff(source, columns) or by_suffix(source)
    if kind is None or is_image_name(source.name):
        raise DataError(f"{source} is no captions file of a known form; looked for {_LOOKED_FOR}")
    if format != "auto" and kind not in wanted:
        kind = wanted[0]
    if columns and kind not in _WITH_COLUMNS:
        raise ConfigError(f"--image-column and --caption-column name columns of tables; {source} is read as {kind}")
    remarks = (_own_remark(source.parent, [source], used=True),) if is_own_output(source) else ()
    return _recognised(_Candidate(kind, (source,), 0, source.parent, columns), remarks)


def _recognised(candidate: _Candidate, remarks: tuple[str, ...] = ()) -> Recognised:
    return Recognised(candidate.format, lambda: candidate.reading, remarks)


@dataclass(frozen=True)
class _Files:
    """The files of a folder, or of those one level deeper, that may hold captions.

    Attributes:
        found: those that do, by the reader they need.
        own: those that seesay wrote.
        unknown: tables and JSON files that are of no known form.
    """

    found: dict[str, list[Path]]
    own: list[Path]
    unknown: list[Path]


def _recognise_folder(folder: Path, request: _Request) -> Recognised:
    """Returns the form of captions in a folder.

    That is the one which captions the most of the images that are there; of equal ones a file in the folder before
    one a level deeper, then by the order of READERS, texts beside the images last. Files a level deeper are looked
    into where those in the folder caption less than half of the images. What seesay wrote is never read.
    """
    near = _look_at(_captions_like(folder), request)
    far = _look_at(_deeper(folder), request)
    upper, lower = (_candidates(folder, files.found, level, request) for level, files in enumerate((near, far)))
    texts = request.sidecars and has_sidecars(folder)
    beside = [_Candidate("sidecar", (), 2, folder, request.columns)] if texts else []
    candidates = [*(upper or lower), *beside]
    own = [*near.own, *far.own]
    if not candidates:
        return _nothing_found(folder, request, own, [*near.unknown, *far.unknown])
    finder = ImageFinder(root_of(folder))
    best = _best(candidates, finder)
    if upper and lower and 2 * best.extent(finder).there < len(list_image_paths(folder)):
        candidates = [*upper, *lower, *beside]
        best = _best(candidates, finder)
    used = best.names
    unused = [str(path.relative_to(folder)) for files in (near, far) for some in files.found.values() for path in some]
    unused = [name for name in [*unused, *(name for each in beside for name in each.names)] if name not in used]
    remarks = []
    if unused:
        remarks.append(f"captions read from {name_some(used)}, not from {name_some(unused)}; name a file to choose it")
    if own:
        remarks.append(_own_remark(folder, own, request.own))
    return _recognised(best, tuple(remarks))


def _best(candidates: list[_Candidate], finder: ImageFinder) -> _Candidate:
    """Returns the candidate that captions the most images.

    Raises:
        DataError: Several of one form are equally likely.
    """
    if len(candidates) == 1:
        return candidates[0]
    extents = [candidate.extent(finder) for candidate in candidates]
    order = [*READERS, "sidecar"]
    top = [one for one, extent in zip(candidates, extents, strict=True) if extent == max(extents)]
    first = min(top, key=lambda one: (one.level, order.index(one.kind)))
    equal = [one for one in top if (one.level, one.kind) == (first.level, first.kind)]
    if len(equal) > 1:
        names = [name for one in candidates if one.kind == first.kind for name in one.names]
        raise DataError(f"{first.folder} holds several captions files ({name_some(names)}); name the one to read")
    return first


def _own_remark(folder: Path, own: list[Path], used: bool) -> str:
    """Returns the line on captions that seesay wrote, which are used or not."""
    names = name_some([str(path.relative_to(folder)) for path in own])
    if used:
        return f"{names} written by seesay: its captions are a model's"
    return f"{names} written by seesay, not read as human captions; name a file to use its captions"


def _nothing_found(folder: Path, request: _Request, own: list[Path], unknown: list[Path]) -> Recognised:
    """Returns the one table that is there, whose reader reports which columns it lacks.

    Raises:
        DataError: There is none, or there are several.
    """
    readable = [path for path in unknown if request.format in ("auto", by_suffix(path))]
    if len(readable) == 1:
        kind = by_suffix(readable[0]) or "csv"
        return _recognised(_Candidate(kind, (readable[0],), 0, folder, request.columns))
    what = "nothing" if request.format == "auto" else f"nothing for the {request.format} reader"
    listing = list_images(folder)
    problem = f"{folder} holds {count(len(listing.images), 'image')} but {what} that gives captions"
    told = [f"{problem}; looked for {_LOOKED_FOR}"]
    beside = (Path(path) for path in walk_files(folder) if re.search(r"(?<!\.recipe)\.json$", path, re.IGNORECASE))
    unused = sorted({str(path.relative_to(folder)) for path in (*unknown, *beside) if path not in own})
    if unused:
        told.append(f"not understood: {name_some(unused)} (name one to see why)")
    if own:
        told.append(_own_remark(folder, own, used=False))
    raise DataError("; ".join(filter(None, (*told, listing.remark()))))


def _captions_like(folder: Path) -> list[Path]:
    """Returns the files of a folder that may hold captions, sorted; texts named like an image left out."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not entry.is_dir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from error
    visible = [name for name in names if not (name.startswith(".") or _NOT_CAPTIONS.match(name))]
    others = [name for name in visible if not is_image_name(name)]
    beside = {name for name in others if name.lower().endswith(SIDECAR_SUFFIXES)}
    if beside:
        images = {composed(name) for name in names if is_image_name(name)}
        images |= {name.rpartition(".")[0] for name in images}
        beside = {name for name in beside if composed(name.rpartition(".")[0]) in images}
    return [folder / name for name in others if name not in beside]


def _deeper(folder: Path) -> list[Path]:
    """Returns the files that may hold captions one level below a folder."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    visible = [path for path in folders if not path.name.startswith((".", "__MACOSX"))]
    return [file for path in visible for file in _captions_like(path)]


def _look_at(files: Iterable[Path], request: _Request) -> _Files:
    """Returns which of some files hold captions, only those of the format asked for."""
    looked = _Files({}, [], [])
    found: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        table = path.suffix.lower() in (*TABLE_SUFFIXES, ".json")
        if table and is_own_output(path):
            looked.own.append(path)
            if not request.own:
                continue
        if request.format == "imagefolder" and path.stem.lower() != "metadata":
            continue
        kind = sniff(path, request.columns)
        if kind is not None and kind in request.kinds:
            found[kind].append(path)
        elif kind is None and table:
            looked.unknown.append(path)
    looked.found.update({kind: found[kind] for kind in READERS if kind in found})
    return looked


def _candidates(folder: Path, found: dict[str, list[Path]], level: int, request: _Request) -> list[_Candidate]:
    """Returns the data sets that the files amount to; of several of one form those that are called captions."""
    candidates = []
    for kind, files in found.items():
        families: dict[str, list[Path]] = defaultdict(list)
        for path in files:
            families[_family(path.relative_to(folder).as_posix())].append(path)
        top_tokens = list(families)
        for test in (_is_named_after_captions, _has_images_of_its_year):
            if len(top_tokens) > 1:
                top_tokens = [family for family in top_tokens if test(folder, family)] or top_tokens
        candidates += [_Candidate(kind, tuple(families[name]), level, folder, request.columns) for name in top_tokens]
    return candidates


def _family(name: str) -> str:
    """Returns what the files of one data set have in common: their names without split and shard number."""
    name = re.sub(r"-\d+-of-\d+[^./]*", "", name.lower())
    name = _SPLIT.sub("*", name)
    return re.sub(r"[-_]?\d+(?=\.(tar|tgz|tar\.gz|parquet|jsonl)$)", "#", name)


def _is_named_after_captions(folder: Path, family: str) -> bool:
    return _CAPTION_NAME.search(family.rsplit("/", 1)[-1]) is not None


def _has_images_of_its_year(folder: Path, family: str) -> bool:
    """Tells whether a folder such as train2014 stands by captions of 2014, as COCO has both years."""
    year = re.search(r"20\d\d", family)
    places = [folder, folder.parent] if "annotations" in folder.name.lower() else [folder, folder / "images"]
    return year is not None and any(path.is_dir() for place in places for path in place.glob(f"*{year.group()}"))


def _split_lists(files: Iterable[Path], folder: Path) -> list[Path]:
    """Returns the lists of images a split, in the folder, beside the captions, or one level deeper."""
    near = [*dict.fromkeys([folder, *(path.parent for path in files)])]
    candidates = [path for place in near for path in _captions_like(place)] + _deeper(folder)
    return [path for path in dict.fromkeys(candidates) if path not in files and is_split_list(path)]
