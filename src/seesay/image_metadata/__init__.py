"""The description inside an image's file, as photo software shows and searches it: in its XMP or its EXIF data.

JPEG, PNG, WebP and TIFF. Files are taken apart only as far as their blocks; the compressed image and every other
block are carried over byte for byte. EXIF: the tag ImageDescription (0x010E), as UTF-8, which is what is commonly
written there. XMP: dc:description in the language x-default.
"""

from types import ModuleType
from typing import Literal

from seesay.image_metadata import jpeg, png, tiff, webp, xmp
from seesay.image_metadata.errors import DescriptionError

Field = Literal["xmp", "exif"]

__all__ = ["DescriptionError", "Field", "read_description", "with_description"]

_IMAGE_DESCRIPTION = 0x010E


def read_description(data: bytes, field: Field) -> str:
    """Returns the description in a file; empty where there is none.

    Args:
        data: the whole file.
        field: where to look.

    Raises:
        DescriptionError: the format has no place for one, or the file's blocks cannot be told apart.
    """
    block = _container(data).read_block(data, field)
    if block is None:
        return ""
    if field == "xmp":
        return xmp.description(block)
    value = tiff.read_tag(block, _IMAGE_DESCRIPTION) or b""
    return _text(value.split(b"\0")[0]).strip()


def with_description(data: bytes, text: str, field: Field) -> bytes:
    """Returns the file with another description, and with all else as it was.

    Args:
        data: the whole file.
        text: the description.
        field: where it goes.

    Raises:
        DescriptionError: as `read_description`; or there is no room, or what is there cannot be read.
    """
    container = _container(data)
    block = container.read_block(data, field)
    clean = "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
    if field == "xmp":
        block = xmp.with_description(block, clean)
    else:
        value = clean.encode("utf-8", "replace") + b"\0"
        block = tiff.with_tag(block or tiff.EMPTY, _IMAGE_DESCRIPTION, tiff.ASCII, value)
    written: bytes = container.with_block(data, field, block)
    return written


def _container(data: bytes) -> ModuleType:
    for module in (jpeg, png, webp, tiff):
        if module.is_one(data):
            return module
    raise DescriptionError("only JPEG, PNG, WebP and TIFF files have a place for a description")


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
