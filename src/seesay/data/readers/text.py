"""Text files of unknown encoding and line endings, and the split lists of Flickr8k and Flickr30k."""

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from seesay.data.records import Reading, count, name_some, split_in_name
from seesay.errors import DataError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks and the encoding of the text after them."""
_LINE_END = re.compile(r"(?<=\n)|(?<=\r)(?!\n)")
# Python decodes a byte that is not UTF-8 to a surrogate; the table maps surrogates to Windows-1252 characters.
_BAD_BYTE = re.compile("[\udc80-\udcff]")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_WINDOWS_1252 = {0xDC00 + byte: bytes([byte]).decode("cp1252", errors="replace") for byte in range(0x80, 0x100)}


def read_text(path: Path, reading: Reading | None = None) -> str:
    """Return the text of a file, see `decode_text`.

    Raises:
        DataError: The file cannot be opened, or contains zero bytes (it is not text).
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    text = decode_text(raw, path.name, reading)
    if "\0" in text:
        raise DataError(f"{path} is not a text file (it contains zero bytes)")
    return text


def decode_text(raw: bytes, name: str, reading: Reading | None = None) -> str:
    """Return decoded bytes: UTF-16/32 with a byte order mark, else UTF-8, with other lines as Windows-1252.

    Args:
        raw: Content of the file.
        name: Name of the file, for messages.
        reading: Receives a problem that lists the lines that are not UTF-8.
    """
    encoding = next((encoding for mark, encoding in _BOMS if raw.startswith(mark)), "utf-8")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        text, problem = raw.decode(encoding, errors="replace"), f"{name} is damaged {encoding.upper()}: {error.reason}"
    if encoding.startswith("utf-8"):
        text, problem = _decode_lines(raw.removeprefix(codecs.BOM_UTF8), name)
    if reading is not None:
        reading.problems.append(problem)
    return text


def _decode_lines(raw: bytes, name: str) -> tuple[str, str]:
    """Return the text of bytes that are not all UTF-8, and the problem that lists the other lines."""
    lines = _LINE_END.split(raw.decode("utf-8", "surrogateescape"))
    mixed, foreign = False, []
    for number, line in enumerate(lines):
        bad = len(_BAD_BYTE.findall(line))
        if not bad:
            mixed = mixed or not line.isascii()
        elif 2 * bad < len(_BEYOND_ASCII.findall(line)):  # a line of JSON may mix captions of several encodings
            mixed = True
            lines[number] = line.translate(_WINDOWS_1252)
            foreign.append(number)
        else:
            # Windows-1252 rather than Latin-1, for its typographic quotation marks.
            lines[number] = line.encode("utf-8", "surrogateescape").decode("cp1252", errors="replace")
            foreign.append(number)
    text = "".join(lines)
    if not mixed:
        return text, f"{name} is not UTF-8; read as Windows-1252"
    shown = [f"line {number + 1} ({lines[number].strip()[:40]!r})" for number in foreign]
    are = f"{count(len(shown), 'line')} {'is' if len(shown) == 1 else 'are'}"
    return text, f"{name}: {are} not UTF-8; read as Windows-1252: {name_some(shown, 3)}"


@dataclass(frozen=True)
class EditableText:
    """A text file that can be edited with its encoding, line endings and byte order mark preserved.

    Attributes:
        text: text without the mark, with line feeds as line endings.
        mark: byte order mark, empty if there is none.
        codec: encoding of the text after the mark.
        line_end: line ending of the file.
    """

    text: str
    mark: bytes = b""
    codec: str = "utf-8"
    line_end: str = "\n"

    @classmethod
    def read(cls, path: Path) -> "EditableText":
        """Return the text of a file; empty if the file does not exist.

        The encoding is UTF-8, or UTF-16/32 with a mark, else Windows-1252. Invalid bytes of a file that is mostly UTF-8
        are preserved.

        Raises:
            DataError: the file cannot be read or is not text.
        """
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return cls("")
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror})") from error
        mark, codec = next(((mark, codec) for mark, codec in _MARKS if raw.startswith(mark)), (b"", ""))
        raw = raw[len(mark) :]
        try:
            codec = codec or _unmarked_encoding(raw)
            text = raw.decode(codec, "surrogateescape" if codec == "utf-8" else "strict")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is damaged {codec}: {error.reason}; convert it to UTF-8") from error
        if "\0" in text:
            raise DataError(f"{path} is not a text file (it contains zero bytes); choose another suffix")
        line_end = "\r\n" if "\r\n" in text.rstrip("\r\n") else "\n"
        return cls(text.replace("\r\n", "\n"), mark, codec, line_end)

    def encode(self, text: str) -> bytes:
        """Return the bytes of the file with a new text.

        Raises:
            DataError: the encoding lacks a character of the text.
        """
        try:
            encoded = text.replace("\n", self.line_end).encode(
                self.codec, "surrogateescape" if self.codec == "utf-8" else "strict"
            )
        except UnicodeEncodeError as error:
            missing = text[error.start : error.end][:1]
            raise DataError(f"{self.codec} cannot encode {missing!r}; convert the file to UTF-8") from error
        return self.mark + encoded


def _unmarked_encoding(raw: bytes) -> str:
    """Return the encoding of bytes without a mark: UTF-8 (also if mixed with other bytes), Windows-1252 or Latin-1."""
    text = raw.decode("utf-8", "surrogateescape")
    if not _BAD_BYTE.search(text) or re.search("[^\x00-\x7f\udc80-\udcff]", text):
        return "utf-8"
    try:
        raw.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def peek_text(path: Path, size: int) -> str:
    """Return the first `size` bytes of a file as text; empty if it is unreadable or not text."""
    try:
        with path.open("rb") as file:
            raw = file.read(size)
    except OSError:
        return ""
    encoding = next((name for mark, name in _BOMS if raw.startswith(mark)), "utf-8")
    text = raw.decode(encoding, errors="replace")
    return "" if "\0" in text else text


def text_lines(text: str) -> list[str]:
    """Return the lines of a text; only LF, CRLF and CR end a line."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_split_lists(files: list[Path], reading: Reading) -> None:
    """Add the images in split lists such as `Flickr_8k.trainImages.txt` to the reading."""
    for path in files:
        split = split_in_name(path.stem)
        if split is not None:
            lines = (line.strip() for line in text_lines(read_text(path, reading)))
            reading.split_lists[path.name] = (split, [line for line in lines if line])


def is_split_list(path: Path) -> bool:
    """Return whether a file is named after a split and has one word per line, as a list of image names."""
    if path.suffix.lower() not in (".txt", ".lst", "") or split_in_name(path.stem) is None:
        return False
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    lines = [line for line in re.split(rb"[\r\n]+", head)[:50] if line.strip()]
    return bool(lines) and not any(mark in line.strip() for line in lines for mark in (b"\t", b" ", b",", b"|"))
