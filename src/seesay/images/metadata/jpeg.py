"""JPEG: XMP and EXIF are APP1 segments before the image (ITU-T T.81; XMP specification, part 3)."""

import struct
from collections.abc import Iterator

from seesay.images.metadata.errors import DescriptionError

_START, _APP0, _APP1, _SCAN = 0xD8, 0xE0, 0xE1, 0xDA
_PREFIX = {"xmp": b"http://ns.adobe.com/xap/1.0/\0", "exif": b"Exif\0\0"}
_MAX_BYTES = 0xFFFF - 2


def matches(data: bytes) -> bool:
    """Return whether the data is a JPEG file."""
    return data.startswith(b"\xff\xd8\xff")


def read_block(data: bytes, field: str) -> bytes | None:
    """Return the content of the segment of a field, or None."""
    for marker, begin, end in _segments(data):
        if _is_field(data, marker, begin, field):
            return data[begin + 4 + len(_PREFIX[field]) : end]
    return None


def with_block(data: bytes, field: str, block: bytes) -> bytes:
    """Return the file with the segment of a field replaced, or inserted after the first APP segments.

    Raises:
        DescriptionError: it exceeds the maximum size of a segment.
    """
    payload = _PREFIX[field] + block
    if len(payload) > _MAX_BYTES:
        raise DescriptionError(f"its {field.upper()} data would be {len(payload)} bytes; JPEG's limit is {_MAX_BYTES}")
    segment = struct.pack(">BBH", 0xFF, _APP1, len(payload) + 2) + payload
    position = 2
    for marker, begin, end in _segments(data):
        if _is_field(data, marker, begin, field):
            return data[:begin] + segment + data[end:]
        # JFIF's APP0 must be first, and readers expect EXIF directly after it.
        if position == begin and (marker == _APP0 or _is_field(data, marker, begin, "exif")):
            position = end
    return data[:position] + segment + data[position:]


def _is_field(data: bytes, marker: int, begin: int, field: str) -> bool:
    return marker == _APP1 and data.startswith(_PREFIX[field], begin + 4)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, begin and end of each segment before the first scan."""
    position = 2
    while True:
        while data[position : position + 2] == b"\xff\xff":  # padding before a marker
            position += 1
        if position + 4 > len(data) or data[position] != 0xFF:
            raise DescriptionError("its segments are damaged")
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _SCAN:
            return
        end = position + 2 + length
        if length < 2 or end > len(data):
            raise DescriptionError("its segments are damaged")
        yield marker, position, end
        position = end
