"""Prediction files: captions by image id, matched with the images of a split.

Formats are COCO results JSON and the outputs of `seesay caption --out`: JSONL, CSV, TSV and folders of Parquet files.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seesay.captioners.spec import is_pretrained
from seesay.data.readers.images import is_image_name
from seesay.data.records import Annotation
from seesay.errors import DataError
from seesay.files import unescape_name
from seesay.names import to_nfc

_ID_NAMES = ("image_id", "id", "image", "file_name", "filename", "name")
_TEXT_NAMES = ("caption", "prediction", "text", "hypothesis", "caption_1")
_PARTS = "*.parquet"


def has_predictions(path: Path) -> bool:
    """Returns whether a path is a file, or a folder of Parquet files written by `seesay caption`."""
    if path.is_dir():
        return path.suffix.lower() == ".parquet" or any(path.glob(f"part-{_PARTS}"))
    return path.is_file()


def is_captioner(model: str) -> bool:
    """Returns whether a name is that of a model that generates captions, not of a prediction file."""
    path = Path(model)
    if path.is_dir():
        return not has_predictions(path)
    return path.suffix.lower() not in _READERS and is_pretrained(model)


def read_predictions(path: Path) -> dict[str, str]:
    """Returns the captions by image id from JSON (COCO results), JSONL, CSV, TSV, Parquet or a folder of Parquet files.

    Of several captions per image (`seesay caption --num-return-sequences`) it is the first.

    Raises:
        DataError: the file cannot be read, lacks the fields, or has an image twice.
    """
    if not has_predictions(path):
        raise DataError(f"{path} is neither a run folder nor a prediction file; models of a server need --endpoint URL")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes)")
    predictions: dict[str, str] = {}
    try:
        rows = (_folder_rows if path.is_dir() else _READERS.get(path.suffix.lower(), _jsonl_rows))(path)
    except (ValueError, csv.Error, OSError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as predictions: {error}") from error
    for number, row in enumerate(rows, 1):
        name, text = _entry(row, path, number)
        if name in predictions:
            raise DataError(f"{path} has two captions of image {name}")
        predictions[name] = text
    if not predictions:
        raise DataError(f"{path} contains no predictions")
    return predictions


def match_predictions(
    predictions: Mapping[str, str], items: Sequence[Annotation], path: Path, *, only_captioned: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Returns the predictions by the ids of the split, and remarks about predictions of other images.

    A prediction may refer to its image by id, with or without image suffix, or by file name if it is unique in the
    split.

    Args:
        predictions: captions by the names in the file.
        items: images of the split.
        path: the file, for messages.
        only_captioned: leave out images without a prediction.

    Raises:
        DataError: an image of the split has two predictions, or none; with `only_captioned`, all have none.
    """
    by_name: dict[str, list[str]] = {}
    by_file: dict[str, list[str]] = {}
    for name in predictions:
        by_name.setdefault(_plain(name), []).append(name)
        by_file.setdefault(_file(name), []).append(name)
    shared = Counter(_file(item.id) for item in items) + Counter(_file(item.image) for item in items)
    matched: dict[str, str] = {}
    used: set[str] = set()
    for item in items:
        names = list(by_name.get(_plain(item.id), []))
        for form in {_file(item.id), _file(item.image)}:
            unique = shared[form] == (_file(item.id) == form) + (_file(item.image) == form)
            names += [name for name in by_file.get(form, []) if unique and name not in names]
        if len(names) > 1:
            raise DataError(f"{path} has two captions of image {item.id}: {names[0]} and {names[1]}; keep one")
        if names:
            matched[item.id] = predictions[names[0]]
            used.add(names[0])
    missing = [item.id for item in items if item.id not in matched]
    if missing and not (only_captioned and matched):
        remedy = "" if only_captioned else "; caption them, or score only the other images with --only-captioned"
        raise DataError(
            f"{path} has no caption of {len(missing)} of the {len(items)} images, such as "
            f"{', '.join(missing[:3])}{remedy}"
        )
    others = len(predictions) - len(used)
    remarks = [f"{others} predictions of images outside the split"] if others > 0 else []
    if missing:
        remarks.append(
            f"only the {len(matched)} captioned of {len(items)} images are scored; a score over other images is not "
            "comparable"
        )
    return matched, remarks


