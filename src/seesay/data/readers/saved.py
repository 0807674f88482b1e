"""Data sets of the Hugging Face datasets library: folders of `save_to_disk`, and names on the hub (`hf:NAME`).

Both are Arrow files, which pyarrow reads; the library itself (extra `datasets`) is needed for names on the hub only.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seesay.data.readers.columns import ColumnNames
from seesay.data.readers.parquet import TableSource, read_table
from seesay.data.records import Reading, split_name
from seesay.errors import DataError, MissingDependencyError
from seesay.files import exists
from seesay.models.hub import hub_answers

_DICT_FILE, _STATE_FILE = "dataset_dict.json", "state.json"
_LONGEST_REASON = 400
_NAME = re.compile(r"hf:(?P<name>[^:@]*)(@(?P<revision>[^:]*))?(:(?P<config>.*))?", re.DOTALL)

Splits = Mapping[str | None, Sequence[Path]]
"""Arrow files by split; None: the data has no splits."""


def find_saved_files(source: str | Path) -> Splits | None:
    """Return the Arrow files of a data set, by split; None if the source is something else.

    A single split called train, which is the library's name for data without splits, becomes None.

    Args:
        source: `hf:NAME`, `hf:NAME@REVISION:CONFIG`, which is downloaded if it is not cached, or a folder of
            `save_to_disk`.

    Raises:
        DataError: the data set is unknown, incomplete or cannot be downloaded.
        MissingDependencyError: the datasets library is not installed.
    """
    splits = _hub_files(str(source)) if is_hub_name(source) else _folder_files(Path(source))
    if splits is not None and list(splits) in (["train"], [""]):
        return {None: next(iter(splits.values()))}
    return splits


def is_hub_name(source: str | Path) -> bool:
    """Return whether a source is `hf:NAME` and not an existing file or folder of this name."""
    return str(source).startswith("hf:") and not exists(source)


def read_saved(source: Path, splits: Splits, requested: ColumnNames) -> Reading:
    """Return the records of the Arrow files of a data set.

    Raises:
        DataError: A file is damaged or lacks the columns.
    """
    reading = Reading()
    for split, paths in splits.items():
        table = TableSource(split_name(split), split or "row", qualify=split is not None)
        for path in paths:
            read_table(path, table, requested, reading)
    if not reading.records:
        raise DataError(f"{source} has no rows")
    return reading


def _folder_files(folder: Path) -> dict[str | None, list[Path]] | None:
    """Return the Arrow files of a folder of `save_to_disk`; None if it is another folder."""
    if not exists(folder):
        return None
    if (folder / _DICT_FILE).is_file():
        names = _json(folder / _DICT_FILE, "splits", list)
        return {str(name): _split_files(folder / str(name)) for name in names}
    if not (folder / _STATE_FILE).is_file() or not (folder / "dataset_info.json").is_file():
        return None
    state = _json(folder / _STATE_FILE, "_split", (str, type(None)))
    return {state or "": _split_files(folder)}


def _split_files(folder: Path) -> list[Path]:
    """Return the Arrow files of one split."""
    state = folder / _STATE_FILE
    files = _json(state, "_data_files", list)
    try:
        paths = [folder / Path(entry["filename"]).name for entry in files]
    except (TypeError, KeyError) as error:
        raise DataError(f"{state} is damaged; save the data set again") from error
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]} is missing; save or copy the data set again")
    return paths


def _json(path: Path, name: str, kind: Any) -> Any:
    """Return a value of a JSON file.

    Raises:
        DataError: The file is missing or damaged, or the value has another type.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        value = content[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is missing or damaged; save the data set again") from error
    if not isinstance(value, kind) or content.get("_indices_data_files"):
        raise DataError(f"{path} is of a version of datasets that is not supported; save the data set again")
    return value


def _hub_files(source: str) -> dict[str | None, list[Path]]:
    """Return the Arrow files of a data set of the hub, which the library downloads and converts once."""
    try:
        import datasets
        from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
        from huggingface_hub.utils import validate_repo_id
    except ImportError as error:
        raise MissingDependencyError("datasets", "datasets", source) from error
    found = _NAME.fullmatch(source)
    try:
        validate_repo_id(found["name"] if found else "")
    except HFValidationError as error:
        raise DataError(f"{source!r} is not hf:NAME or hf:NAME:CONFIG, as in hf:ada/garden") from error
    assert found is not None
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        with _offline_unless_reachable():
            loaded = datasets.load_dataset(found["name"], found["config"] or None, revision=found["revision"] or None)
        return {str(split): [Path(file["filename"]) for file in part.cache_files] for split, part in loaded.items()}
    except Exception as error:  # the library raises those of its readers and of the HTTP library too
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, (datasets.exceptions.DatasetNotFoundError, RepositoryNotFoundError)):
            reason = "the hub has no such data set, or it is private; check the name, or run: hf auth login"
        elif isinstance(error, ConnectionError):
            reason = "it is not in the cache and the hub cannot be reached; connect once"
        raise DataError(f"{source} cannot be loaded: {reason[:_LONGEST_REASON]}") from error


@contextmanager
def _offline_unless_reachable() -> Iterator[None]:
    """Let the library use its cache at once if the hub does not answer, for which it would wait half a minute."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or not hub_answers()
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
