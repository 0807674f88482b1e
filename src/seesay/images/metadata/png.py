"""PNG: XMP is in an iTXt chunk with a reserved keyword, EXIF in an eXIf chunk (PNG specification, third edition)."""

import struct
import zlib
from collections.abc import Iterator

from seesay.images.metadata.errors import DescriptionError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_XMP = b"XML:com.adobe.xmp\0"
_MAX_BYTES = 1 << 24  # of a decompressed block: a few bytes can expand to gigabytes


def matches(data: bytes) -> bool:
    """Return whether the data is a PNG file."""
    return data.startswith(_SIGNATURE)


def read_block(data: bytes, field: str) -> bytes | None:
    """Return the content of the chunk of a field, or None."""
    for kind, begin, end in _chunks(data):
        if _is_field(data, kind, begin, field):
            content = data[begin + 8 : end - 4]
            return content if field == "exif" else _international_text(content)
    return None


def with_block(data: bytes, field: str, block: bytes) -> bytes:
    """Return the file with the chunk of a field replaced, or inserted after the header."""
    kind = b"eXIf" if field == "exif" else b"iTXt"
    content = block if field == "exif" else _XMP + b"\0\0\0\0" + block
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    header_end = len(_SIGNATURE)
    for found, begin, end in _chunks(data):
        if _is_field(data, found, begin, field):
            return data[:begin] + chunk + data[end:]
        if found == b"IHDR":
            header_end = end
    return data[:header_end] + chunk + data[header_end:]


def _is_field(data: bytes, kind: bytes, begin: int, field: str) -> bool:
    return kind == b"eXIf" if field == "exif" else kind == b"iTXt" and data.startswith(_XMP, begin + 8)


def _international_text(content: bytes) -> bytes:
    """Return the text of an iTXt chunk, which follows keyword, two flags, language and translated keyword."""
    compressed = content[len(_XMP)]
    text = content[len(_XMP) + 2 :].split(b"\0", 2)[-1]
    if not compressed:
        return text
    try:
        return zlib.decompressobj().decompress(text, _MAX_BYTES)
    except zlib.error as error:
        raise DescriptionError(f"its XMP cannot be decompressed ({error})") from error


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, begin and end of each chunk."""
    position = len(_SIGNATURE)
    while position < len(data):
        if position + 12 > len(data):
            raise DescriptionError("its chunks are damaged")
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        if end > len(data):
            raise DescriptionError("its chunks are damaged")
        yield kind, position, end
        if kind == b"IEND":
            return
        position = end