def refuse_references(path: Path, data: Path, predictions: Mapping[str, str], items: Sequence[Annotation]) -> list[str]:
    """Returns a warning if every prediction equals the only reference of its image.

    Args:
        path: prediction file.
        data: path of the references.
        predictions: predictions by id.
        items: images with their references.

    Raises:
        DataError: in addition, the file is `data` or inside its folder, so that it would be scored against itself.
    """
    if any(item.captions != (predictions[item.id].strip(),) for item in items):
        return []
    if path.resolve().is_relative_to(data.resolve()):
        raise DataError(
            f"{path} contains the references of {data} and would be scored against itself; pass the file of the "
            f"human captions instead of {data}"
        )
    return [f"every caption of {path} is the only reference of its image; is it a copy of the references?"]


def _plain(name: str) -> str:
    """Returns the name of an image without image suffix."""
    name = to_nfc(name)
    return name.rpartition(".")[0] if is_image_name(name) else name


def _file(name: str) -> str:
    """Returns the file name of an image without image suffix."""
    return _plain(name.replace("\\", "/").rpartition("/")[2])


def _entry(row: Any, path: Path, number: int) -> tuple[str, str]:
    """Returns the id and the caption of one entry."""
    if not isinstance(row, Mapping):
        raise DataError(f"{path}: entry {number} is not an object with an id and a caption")
    name = next((row[key] for key in _ID_NAMES if row.get(key) not in (None, "")), None)
    field = next((key for key in _TEXT_NAMES if key in row), None)
    if name is None or field is None or row[field] is None:
        raise DataError(
            f"{path}: entry {number} has the fields {', '.join(map(str, row))}; expected one of "
            f"{', '.join(_ID_NAMES)} and one of {', '.join(_TEXT_NAMES)}"
        )
    if not isinstance(row[field], str):
        raise DataError(f"{path}: the {field} of image {name} is {row[field]!r}, not a text")
    try:
        row[field].encode()
    except UnicodeEncodeError:
        raise DataError(f"{path}: the {field} of image {name} contains a lone surrogate") from None
    return str(name), row[field]


def _json_rows(path: Path) -> list[Any]:
    content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique_keys)
    if isinstance(content, dict) and all(isinstance(text, str) for text in content.values()):
        return [{"id": name, "caption": text} for name, text in content.items()]
    if not isinstance(content, list):
        raise DataError(f"{path} contains no list of predictions")
    return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a JSON object; raises DataError for duplicate keys, of which json would silently drop one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in names if names.count(name) > 1)
        raise DataError(f"the predictions have {duplicate!r} twice in one object; keep one")
    return found


def _jsonl_rows(path: Path) -> list[Any]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would split captions
    return [json.loads(line) for line in lines if line.strip()]


def _csv_rows(path: Path) -> list[Any]:
    # A name that is not UTF-8 is written to the CSV of `seesay caption` as raw bytes.
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))


def _parquet_rows(path: Path) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            names = [name for name in table.schema_arrow.names if name in (*_ID_NAMES, *_TEXT_NAMES)]
            rows: list[Any] = table.read(columns=names).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    for row in rows:
        row.update({key: unescape_name(row[key]) for key in _ID_NAMES if isinstance(row.get(key), str)})
    return rows


def _folder_rows(folder: Path) -> list[Any]:
    """Returns the rows of finished parts and of unfinished parts of a running job."""
    parts = sorted(folder.glob(_PARTS))
    unfinished = [
        path for path in sorted(folder.glob("_part-*.jsonl")) if folder / f"{path.stem[1:]}.parquet" not in parts
    ]
    return [row for path in parts for row in _parquet_rows(path)] + [
        row for path in unfinished for row in _jsonl_rows(path)
    ]


_READERS: dict[str, Callable[[Path], list[Any]]] = {
    ".json": _json_rows,
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _parquet_rows,
}
