"""Caption tables: CSV, TSV and other delimited text."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seesay.data.readers.columns import USUAL_NAMES, ColumnNames, Columns, find_columns, make_record, missing_columns
from seesay.data.readers.images import is_image_name, is_url
from seesay.data.readers.text import read_split_lists, read_text, text_lines
from seesay.data.records import Reading, count, name_some, split_of_file
from seesay.errors import DataError

_DELIMITERS = ("\t", "|", ",", ";")
_IMAGE_AT_START = re.compile(r"\n[^\n,;|\t]+\.(jpe?g|png|webp|gif|bmp)\s*[,;|\t]", re.IGNORECASE)
_HEAD_LINES = 20
_HEAD_BYTES = 1 << 20


@dataclass(frozen=True)
class TableForm:
    """Format of a delimited text.

    Attributes:
        delimiter: Delimiter of cells.
        spaced: A space follows every delimiter.
        names: Names of the columns; without a header their numbers.
        columns: The relevant columns.
        has_header: The first line is a header.
    """

    delimiter: str
    spaced: bool
    names: tuple[str, ...]
    columns: Columns
    has_header: bool


def table_form(text: str, requested: ColumnNames = USUAL_NAMES) -> TableForm | None:
    """Return the format of a delimited text, or None if it contains no captions.

    The first line must be a header with an image and a caption column, or contain an image name (or URL) and a text.

    Args:
        text: The beginning of the file.
        requested: Columns selected by the user, which require a header.
    """
    lines = [line for line in text_lines(text[:_HEAD_BYTES]) if line.strip()][:_HEAD_LINES]
    if not lines:
        return None
    for delimiter in _DELIMITERS:
        spaced = f"{delimiter} " in lines[0]
        names = _cells(lines[0], delimiter)
        columns = find_columns(names, requested)
        if columns is not None:
            return TableForm(delimiter, spaced, tuple(names), columns, has_header=True)
    if requested:
        return None
    for delimiter in _DELIMITERS:
        # A delimiter inside captions adds cells to some lines.
        width = min(len(_cells(line, delimiter)) for line in lines)
        cells = _cells(lines[0], delimiter)[:width]
        images = [number for number, cell in enumerate(cells) if is_image_name(cell) or is_url(cell)]
        texts = [number for number, cell in enumerate(cells) if _is_text(cell)]
        if images and texts:
            caption = max(texts, key=lambda number: len(cells[number]))
            columns = Columns(str(images[0]), (str(caption),), None, None)
            return TableForm(delimiter, False, tuple(map(str, range(width))), columns, has_header=False)
    return None


def _is_text(cell: str) -> bool:
    """Return whether a cell may be a caption: it has a letter and is not an image name (or `name#k`)."""
    name = re.sub(r"#\w*$", "", cell.strip())
    return any(map(str.isalpha, cell)) and not is_image_name(name) and not is_url(name)


def read_csv(files: list[Path], split_lists: list[Path], requested: ColumnNames) -> Reading:
    """Return the records of delimited text files; comma, tab, bar or semicolon is detected.

    Extra cells of a row are joined to its caption (an unquoted delimiter); rows with too few cells are reported.

    Raises:
        DataError: A file lacks the columns.
    """
    reading = Reading()
    for path in files:
        text = read_text(path, reading)
        form = table_form(text, requested)
        if form is None:
            first = next((line for line in text_lines(text) if line.strip()), "")
            delimiter = max(_DELIMITERS, key=first.count)
            raise missing_columns(str(path), _cells(first, delimiter) if first else (), requested)
        _read_table(path, text, form, reading)
    read_split_lists(split_lists, reading)
    return reading


def _read_table(path: Path, text: str, form: TableForm, reading: Reading) -> None:
    """Add the records of one delimited text to the reading."""
    rows = _rows(text, form, path, reading)
    separator = f"{form.delimiter} " if form.spaced else form.delimiter
    if form.has_header:
        next(rows, None)
    split = split_of_file(path)
    caption = form.names.index(form.columns.captions[0])
    invalid = []
    for number, cells in rows:
        surplus = len(cells) - len(form.names)
        if surplus > 0:
            end = caption + surplus + 1
            cells = [*cells[:caption], separator.join(cells[caption:end]), *cells[end:]]
        row = dict(zip(form.names, (cell.strip() for cell in cells), strict=False))
        record = make_record(row, form.columns, path.parent, split)
        if record is None or len(cells) <= caption:
            invalid.append(f"line {number} ({separator.join(cells)[:40]!r})")
        else:
            reading.records.append(record)
    if invalid:
        reading.problems.append(
            f"{path.name}: {count(len(invalid), 'row')} incomplete or without an image: {name_some(invalid)}"
        )


def _rows(text: str, form: TableForm, path: Path, reading: Reading) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of non-blank rows."""
    plain = _has_unpaired_quotes(text, form)
    if plain:
        reading.problems.append(f"{path.name}: unpaired quotation marks, read as plain characters")
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=form.delimiter,
        skipinitialspace=form.spaced,
        quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL,
    )
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num} cannot be read as a table: {error}") from error


def _has_unpaired_quotes(text: str, form: TableForm) -> bool:
    """Return whether an unpaired quotation mark joins several rows into one."""
    try:
        lines = io.StringIO(text, newline="")
        for cells in csv.reader(lines, delimiter=form.delimiter, skipinitialspace=form.spaced):
            if any("\n" in cell and _IMAGE_AT_START.search(cell) for cell in cells):
                return True
    except csv.Error:  # a cell above the csv module's limit of 128 KiB
        return True
    return False


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
