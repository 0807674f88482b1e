"""Captions beside or inside each image: sidecar text files, and descriptions in XMP or EXIF."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from seesay.data.readers.images import SidecarNames, is_url
from seesay.data.readers.text import EditableText
from seesay.errors import DataError, SeesayError
from seesay.files import exists, write_atomically
from seesay.images.metadata import DescriptionError, Field, read_description, with_description

Existing = Literal["skip", "overwrite", "append", "prefix", "suffix"]
"""What to do with an existing text: keep it, replace it, add a line, or add the caption before or after it."""

SEPARATOR = ", "
"""Separator between a caption and an existing text."""

EmbedField = Literal["xmp", "exif", "both"]


class Sink(Protocol):
    """An output per image."""

    def texts(self, image: str) -> list[str]:
        """Return the texts of an image, one per place, without surrounding blanks; empty: none or unreadable."""

    def write(self, image: str, text: str) -> bool:
        """Write a caption and return whether anything changed; writing it twice has no further effect.

        Raises:
            SeesayError: the caption cannot be written.
        """


class Sidecars:
    """One text file per image, named by `SidecarNames`.

    Args:
        suffix: of the text files, such as `.txt`.
        existing: what to do with an existing text.
    """

    def __init__(self, suffix: str, existing: Existing) -> None:
        self.existing = existing
        self._names = SidecarNames(suffix)

    def path(self, image: str) -> Path:
        """Return the path of an image's text file."""
        return Path(self._names.path(image))

    def texts(self, image: str) -> list[str]:
        """Return the content of the text file; `write` reports an unreadable one."""
        try:
            return [EditableText.read(self.path(image)).text.strip()]
        except SeesayError:
            return [""]

    def write(self, image: str, text: str) -> bool:
        """Write the text atomically, in the encoding of the existing file."""
        path = self.path(image)
        current = EditableText.read(path)
        before = current.text.rstrip("\r\n")
        after = merge_text(before, text, self.existing)
        if after == before:
            return False
        try:
            data = current.encode(f"{after}\n")
        except DataError as error:
            if self.existing != "overwrite":
                raise DataError(f"{path}: {error}") from error
            data = f"{after}\n".encode("utf-8", "surrogateescape")
        write_atomically(path, data)
        return True


class Descriptions:
    """The description inside each image's file; the compressed image stays the same, byte for byte.

    Args:
        field: XMP, EXIF or both.
        existing: what to do with an existing description.
    """

    def __init__(self, field: EmbedField, existing: Existing) -> None:
        self.fields: tuple[Field, ...] = ("xmp", "exif") if field == "both" else (field,)
        self.existing = existing

    def texts(self, image: str) -> list[str]:
        """Return the description of every field; `write` reports unsupported files."""
        try:
            data = Path(image).read_bytes()
            return [read_description(data, field).strip() for field in self.fields]
        except (OSError, DescriptionError):
            return [""]

    def write(self, image: str, text: str) -> bool:
        """Rewrite the file atomically with the description."""
        path = Path(image)
        if path.is_symlink():
            raise SeesayError(f"{image}: is a symbolic link; pass the file itself")
        try:
            before = after = path.read_bytes()
            for field in self.fields:
                current = read_description(after, field)
                merged = merge_text(current, text, self.existing)
                if merged != current:
                    after = with_description(after, merged, field)
        except DescriptionError as error:
            raise SeesayError(f"{image}: the description cannot be written: {error}") from error
        except OSError as error:
            raise SeesayError(f"{image}: cannot be read ({error.strerror})") from error
        if after == before:
            return False
        write_atomically(path, after, durable=True)
        return True


def merge_text(current: str, text: str, existing: Existing) -> str:
    """Return the text with a caption added, unless it already contains it."""
    if not current.strip() or existing == "overwrite":
        return text
    if not text:  # a blank image has an empty alt text, and nothing to add
        return current
    if existing == "append" and not f"\n{current}".endswith(f"\n{text}"):
        return f"{current}\n{text}"
    if existing == "prefix" and current != text and not current.startswith(f"{text}{SEPARATOR}"):
        return f"{text}{SEPARATOR}{current}"
    if existing == "suffix" and current != text and not current.endswith(f"{SEPARATOR}{text}"):
        return f"{current}{SEPARATOR}{text}"
    return current


def require_files(images: Sequence[str], flag: str) -> None:
    """Check that every image is a file.

    Raises:
        DataError: an image is a URL, or inside an archive or table.
    """
    for image in images:
        if is_url(image) or ("::" in image and not exists(image)):
            raise DataError(f"{flag} needs image files, but {image} is not a file; use --out")
