"""Captions beside or inside each picture: side-car text files, and descriptions in XMP or EXIF."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from seesay.data.readers.pictures import SidecarNames, is_url
from seesay.data.readers.text import EditableText
from seesay.descriptions import DescriptionError, Field, read_description, with_description
from seesay.errors import DataError, SeesayError
from seesay.files import exists, write_atomically

Existing = Literal["skip", "overwrite", "append", "prefix", "suffix"]
"""What becomes of a text that is there: it stays, is replaced, gets a further line, or the caption before or after."""

SEPARATOR = ", "
"""Between a caption and the text that it is put before or after."""

Place = Literal["xmp", "exif", "both"]


class Deposit(Protocol):
    """A place for the caption of one picture."""

    def settled(self, picture: str) -> bool:
        """Tells whether there is a text already, which `skip` leaves as it is."""

    def put(self, picture: str, text: str) -> None:
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

    def path(self, picture: str) -> Path:
        """Returns the path of an image's text file."""
        return Path(self._names.path(picture))

    def settled(self, picture: str) -> bool:
        """Tells whether the text is there and not blank; one that cannot be read is reported when it is put."""
        try:
            return bool(EditableText.read(self.path(picture)).text.strip())
        except SeesayError:
            return False

    def put(self, picture: str, text: str) -> None:
        """Writes the text in the encoding of the file that is there, whole or not at all."""
        path = self.path(picture)
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
    """The description inside each picture's file; the compressed picture stays the same, byte for byte.

    Args:
        place: XMP, EXIF or both.
        existing: what becomes of a description that is there.
    """

    def __init__(self, place: Place, existing: Existing) -> None:
        self.fields: tuple[Field, ...] = ("xmp", "exif") if place == "both" else (place,)
        self.existing = existing

    def settled(self, picture: str) -> bool:
        """Tells whether every field has a description; a file without a place for it is told of when it is put."""
        try:
            data = Path(picture).read_bytes()
            return all(read_description(data, field) for field in self.fields)
        except (OSError, DescriptionError):
            return False

    def put(self, picture: str, text: str) -> None:
        """Writes the file anew with its description, whole or not at all."""
        path = Path(picture)
        if path.is_symlink():
            raise SeesayError(f"{picture}: is a link, whose file may not be meant; name the file itself")
        try:
            before = after = path.read_bytes()
            for field in self.fields:
                there = read_description(after, field)
                wanted = merged(there, text, self.existing)
                if wanted != there:
                    after = with_description(after, wanted, field)
        except DescriptionError as error:
            raise SeesayError(f"{picture}: the description cannot be written: {error}") from error
        except OSError as error:
            raise SeesayError(f"{picture}: cannot be read ({error.strerror})") from error
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


def require_files(pictures: Sequence[str], flag: str) -> None:
    """Refuses pictures that have no file of their own.

    Raises:
        DataError: one is an address or inside an archive or table.
    """
    for picture in pictures:
        if is_url(picture) or ("::" in picture and not exists(picture)):
            raise DataError(f"{flag} writes where the picture's file is, but {picture} is no file; use --out")
