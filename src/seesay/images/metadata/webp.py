"""WebP: XMP and EXIF are chunks at the end, announced by flags in the extended header (WebP container)."""

import struct
from collections.abc import Iterator

from seesay.images.metadata.errors import DescriptionError

_KIND = {"xmp": b"XMP ", "exif": b"EXIF"}
_FLAG = {"xmp": 0x04, "exif": 0x08}
_ALPHA = 0x10


def matches(data: bytes) -> bool:
    """Return whether the data is a WebP file."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read_block(data: bytes, field: str) -> bytes | None:
    """Return the content of the chunk of a field, or None."""
    for kind, begin, end in _chunks(data):
        if kind == _KIND[field]:
            return data[begin + 8 : end].removeprefix(b"Exif\0\0")
    return None


def with_block(data: bytes, field: str, block: bytes) -> bytes:
    """Return the file with a new chunk of a field at its end, and the flag of the field set."""
    kept = b""
    for kind, begin, end in _chunks(data):
        if kind not in (_KIND[field], b"VP8X"):
            kept += data[begin : end + (end - begin) % 2]
    body = b"WEBP" + _chunk(b"VP8X", _header(data, _FLAG[field])) + kept + _chunk(_KIND[field], block)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _header(data: bytes, flag: int) -> bytes:
    """Return the extended header with a flag set; a simple file gets a new header."""
    for kind, begin, end in _chunks(data):
        content = data[begin + 8 : end]
        if kind == b"VP8X":
            return bytes([content[0] | flag]) + content[1:]
        if kind == b"VP8L" and len(content) >= 5:  # 14 bits each for width - 1 and height - 1, then the alpha flag
            bits = int.from_bytes(content[1:5], "little")
            return _new_header(flag | (_ALPHA if bits >> 28 & 1 else 0), bits & 0x3FFF, bits >> 14 & 0x3FFF)
        if kind == b"VP8 " and len(content) >= 10:
            width, height = struct.unpack_from("<HH", content, 6)
            return _new_header(flag, (width & 0x3FFF) - 1, (height & 0x3FFF) - 1)
    raise DescriptionError("its chunks are damaged")


def _new_header(flags: int, width: int, height: int) -> bytes:
    """Return an extended header; arguments are width - 1 and height - 1."""
    return bytes([flags, 0, 0, 0]) + width.to_bytes(3, "little") + height.to_bytes(3, "little")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, begin and end (without padding byte) of each chunk."""
    position, last = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while position + 8 <= last:
        end = position + 8 + int.from_bytes(data[position + 4 : position + 8], "little")
        if end > len(data):
            raise DescriptionError("its chunks are damaged")
        yield data[position : position + 4], position, end
        position = end + (end - position) % 2
