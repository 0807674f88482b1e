"""TIFF 6.0, also the format of EXIF data: tags are set in a new directory at the end, so that offsets stay valid."""

import struct
from typing import Literal

from seesay.images.metadata.errors import DescriptionError

BYTE, ASCII = 1, 2
EMPTY = b"MM\0*\0\0\0\x08" + b"\0\0" + b"\0\0\0\0"
"""A file with an empty directory."""

_XMP = 700
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}
_MAX_BYTES = 1 << 32


def matches(data: bytes) -> bool:
    """Return whether the data is a TIFF file (not BigTIFF)."""
    return data[:4] in (b"II*\0", b"MM\0*")


def read_block(data: bytes, field: str) -> bytes | None:
    """Return the EXIF data, which is the file itself, or the XMP, or None."""
    return data if field == "exif" else read_tag(data, _XMP)


def with_block(data: bytes, field: str, block: bytes) -> bytes:
    """Return the file with new EXIF data, which is the file itself, or new XMP."""
    return block if field == "exif" else with_tag(data, _XMP, BYTE, block)


def read_tag(data: bytes, tag: int, parent: int | None = None) -> bytes | None:
    """Return the value of a tag, or None.

    Args:
        data: the file.
        tag: the tag.
        parent: tag of the first directory that points to the directory to read; None: the first directory itself.

    Raises:
        DescriptionError: a directory is damaged.
    """
    begin = None
    if parent is not None:
        pointer = read_tag(data, parent)
        if pointer is None or len(pointer) != 4:
            return None
        begin = int.from_bytes(pointer, byte_order(data))
    order, entries, _ = _directory(data, begin)
    for entry in entries:
        found, kind, count, inline = struct.unpack(f"{order}HHI4s", entry)
        if found == tag:
            size = count * _SIZES.get(kind, 1)
            (offset,) = struct.unpack(f"{order}I", inline)
            return inline[:size] if size <= 4 else data[offset : offset + size]
    return None


def byte_order(data: bytes) -> Literal["little", "big"]:
    """Return the byte order of a file."""
    return "little" if data[:2] == b"II" else "big"


def with_tag(data: bytes, tag: int, kind: int, value: bytes) -> bytes:
    """Return the file with the value of a tag set in its first directory.

    Of the existing bytes only the pointer to that directory changes, so that offsets stay valid, also in maker notes.

    Args:
        data: the file.
        tag: the tag.
        kind: `BYTE` or `ASCII`.
        value: the bytes; for `ASCII` with the terminating zero.

    Raises:
        DescriptionError: the directory is damaged, or the file would be too large.
    """
    order, entries, following = _directory(data)
    kept = [entry for entry in entries if struct.unpack(f"{order}H", entry[:2])[0] != tag]
    begin = len(data) + len(data) % 2
    after = begin + 2 + 12 * (len(kept) + 1) + 4
    if after + len(value) >= _MAX_BYTES:
        raise DescriptionError("it would exceed the maximum size of a TIFF")
    inline = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(f"{order}I", after)
    kept.append(struct.pack(f"{order}HHI", tag, kind, len(value)) + inline)
    kept.sort(key=lambda entry: struct.unpack(f"{order}H", entry[:2]))
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + following
    head = data[:4] + struct.pack(f"{order}I", begin) + data[8:].ljust(begin - 8, b"\0")
    return head + directory + (value if len(value) > 4 else b"")


def _directory(data: bytes, begin: int | None = None) -> tuple[str, list[bytes], bytes]:
    """Return the byte order, the 12 bytes of each entry, and the pointer to the next directory; by default the first.

    Args:
        data: the file.
        begin: offset of the directory; None: the first one.
    """
    if not matches(data) or len(data) < 8:
        raise DescriptionError("its EXIF data are damaged")
    order = "<" if data[:2] == b"II" else ">"
    if begin is None:
        (begin,) = struct.unpack_from(f"{order}I", data, 4)
    if begin < 8 or begin + 2 > len(data):
        raise DescriptionError("its EXIF data are damaged")
    (count,) = struct.unpack_from(f"{order}H", data, begin)
    end = begin + 2 + 12 * count
    if end > len(data):
        raise DescriptionError("its EXIF data are damaged")
    return order, [data[start : start + 12] for start in range(begin + 2, end, 12)], data[end : end + 4].ljust(4, b"\0")
