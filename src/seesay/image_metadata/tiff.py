"""TIFF 6.0, the form of EXIF data too: a tag is set in a new directory at the end, so that nothing else moves."""

import struct

from seesay.image_metadata.errors import DescriptionError

BYTE, ASCII = 1, 2
EMPTY = b"MM\0*\0\0\0\x08" + b"\0\0" + b"\0\0\0\0"
"""A file of an empty directory."""

_XMP = 700
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}
_LARGEST = 1 << 32


def is_one(data: bytes) -> bool:
    """Tells whether a file is a TIFF (not of the form for more than 4 GB)."""
    return data[:4] in (b"II*\0", b"MM\0*")


def read_block(data: bytes, field: str) -> bytes | None:
    """Returns the EXIF data, which is the file itself, or the XMP; None where there is none."""
    return data if field == "exif" else read_tag(data, _XMP)


def with_block(data: bytes, field: str, block: bytes) -> bytes:
    """Returns the file with other EXIF data, which is that file, or other XMP."""
    return block if field == "exif" else with_tag(data, _XMP, BYTE, block)


def read_tag(data: bytes, tag: int) -> bytes | None:
    """Returns the value of a tag of the first directory, None where there is none.

    Raises:
        DescriptionError: the directory is damaged.
    """
    order, entries, _ = _directory(data)
    for entry in entries:
        found, kind, count, inside = struct.unpack(f"{order}HHI4s", entry)
        if found == tag:
            size = count * _SIZES.get(kind, 1)
            (offset,) = struct.unpack(f"{order}I", inside)
            return inside[:size] if size <= 4 else data[offset : offset + size]
    return None


def with_tag(data: bytes, tag: int, kind: int, value: bytes) -> bytes:
    """Returns the file with the value of a tag of its first directory set.

    Only the pointer to that directory changes in what is there: offsets elsewhere, in makers' notes too, stay true.

    Args:
        data: the file.
        tag: whose value.
        kind: `BYTE` or `ASCII`.
        value: one byte a unit, an `ASCII` one with its zero.

    Raises:
        DescriptionError: the directory is damaged, or the file would be too large.
    """
    order, entries, following = _directory(data)
    kept = [entry for entry in entries if struct.unpack(f"{order}H", entry[:2])[0] != tag]
    begin = len(data) + len(data) % 2
    after = begin + 2 + 12 * (len(kept) + 1) + 4
    if after + len(value) >= _LARGEST:
        raise DescriptionError("it would be larger than a TIFF can be")
    inside = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(f"{order}I", after)
    kept.append(struct.pack(f"{order}HHI", tag, kind, len(value)) + inside)
    kept.sort(key=lambda entry: struct.unpack(f"{order}H", entry[:2]))
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + following
    head = data[:4] + struct.pack(f"{order}I", begin) + data[8:].ljust(begin - 8, b"\0")
    return head + directory + (value if len(value) > 4 else b"")


def _directory(data: bytes) -> tuple[str, list[bytes], bytes]:
    """Returns the byte order, the 12 bytes of each entry, and the pointer to the next directory."""
    if not is_one(data) or len(data) < 8:
        raise DescriptionError("its EXIF data are damaged")
    order = "<" if data[:2] == b"II" else ">"
    (begin,) = struct.unpack_from(f"{order}I", data, 4)
    if begin < 8 or begin + 2 > len(data):
        raise DescriptionError("its EXIF data are damaged")
    (count,) = struct.unpack_from(f"{order}H", data, begin)
    end = begin + 2 + 12 * count
    if end > len(data):
        raise DescriptionError("its EXIF data are damaged")
    return order, [data[place : place + 12] for place in range(begin + 2, end, 12)], data[end : end + 4].ljust(4, b"\0")
