"""Files of captions under review: JSON lines, CSV and TSV. Rows that are not changed keep their bytes."""

import csv
import io
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seesay.bulk.rows import csv_line, plain
from seesay.bulk.writers import LINE_START, complete_lines, csv_rows
from seesay.data.readers.columns import find_columns
from seesay.data.readers.images import ImageFinder, is_url
from seesay.errors import DataError
from seesay.files import text_bytes
from seesay.names import Folders
from seesay.review.entries import GENERATED, REVIEWS, Entry, State
from seesay.review.locked import LockedFile
from seesay.review.record import SUFFIX, ReviewRecord

log = logging.getLogger("seesay")

_REASONS = ("guard", "guard_reason", "reason", "error")
"""Fields of a row that may state why a caption is doubtful."""

_NOT_GENERATED: dict[str, Any] = {"score": None, "log_probs": [], "end_log_prob": None, "finished": True}
"""Fields of a caption that a person wrote for an image without one."""


class ImageLocator:
    """Finds the images that a file names: beside the file, in the current folder, else moved below the file's folder.

    Args:
        folder: of the file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._folders, self._finder = folder, Folders(), ImageFinder(folder)

    def find(self, name: str) -> str:
        """Return the source of an image; one that does not exist if it cannot be found."""
        if is_url(name):
            return name
        file, mark, member = name.partition("::")  # a member of an archive
        for folder in (self._folder, Path()):
            for path, rest in ((name, ""), (file, mark + member)):
                if (found := self._folders.find(str(folder / path))) is not None:
                    return found + rest
        return self._finder.find(name, self._folder) or str(self._folder / name)


@dataclass
class _Row:
    """A row of a table.

    Attributes:
        raw: its bytes in the file with line end; empty if it is not there yet.
        image: name of its image.
        content: fields of an object, or cells of a line.
        state: its caption and status.
        reason: why the caption is doubtful or absent.
        alternatives: further captions.
        failed: the job has no caption of the image.
    """

    raw: bytes
    image: str
    content: Any
    state: State
    reason: str = ""
    alternatives: tuple[str, ...] = ()
    failed: bool = False


class TableFile(ABC):
    """A file with one row per image.

    Images that a job listed in `NAME.errors.jsonl` are entries without a caption; they get a row with their caption.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, LockedFile(path)
        self._rows: list[_Row] = []

    @property
    def name(self) -> str:
        """Name for people."""
        return str(self.path)

    def open(self) -> list[Entry]:
        """Lock the file and return its entries."""
        self._rows = list(self._parse(self._file.read()))
        done = {plain(row.image) for row in self._rows}
        self._rows += [row for row in self._failed() if plain(row.image) not in done]
        if not self._rows:
            raise DataError(f"{self.path} contains no captions; write them with `seesay caption --out {self.path}`")
        locator = ImageLocator(self.path.parent)
        return [
            Entry(row.image, locator.find(row.image), row.state, row.state, row.reason, row.alternatives)
            for row in self._rows
        ]

    def save(self, entries: list[Entry]) -> None:
        """Write the states of the entries."""
        encoded = [self._bytes(row, entry) for row, entry in zip(self._rows, entries, strict=True)]
        self._write(self._head() + b"".join(encoded), entries)
        for row, raw in zip(self._rows, encoded, strict=True):
            row.raw = raw

    def close(self) -> None:
        """Release the lock."""
        self._file.close()

    @property
    def rescue_path(self) -> Path:
        """Where changes go that cannot be saved."""
        return self.path.with_name(f"{self.path.stem}.unsaved.jsonl")

    def _bytes(self, row: _Row, entry: Entry) -> bytes:
        if row.failed and not entry.state.caption:
            return b""  # a row would tell the job that the image is done
        return self._encode(row, entry.state) if entry.unsaved else row.raw

    def _failed(self) -> Iterator[_Row]:
        """Yield a row without caption for each image in the job's list of failures."""
        path = self.path.with_suffix(".errors.jsonl")
        with suppress(OSError, ValueError, KeyError, TypeError):  # another file, which is none of ours
            for _, line in complete_lines(path, LINE_START):
                entry = json.loads(line)
                if not entry.get("captioned"):
                    image = str(entry["image"])
                    reason = str(entry["error"]).removeprefix(f"{image}: ")
                    yield _Row(b"", image, self._blank(image), State("", "", "", _NOT_GENERATED), reason, failed=True)

    def _head(self) -> bytes:
        """Return what precedes the rows."""
        return b""

    def _write(self, data: bytes, entries: list[Entry]) -> None:
        self._file.replace(data)

    def _incomplete(self) -> None:
        log.warning("%s: the incomplete last row of a stopped job is left out", self.path)

    @abstractmethod
    def _parse(self, data: bytes) -> Iterator[_Row]:
        """Yield the rows of the file."""

    @abstractmethod
    def _encode(self, row: _Row, state: State) -> bytes:
        """Return the bytes of a row with another state."""

    @abstractmethod
    def _blank(self, image: str) -> Any:
        """Return the content of a new row."""


