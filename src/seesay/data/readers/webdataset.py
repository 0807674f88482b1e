"""WebDataset: tar files in which the members of one sample share the name before the first dot."""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from seesay.data.readers.columns import CAPTION_COLUMNS, parse_captions
from seesay.data.readers.pictures import PICTURE_SUFFIXES
from seesay.data.readers.text import decode_text, text_lines
from seesay.data.records import Reading, Record, count, name_some, split_name, split_of_file
from seesay.errors import DataError

_TEXT_SUFFIXES = frozenset((".txt", ".caption", ".captions", ".cap", ".text"))
_LARGEST_TEXT = 1 << 20


@dataclass
class _Sample:
    """The members of one sample: the picture's name in the archive, its captions and split."""

    image: str | None = None
    captions: list[object] = field(default_factory=list)
    fallback: list[object] = field(default_factory=list)
    split: str | None = None


def read_webdataset(files: list[Path], split_lists: list[Path]) -> Reading:
    """Returns the records of tar files; pictures stay inside, named `shard.tar::member`.

    Captions are lines of a .txt (or .caption) member, or the caption fields of a .json member. An archive
    that is cut short gives what comes before the cut, and is noted.

    Raises:
        DataError: A file is no tar.
    """
    reading = Reading()
    for path in files:
        samples: dict[str, _Sample] = {}
        try:
            with tarfile.open(path, "r:") as archive:
                _collect(archive, samples, reading, path)
        except (tarfile.TarError, OSError, EOFError) as error:
            if not samples:
                raise DataError(
                    f"{path} cannot be read as a tar ({error}); a compressed one must be unpacked first"
                ) from error
            reading.problems.append(f"{path.name} is cut short after {count(len(samples), 'sample')}: {error}")
        split = split_of_file(path)
        lonely = [key for key, sample in samples.items() if sample.image is None]
        if lonely:
            reading.problems.append(
                f"{path.name}: {count(len(lonely), 'sample')} without a picture: {name_some(lonely)}"
            )
        for key, sample in samples.items():
            if sample.image is not None:
                captions = sample.captions or sample.fallback
                reference = f"{path.name}::{sample.image}"
                reading.records.append(
                    Record(
                        reference,
                        captions,
                        path.parent,
                        sample.split or split,
                        f"{path.stem}/{key}",
                        (),
                        True,
                    )
                )
    return reading


def has_samples(path: Path) -> bool:
    """Tells whether the first members of a tar include captions."""
    try:
        with tarfile.open(path) as archive:
            for number, member in enumerate(archive):
                if PurePosixPath(member.name).suffix.lower() in (*_TEXT_SUFFIXES, ".json"):
                    return True
                if number >= 50:
                    break
    except (tarfile.TarError, OSError, EOFError):
        return False
    return False


def _collect(archive: tarfile.TarFile, samples: dict[str, _Sample], reading: Reading, path: Path) -> None:
    """Adds the samples of an archive, in its order; of each member but texts only the header is read."""
    junk = []
    for member in archive:
        name = PurePosixPath(member.name).name
        if not member.isfile() or name.startswith(".") or "." not in name:
            continue
        key = member.name[: -len(name)] + name.split(".", 1)[0]
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in PICTURE_SUFFIXES:
            samples.setdefault(key, _Sample()).image = member.name
        elif suffix in _TEXT_SUFFIXES or suffix == ".json":
            sample = samples.setdefault(key, _Sample())
            text = _member_text(archive, member, path, reading)
            junk += [] if text is not None and _add_text(text, suffix, sample) else [member.name]
    if junk:
        reading.problems.append(f"{path.name}: {count(len(junk), 'text')} that cannot be read: {name_some(junk)}")


def _member_text(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, reading: Reading) -> str | None:
    """Returns the text of a member, or None where it is too large or no text."""
    file = archive.extractfile(member) if member.size <= _LARGEST_TEXT else None
    if file is None:
        return None
    text = decode_text(file.read(), f"{path.name}::{member.name}", reading)
    return None if "\0" in text else text


def _add_text(text: str, suffix: str, sample: _Sample) -> bool:
    """Adds the captions of a text member to its sample; returns whether it could be read."""
    if suffix in _TEXT_SUFFIXES:
        sample.captions += [line for line in text_lines(text) if line.strip()]
        return True
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if isinstance(content, dict):
        sample.split = split_name(content.get("split"))
        sample.fallback += _json_captions(content)
    return True


def _json_captions(content: dict[str, object]) -> Iterator[object]:
    """Yields the captions in the first caption field that a sample's JSON has."""
    for name in CAPTION_COLUMNS:
        if content.get(name):
            yield from parse_captions(content[name]) or [content[name]]
            return
