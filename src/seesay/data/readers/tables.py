"""Tables of captions: CSV, TSV and other separated text, JSON lines, JSON lists."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from seesay.data.readers.columns import Columns, find_columns, make_record, missing_columns
from seesay.data.readers.pictures import is_picture_name, is_url
from seesay.data.readers.text import read_split_lists, read_text, text_lines
from seesay.data.records import Reading, Record, count, name_some, split_of_file
from seesay.errors import DataError

_DELIMITERS = ("\t", "|", ",", ";")
_PICTURE_AT_START = re.compile(r"\n[^\n,;|\t]+\.(jpe?g|png|webp|gif|bmp)\s*[,;|\t]", re.IGNORECASE)
_HEAD_LINES = 20
_HEAD_BYTES = 1 << 20


@dataclass(frozen=True)
class TableForm:
    """How a separated text is to be read.

    Attributes:
        delimiter: What parts the cells.
        spaced: A space follows every delimiter.
        names: Of the columns; without a header their numbers.
        columns: Those that matter.
        has_header: The first line is one.
    """

    delimiter: str
    spaced: bool
    names: tuple[str, ...]
    columns: Columns
    has_header: bool


def table_form(text: str) -> TableForm | None:
    """Returns how to read a separated text, from its beginning, or None where it holds no captions.

    The first line must be a header with a picture's and a caption's column; or have no header and a cell
    that names a picture (or a URL) beside one that is text.
    """
    lines = [line for line in text_lines(text[:_HEAD_BYTES]) if line.strip()][:_HEAD_LINES]
    if not lines:
        return None
    for delimiter in _DELIMITERS:
        spaced = f"{delimiter} " in lines[0]
        names = _cells(lines[0], delimiter)
        columns = find_columns(names)
        if columns is not None:
            return TableForm(delimiter, spaced, tuple(names), columns, has_header=True)
    for delimiter in _DELIMITERS:
        # A delimiter within captions makes more cells of some lines, never fewer.
        width = min(len(_cells(line, delimiter)) for line in lines)
        cells = _cells(lines[0], delimiter)[:width]
        pictures = [number for number, cell in enumerate(cells) if is_picture_name(cell) or is_url(cell)]
        texts = [number for number, cell in enumerate(cells) if _is_text(cell)]
        if pictures and texts:
            caption = max(texts, key=lambda number: len(cells[number]))
            columns = Columns(str(pictures[0]), (str(caption),), None, None)
            return TableForm(delimiter, False, tuple(map(str, range(width))), columns, has_header=False)
    return None


def _is_text(cell: str) -> bool:
    """Tells whether a cell may be a caption: it has a letter and names no picture (or caption of one)."""
    name = re.sub(r"#\w*$", "", cell.strip())
    return any(map(str.isalpha, cell)) and not is_picture_name(name) and not is_url(name)


def read_csv(files: list[Path], split_lists: list[Path]) -> Reading:
    """Returns the records of separated text files: commas, tabs, bars or semicolons, found by looking.

    Rows with too many cells have the delimiter inside an unquoted caption; rows with too few are noted.

    Raises:
        DataError: A file lacks the columns (those present and those expected are named).
    """
    reading = Reading()
    for path in files:
        text = read_text(path, reading)
        form = table_form(text)
        if form is None:
            first = next((line for line in text_lines(text) if line.strip()), "")
            delimiter = max(_DELIMITERS, key=first.count)
            raise missing_columns(str(path), _cells(first, delimiter) if first else ())
        _read_table(path, text, form, reading)
    read_split_lists(split_lists, reading)
    return reading


def _read_table(path: Path, text: str, form: TableForm, reading: Reading) -> None:
    """Adds the records of one separated text to the reading."""
    rows = _rows(text, form, path, reading)
    glue = f"{form.delimiter} " if form.spaced else form.delimiter
    if form.has_header:
        next(rows, None)
    split = split_of_file(path)
    caption = form.names.index(form.columns.captions[0])
    junk = []
    for number, cells in rows:
        surplus = len(cells) - len(form.names)
        if surplus > 0:
            end = caption + surplus + 1
            cells = [*cells[:caption], glue.join(cells[caption:end]), *cells[end:]]
        row = dict(zip(form.names, (cell.strip() for cell in cells), strict=False))
        record = make_record(row, form.columns, path.parent, split)
        if record is None or len(cells) <= caption:
            junk.append(f"line {number} ({glue.join(cells)[:40]!r})")
        else:
            reading.records.append(record)
    if junk:
        reading.problems.append(
            f"{path.name}: {count(len(junk), 'row')} cut short or without a picture: {name_some(junk)}"
        )


def _rows(text: str, form: TableForm, path: Path, reading: Reading) -> Iterator[tuple[int, list[str]]]:
    """Yields line number and cells of the rows that are not blank."""
    plain = _has_unpaired_quotes(text, form)
    if plain:
        reading.problems.append(f"{path.name}: unpaired quotation marks, which were read as plain characters")
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
    """Tells whether a quotation mark without its pair swallows the rows up to the next one."""
    try:
        lines = io.StringIO(text, newline="")
        for cells in csv.reader(lines, delimiter=form.delimiter, skipinitialspace=form.spaced):
            if any("\n" in cell and _PICTURE_AT_START.search(cell) for cell in cells):
                return True
    except csv.Error:  # a cell beyond the module's limit of 128 KiB
        return True
    return False


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])


def read_jsonl(files: list[Path], split_lists: list[Path]) -> Reading:
    """Returns the records of JSON lines files, one object a line; our own form is one of them.

    Raises:
        DataError: No line of a file has the fields (those present and those expected are named).
    """
    reading = Reading()
    for path in files:
        lines = ((number, line) for number, line in enumerate(text_lines(read_text(path, reading)), start=1))
        junk: list[str] = []
        rows = _json_rows(lines, junk)
        _read_objects(path, rows, junk, reading)
    read_split_lists(split_lists, reading)
    return reading


def _json_rows(lines: Iterable[tuple[int, str]], junk: list[str]) -> Iterator[tuple[str, object]]:
    """Yields the place and value of each line that is JSON; others are added to the junk."""
    for number, line in lines:
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError):
                junk.append(f"line {number} ({line.strip()[:40]!r})")


def read_json(files: list[Path], split_lists: list[Path]) -> Reading:
    """Returns the records of JSON files that hold a list of objects, or captions by picture name.

    Raises:
        DataError: A file is neither, or its objects lack the fields.
    """
    reading = Reading()
    for path in files:
        content = parse_json(path, reading)
        lists = [content] if isinstance(content, list) else []
        if isinstance(content, Mapping):
            lists = [v for v in content.values() if isinstance(v, list) and v and isinstance(v[0], Mapping)]
        if len(lists) == 1:
            rows = ((f"entry {number}", value) for number, value in enumerate(lists[0], start=1))
        elif isinstance(content, Mapping) and any(is_picture_name(str(name)) for name in content):
            pairs = ({"image": name, "captions": value} for name, value in content.items())
            rows = ((f"entry {number}", pair) for number, pair in enumerate(pairs, start=1))
        else:
            keys = list(content) if isinstance(content, Mapping) else ()
            raise missing_columns(str(path), map(str, keys))
        _read_objects(path, rows, [], reading)
    read_split_lists(split_lists, reading)
    return reading


def parse_json(path: Path, reading: Reading) -> object:
    """Returns the content of a JSON file.

    Raises:
        DataError: It is not JSON; the place is named.
    """
    try:
        return json.loads(read_text(path, reading))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON (line {error.lineno}: {error.msg}); is it cut short?") from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply to be a captions file") from error


def _read_objects(path: Path, rows: Iterable[tuple[str, object]], junk: list[str], reading: Reading) -> None:
    """Adds the records of JSON objects to the reading; places without picture and caption are noted."""
    split = split_of_file(path)
    known: dict[tuple[str, ...], Columns | None] = {}
    records: list[Record] = []
    for place, row in rows:
        names = tuple(row) if isinstance(row, Mapping) else ()
        if names not in known:
            known[names] = find_columns(names)
        columns = known[names]
        record = None
        if columns is not None and isinstance(row, Mapping):
            record = make_record(row, columns, path.parent, split)
        if record is None:
            junk.append(f"{place} ({str(row)[:40]!r})")
        else:
            records.append(record)
    if not records and not any(known.values()):
        if any(known):
            widest: tuple[str, ...] = max(known, key=len)
            raise missing_columns(str(path), widest)
        raise DataError(f"{path} holds no JSON objects with a picture and its captions")
    if junk:
        reading.problems.append(
            f"{path.name}: {count(len(junk), 'entry')} without a picture and caption: {name_some(junk)}"
        )
    reading.records += records