class JsonlFile(TableFile):
    """A file with one JSON object per line, which get the fields `model_caption` and `review`."""

    def _parse(self, data: bytes) -> Iterator[_Row]:
        lines = data.split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                if number == len(lines) and line.startswith(LINE_START[: len(line)]):
                    self._incomplete()
                    return
                raise DataError(f"{self.path} line {number} is not JSON ({error}); fix or remove it") from error
            yield self._row(line + b"\n", fields, number)

    def _row(self, raw: bytes, fields: Any, number: int) -> _Row:
        columns = find_columns(fields) if isinstance(fields, dict) else None
        key = "caption" if isinstance(fields, dict) and "caption" in fields else columns and columns.captions[0]
        caption = fields.get(key) if columns else None
        image = fields.get(columns.image) if columns else None
        if not isinstance(caption, str) or not isinstance(image, str):
            raise DataError(f"{self.path} line {number} has no image with one caption; fix or remove it")
        model = fields.get("model_caption")
        review = fields.get("review")
        state = State(
            caption,
            model if isinstance(model, str) else caption,
            review if review in REVIEWS else "",
            {name: fields[name] for name in GENERATED if name in fields},
        )
        reason = next((fields[name] for name in _REASONS if isinstance(fields.get(name), str)), "")
        return _Row(raw, image, fields, state, reason, _alternatives(fields))

    def _encode(self, row: _Row, state: State) -> bytes:
        fields = dict(row.content)
        columns = find_columns(fields)
        assert columns is not None  # checked when it was read
        own = {"caption" if "caption" in fields else columns.captions[0]: state.caption, **state.generated}
        fields |= own
        if first := _first_of_several(fields):
            fields["captions"] = [{**first, "caption": state.caption, **state.generated}, *fields["captions"][1:]]
        for name in ("model_caption", "review"):
            fields.pop(name, None)
        if state.caption != state.model_caption:
            fields["model_caption"] = state.model_caption
        if state.review:
            fields["review"] = state.review
        return text_bytes(json.dumps(fields, ensure_ascii=False) + "\n")

    def _blank(self, image: str) -> Any:
        row = {"image": image, "caption": "", **_NOT_GENERATED}
        several = any(_first_of_several(each.content) for each in self._rows[:1])
        return {**row, "captions": [{"caption": "", **_NOT_GENERATED}]} if several else row


def _first_of_several(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the first object of a job's list of several captions, which is the caption of the row."""
    listed = fields.get("captions")
    first = listed[0] if isinstance(listed, list) and listed else None
    return first if isinstance(first, dict) and "caption" in first else None


def _alternatives(fields: Mapping[str, Any]) -> tuple[str, ...]:
    if _first_of_several(fields) is None:
        return ()
    texts = [each.get("caption") for each in fields["captions"][1:] if isinstance(each, dict)]
    return tuple(text for text in texts if isinstance(text, str))


class CsvFile(TableFile):
    """A CSV or TSV file; the model's captions and the status are in a hidden file beside it (`ReviewRecord`).

    The columns stay the same, so that a job can add rows.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        self._header: list[str] = []
        self._header_bytes = b""
        self._record = ReviewRecord(path.with_name(f".{path.name}{SUFFIX}"))

    def _parse(self, data: bytes) -> Iterator[_Row]:
        self._record.read()
        complete = data if data.endswith(b"\n") or not data else data + b"\n"
        start = 0
        try:
            for number, (end, cells) in enumerate(csv_rows(io.BytesIO(complete), self._delimiter), start=1):
                raw, start = complete[start:end], end
                if not self._header:
                    self._header, self._header_bytes = self._read_header(cells), raw
                elif len(cells) == len(self._header):
                    yield self._row(raw, cells)
                elif end > len(data):
                    self._incomplete()
                elif cells:
                    raise DataError(f"{self.path} row {number} has {len(cells)} cells, not {len(self._header)}; fix it")
        except csv.Error as error:
            raise DataError(f"{self.path} cannot be read as a table: {error}") from error
        if start < len(complete):
            self._incomplete()

    def _read_header(self, cells: list[str]) -> list[str]:
        header = [cells[0].removeprefix("\ufeff"), *cells[1:]] if cells else []
        columns = find_columns(header)
        if columns is None:
            raise DataError(f"{self.path} has no image and caption column (columns: {', '.join(header) or 'none'})")
        self._image, self._caption = header.index(columns.image), header.index(columns.captions[0])
        self._others = [header.index(name) for name in columns.captions[1:]]
        return header

    def _row(self, raw: bytes, cells: list[str]) -> _Row:
        caption = cells[self._caption]
        generated = {name: self._value(name, cells) for name in ("score", "finished") if self._place(name) is not None}
        state = self._record.apply(cells[self._image], State(caption, caption, "", generated))
        others = tuple(cells[place] for place in self._others if cells[place])
        return _Row(raw, cells[self._image], cells, state, "", others)

    def _place(self, name: str) -> int | None:
        """Return the column of a generated field; of several captions that of the first."""
        return next((self._header.index(each) for each in (name, f"{name}_1") if each in self._header), None)

    def _value(self, name: str, cells: list[str]) -> Any:
        """Return a number, a truth value, or None for an empty cell."""
        cell = cells[self._place(name) or 0]
        with suppress(ValueError):
            return float(cell) if name == "score" else {"true": True, "false": False}.get(cell.lower())
        return None

    def _encode(self, row: _Row, state: State) -> bytes:
        cells = list(row.content)
        cells[self._caption] = state.caption
        before = row.state.generated
        for name, value in state.generated.items():
            place = self._place(name)
            if place is not None and before.get(name) != value:  # a number keeps its digits
                cells[place] = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        line = csv_line(cells, self._delimiter)
        return (line[:-1] + "\r\n" if row.raw.endswith(b"\r\n") else line).encode("utf-8", "surrogateescape")

    def _blank(self, image: str) -> Any:
        cells = [""] * len(self._header)
        cells[self._image] = image
        if (place := self._place("finished")) is not None:
            cells[place] = "true"
        return cells

    def _head(self) -> bytes:
        return self._header_bytes

    def _write(self, data: bytes, entries: list[Entry]) -> None:
        self._file.check()
        self._record.save(entries)  # first: a kill between the two must not lose the model's captions
        self._file.replace(data)
