"""Captions beside or inside each image: side-car text files, and descriptions in XMP or EXIF."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from seesay.data.readers.images import SidecarNames, is_url
from seesay.data.readers.text import EditableText
from seesay.errors import DataError, SeesayError
from seesay.files import exists, write_atomically
from seesay.image_metadata import DescriptionError, Field, read_description, with_description

Existing = Literal["skip", "overwrite", "append", "prefix", "suffix"]
"""What becomes of a text that is there: it stays, is replaced, gets a further line, or the caption before or after."""

SEPARATOR = ", "
"""Between a caption and the text that it is put before or after."""

Place = Literal["xmp", "exif", "both"]


class Sink(Protocol):
    """A place for the caption of one image."""

    def is_done(self, image: str) -> bool:
        """Tells whether there is a text already, which `skip` leaves as it is."""

    def put(self, image: str, text: str) -> None:
        """Puts a caption there; doing so twice is doing it once.

        Raises:
            SeesayError: it cannot be; the reason is in the message.
        """


class Sidecars:
    """A text file beside each image, named by `SidecarNames`.

    Args:
        suffix: of the text files, such as `.txt`.
        existing: what becomes of a text that is there.
    """

    def __init__(self, suffix: str, existing: Existing) -> None:
        self.existing = existing
        self._names = SidecarNames(suffix)

    def path(self, image: str) -> Path:
        """Returns the path of an image's text file."""
        return Path(self._names.path(image))

    def is_done(self, image: str) -> bool:
        """Tells whether the text is there and not blank; one that cannot be read is reported when it is put."""
        try:
            return bool(EditableText.read(self.path(image)).text.strip())
        except SeesayError:
            return False

    def put(self, image: str, text: str) -> None:
        """Writes the text in the encoding of the file that is there, whole or not at all."""
        path = self.path(image)
        there = EditableText.read(path)
        before = there.text.rstrip("\r\n")
        after = merged(before, text, self.existing)
        if after == before:
            return
        try:
            data = there.encode(f"{after}\n")
        except DataError as error:
            if self.existing != "overwrite":
                raise DataError(f"{path}: {error}") from error
            data = f"{after}\n".encode("utf-8", "surrogateescape")
        write_atomically(path, data)


class Descriptions:
    """The description inside each image's file; the compressed image stays the same, byte for byte.

    Args:
        place: XMP, EXIF or both.
        existing: what becomes of a description that is there.
    """

    def __init__(self, place: Place, existing: Existing) -> None:
        self.fields: tuple[Field, ...] = ("xmp", "exif") if place == "both" else (place,)
        self.existing = existing

    def is_done(self, image: str) -> bool:
        """Tells whether every field has a description; a file without a place for it is told of when it is put."""
        try:
            data = Path(image).read_bytes()
            return all(read_description(data, field) for field in self.fields)
        except (OSError, DescriptionError):
            return False

    def put(self, image: str, text: str) -> None:
        """Writes the file anew with its description, whole or not at all."""
        path = Path(image)
        if path.is_symlink():
            raise SeesayError(f"{image}: is a link, whose file may not be meant; name the file itself")
        try:
            before = after = path.read_bytes()
            for field in self.fields:
                there = read_description(after, field)
                wanted = merged(there, text, self.existing)
                if wanted != there:
                    after = with_description(after, wanted, field)
        except DescriptionError as error:
            raise SeesayError(f"{image}: the description cannot be written: {error}") from error
        except OSError as error:
            raise SeesayError(f"{image}: cannot be read ({error.strerror})") from error
        if after != before:
            write_atomically(path, after, durable=True)


def merged(there: str, text: str, existing: Existing) -> str:
    """Returns what a text becomes when a caption is added; a caption that was added already is not added again."""
    if not there.strip() or existing == "overwrite":
        return text
    if existing == "append" and not f"\n{there}".endswith(f"\n{text}"):
        return f"{there}\n{text}"
    if existing == "prefix" and there != text and not there.startswith(f"{text}{SEPARATOR}"):
        return f"{text}{SEPARATOR}{there}"
    if existing == "suffix" and there != text and not there.endswith(f"{SEPARATOR}{text}"):
        return f"{there}{SEPARATOR}{text}"
    return there


def require_files(images: Sequence[str], flag: str) -> None:
    """Refuses images that have no file of their own.

    Raises:
        DataError: one is an address or inside an archive or table.
    """
    for image in images:
        if is_url(image) or ("::" in image and not exists(image)):
            raise DataError(f"{flag} writes where the image's file is, but {image} is no file; use --out")
