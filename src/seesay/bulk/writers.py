"""Writers of caption files that a job extends batch by batch, and that stay valid if it is killed.

Every batch is appended with one write. A kill can truncate it; the next job removes the incomplete row and captions the
missing images. Files of other formats are never modified.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from seesay.bulk.rows import Row, caption_of_json, csv_line, csv_row, header, json_line, plain, texts_of_json
from seesay.captioners.caption import Caption
from seesay.errors import DataError
from seesay.files import append, text_bytes

LINE_START = b'{"image": "'
"""Start of every line of JSON that this module writes."""


class Writer(Protocol):
    """The output file or folder of a job."""

    path: Path

    def create(self) -> None:
        """Create an empty output if there is none.

        Raises:
            DataError: the path is something else.
        """

    def open(self) -> set[str]:
        """Remove incomplete rows and return the `plain` names of the images in the output.

        Raises:
            DataError: not a file of captions, or fewer captions per image than requested.
        """

    def write(self, rows: Sequence[Row]) -> None:
        """Append a batch; once this returns, a kill cannot lose it."""

    def captions(self) -> Iterator[tuple[str, list[str]]]:
        """Yield names and captions of the images in the output, without those that a review rejected."""

    def corrections(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield names, captions of the model and present captions of images whose caption was corrected in a review."""

    def close(self) -> None:
        """Finish the output."""


class JsonlWriter:
    """One line of JSON per image.

    Args:
        path: the file.
        num_captions: captions per image.
        in_job: returns whether an image, by its `plain` name, belongs to the job; others may have a single caption.
    """

    def __init__(self, path: Path, num_captions: int, in_job: "InJob") -> None:
        self.path = path
        self.num_captions = num_captions
        self.in_job = in_job

    def create(self) -> None:
        """Create an empty file if there is none."""
        _create(self.path)

    def open(self) -> set[str]:
        """Return the images in the file, after removing an incomplete last line."""
        names: set[str] = set()
        single = complete = 0
        try:
            for end, line in complete_lines(self.path, LINE_START):
                complete, row = end, json.loads(line)
                if "finished" not in row:  # human captions do not have this key
                    raise KeyError("finished")
                name = plain(row["image"])
                names.add(name)
                single += "captions" not in row and self.in_job(name)
        except (ValueError, KeyError, TypeError) as error:
            raise not_captions(self.path) from error
        if self.num_captions > 1 and single:
            raise DataError(
                f"{self.path} has one caption, not {self.num_captions}, for {single} of the images; "
                "choose another --out"
            )
        truncate(self.path, complete)
        return names

    def write(self, rows: Sequence[Row]) -> None:
        """Append one line per image."""
        lines = (json_line(image, caption, self.num_captions > 1) + "\n" for image, caption in rows)
        # A file name that is not UTF-8 becomes a JSON escape, which is read back as the same name.
        append(self.path, text_bytes("".join(lines)))

    def captions(self) -> Iterator[tuple[str, list[str]]]:
        """Yield names and captions of the images, without rejected ones."""
        for _, line in complete_lines(self.path, LINE_START):
            row = json.loads(line)
            if row.get("review") != "rejected":
                yield row["image"], texts_of_json(row)

    def corrections(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield names, captions of the model and corrected captions."""
        for _, line in complete_lines(self.path, LINE_START):
            row = json.loads(line)
            if "model_caption" in row and row.get("review") != "rejected":
                first, *others = texts_of_json(row)
                yield row["image"], [row["model_caption"], *others], [first, *others]

    def close(self) -> None:
        """Do nothing: every line is final."""


def read_captions(path: Path) -> Iterator[tuple[str, Caption]]:
    """Yield the `plain` names and the first captions of the images in a file of `JsonlWriter`."""
    for _, line in complete_lines(path, LINE_START):
        row = json.loads(line)
        yield plain(row["image"]), caption_of_json(row)


class CsvWriter:
    """A CSV or TSV file with a header, with one column per caption.

    Args:
        path: the file; `.tsv` is separated by tabs.
        num_captions: captions per image.
    """

    def __init__(self, path: Path, num_captions: int) -> None:
        self.path = path
        self.num_captions = num_captions
        self._delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        self._header = csv_line(header(num_captions), self._delimiter).encode()

    def create(self) -> None:
        """Create an empty file if there is none."""
        _create(self.path)

    def open(self) -> set[str]:
        """Return the images in the file, after removing an incomplete last row."""
        names: set[str] = set()
        complete = 0
        try:
            with self.path.open("rb") as file:
                first = file.read(len(self._header))
            if not self._header.startswith(first):
                raise ValueError("different header")
            for number, (end, cells) in enumerate(self._rows()):
                complete = end
                if len(cells) != len(header(self.num_captions)):
                    raise ValueError(f"row {number} has {len(cells)} cells")
                if number:
                    names.add(plain(cells[0]))
        except ValueError as error:
            raise not_captions(self.path) from error
        truncate(self.path, complete)
        if not complete:
            append(self.path, self._header)
        return names

    def write(self, rows: Sequence[Row]) -> None:
        """Append one row per image."""
        text = "".join(csv_row(row, self.num_captions, self._delimiter) for row in rows)
        append(self.path, text.encode("utf-8", "surrogateescape"))

    def captions(self) -> Iterator[tuple[str, list[str]]]:
        """Yield names and captions of the images."""
        for number, (_, cells) in enumerate(self._rows()):
            if number:
                yield (
                    cells[0],
                    [text for index, text in enumerate(cells[1 : 1 + self.num_captions]) if text or not index],
                )

    def corrections(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield nothing: a table has no columns for a review."""
        yield from ()

    def close(self) -> None:
        """Do nothing: every row is final."""

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        with self.path.open("rb") as file:
            yield from csv_rows(file, self._delimiter)


class InJob(Protocol):
    """Function that returns whether an image belongs to the job."""

    def __call__(self, name: str, /) -> bool:
        """Return whether the image with this `plain` name belongs to the job."""


def _create(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path} is a folder; choose a file with --out")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def complete_lines(path: Path, start: bytes) -> Iterator[tuple[int, str]]:
    """Yield the end and the content of each complete line; an incomplete last line must begin with `start`.

    Raises:
        ValueError: the last line is incomplete and begins with something else.
    """
    end = 0
    with path.open("rb") as file:
        for line in file:  # bytes are split at line feeds only; names may contain other line separators
            end += len(line)
            if line.endswith(b"\n"):
                if line.strip():
                    yield end, line.decode()
            elif not line.startswith(start[: len(line)]):
                raise ValueError("the last line is not an incomplete caption")


def csv_rows(lines: Iterable[bytes], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the end and the cells of each complete row of a file's lines; a quoted cell may contain line ends."""
    row, end = b"", 0
    for line in lines:
        row += line
        end += len(line)
        if row.endswith(b"\n") and row.count(b'"') % 2 == 0:
            text = io.StringIO(row.decode("utf-8", "surrogateescape"), newline="")
            yield end, next(csv.reader(text, delimiter=delimiter))
            row = b""


def truncate(path: Path, end: int) -> None:
    """Remove what a killed job has left after the last complete row."""
    if path.stat().st_size > end:
        os.truncate(path, end)


def not_captions(path: Path) -> DataError:
    """Return the error for an output of another format."""
    return DataError(f"{path} exists and is not a file of captions; choose another --out")
