"""Reading text files of unknown origin: encodings, line ends, and the split lists of Flickr8k and 30k."""

import codecs
import re
from pathlib import Path

from seesay.data.records import Reading, split_in_name
from seesay.errors import DataError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path, reading: Reading | None = None) -> str:
    """Returns a file's text: UTF-8 or UTF-16/32 by its mark, else Windows-1252, which is noted as a problem.

    Raises:
        DataError: The file cannot be opened, or holds zero bytes as no text does.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    encoding = next((name for mark, name in _BOMS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        # Latin-1 gives every byte a meaning; Windows-1252 has the quotation marks people really typed.
        text = raw.decode("cp1252", errors="replace")
        if reading is not None:
            reading.problems.append(f"{path.name} is not UTF-8; read as Windows-1252")
    if "\0" in text:
        raise DataError(f"{path} is not a text file (it holds zero bytes)")
    return text


def peek_text(path: Path, size: int) -> str:
    """Returns the beginning of a file as text, whatever it holds; empty where it cannot be opened."""
    try:
        with path.open("rb") as file:
            raw = file.read(size)
    except OSError:
        return ""
    encoding = next((name for mark, name in _BOMS if raw.startswith(mark)), "utf-8")
    text = raw.decode(encoding, errors="replace")
    return "" if "\0" in text else text


def text_lines(text: str) -> list[str]:
    """Returns the lines of a text, whatever ends them (LF, CRLF, CR); no other character ends a line."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_split_lists(files: list[Path], reading: Reading) -> None:
    """Notes in the reading which pictures the files such as `Flickr_8k.trainImages.txt` list."""
    for path in files:
        split = split_in_name(path.stem)
        if split is not None:
            lines = (line.strip() for line in text_lines(read_text(path, reading)))
            reading.split_lists[path.name] = (split, [line for line in lines if line])


def is_split_list(path: Path) -> bool:
    """Tells whether a file is named after a split and lists one word a line, as picture names do."""
    if path.suffix.lower() not in (".txt", ".lst", "") or split_in_name(path.stem) is None:
        return False
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    lines = [line for line in re.split(rb"[\r\n]+", head)[:50] if line.strip()]
    return bool(lines) and not any(mark in line.strip() for line in lines for mark in (b"\t", b" ", b",", b"|"))
