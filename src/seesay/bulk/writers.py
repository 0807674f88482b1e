"""Files of captions that a job adds to, batch by batch, and that a killed job leaves in order.

Every batch is one write at the end of a file. A kill can cut it short; the next job cuts off the row that is torn
and captions what is lacking. Nothing of a file that is no file of captions is touched.
"""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from seesay.bulk.rows import Row, csv_line, csv_row, header, json_line, plain, texts_of_json
from seesay.errors import DataError
from seesay.files import append, text_bytes

LINE_START = b'{"image": "'
"""How every line of JSON of ours begins."""


class Writer(Protocol):
    """Where a job's captions go."""

    path: Path

    def create(self) -> None:
        """Makes an empty output where there is none.

        Raises:
            DataError: there is something that cannot be one.
        """

    def open(self) -> set[str]:
        """Cuts off what is torn and returns the `plain` names of the images that it holds.

        Raises:
            DataError: there is something else than captions, or fewer captions an image than are wanted.
        """

    def write(self, rows: Sequence[Row]) -> None:
        """Adds a batch; when this returns, a kill cannot undo it."""

    def captions(self) -> Iterator[tuple[str, list[str]]]:
        """Yields what is there: the images' names and captions."""

    def close(self) -> None:
        """Brings the output into its final form."""


class JsonlWriter:
    """A line of JSON an image.

    Args:
        path: the file.
        wanted: captions an image.
        needed: tells whether an image, by its `plain` name, belongs to the job; others may have one caption only.
    """

    def __init__(self, path: Path, wanted: int, needed: "Needed") -> None:
        self.path = path
        self.wanted = wanted
        self.needed = needed

    def create(self) -> None:
        """Makes an empty file where there is none."""
        _create(self.path)

    def open(self) -> set[str]:
        """Returns the images there, after cutting off an unfinished last line."""
        names: set[str] = set()
        single = whole = 0
        try:
            for end, line in whole_lines(self.path, LINE_START):
                whole, found = end, json.loads(line)
                if "finished" not in found:  # captions of a human have no such key
                    raise KeyError("finished")
                name = plain(found["image"])
                names.add(name)
                single += "captions" not in found and self.needed(name)
        except (ValueError, KeyError, TypeError) as error:
            raise no_captions(self.path) from error
        if self.wanted > 1 and single:
            raise DataError(
                f"{self.path} holds one caption, not {self.wanted}, of {single} of the images; choose another --out"
            )
        cut(self.path, whole)
        return names

    def write(self, rows: Sequence[Row]) -> None:
        """Adds a line for each image."""
        lines = (json_line(image, caption, self.wanted > 1) + "\n" for image, caption in rows)
        # A file name that is no UTF-8 becomes a JSON escape, and the same name again when it is read.
        append(self.path, text_bytes("".join(lines)))

    def captions(self) -> Iterator[tuple[str, list[str]]]:
        """Yields the images' names and captions."""
        for _, line in whole_lines(self.path, LINE_START):
            found = json.loads(line)
            yield found["image"], texts_of_json(found)

    def close(self) -> None:
        """Has nothing to do: every line is final."""


class CsvWriter:
    """A CSV or TSV file with a header; of several captions an image each has its column.

    Args:
        path: the file; `.tsv` is separated by tabs.
        wanted: captions an image.
    """

    def __init__(self, path: Path, wanted: int) -> None:
        self.path = path
        self.wanted = wanted
        self._delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        self._header = csv_line(header(wanted), self._delimiter).encode()

    def create(self) -> None:
        """Makes an empty file where there is none."""
        _create(self.path)

    def open(self) -> set[str]:
        """Returns the images there, after cutting off an unfinished last row."""
        names: set[str] = set()
        whole = 0
        try:
            with self.path.open("rb") as file:
                first = file.read(len(self._header))
            if not self._header.startswith(first):
                raise ValueError("another header")
            for number, (end, cells) in enumerate(self._rows()):
                whole = end
                if len(cells) != len(header(self.wanted)):
                    raise ValueError(f"row {number} has {len(cells)} cells")
                if number:
                    names.add(plain(cells[0]))
        except ValueError as error:
            raise no_captions(self.path) from error
        cut(self.path, whole)
        if not whole:
            append(self.path, self._header)
        return names

    def write(self, rows: Sequence[Row]) -> None:
        """Adds a row for each image."""
        text = "".join(csv_row(row, self.wanted, self._delimiter) for row in rows)
        append(self.path, text.encode("utf-8", "surrogateescape"))

    def captions(self) -> Iterator[tuple[str, list[str]]]:
        """Yields the images' names and captions."""
        for number, (_, cells) in enumerate(self._rows()):
            if number:
                yield cells[0], [text for place, text in enumerate(cells[1 : 1 + self.wanted]) if text or not place]

    def close(self) -> None:
        """Has nothing to do: every row is final."""

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yields the end and the cells of each whole row; a cell in quotation marks may hold line ends."""
        begun, end = b"", 0
        with self.path.open("rb") as file:
            for line in file:
                begun += line
                end += len(line)
                if begun.endswith(b"\n") and begun.count(b'"') % 2 == 0:
                    text = io.StringIO(begun.decode("utf-8", "surrogateescape"), newline="")
                    yield end, next(csv.reader(text, delimiter=self._delimiter))
                    begun = b""


class Needed(Protocol):
    """Tells whether an image belongs to the job."""

    def __call__(self, name: str, /) -> bool:
        """Returns whether the image of this `plain` name does."""


def _create(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file with --out")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def whole_lines(path: Path, start: bytes) -> Iterator[tuple[int, str]]:
    """Yields the end and the content of each line; a last one without its end must begin as lines do.

    Raises:
        ValueError: it does not: then it is not half a line of ours.
    """
    end = 0
    with path.open("rb") as file:
        for line in file:  # bytes are split at line feeds alone, names may hold other characters that end lines
            end += len(line)
            if line.endswith(b"\n"):
                if line.strip():
                    yield end, line.decode()
            elif not line.startswith(start[: len(line)]):
                raise ValueError("its last line is not half a caption")


def cut(path: Path, end: int) -> None:
    """Cuts off what a killed job has left after the last whole row."""
    if path.stat().st_size > end:
        os.truncate(path, end)


def no_captions(path: Path) -> DataError:
    """Returns the error of an output that is something else."""
    return DataError(f"{path} exists and is not a file of captions; choose another --out")
