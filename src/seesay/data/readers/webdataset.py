"""WebDataset: tar files in which the members of a sample share the name before the first dot."""

import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from seesay.data.readers.columns import ColumnNames, object_captions
from seesay.data.readers.images import IMAGE_SUFFIXES
from seesay.data.readers.samples import TEXT_SUFFIXES, choose_image, choose_text
from seesay.data.readers.text import decode_text, text_lines
from seesay.data.records import Reading, Record, count, name_some, split_name, split_of_file
from seesay.errors import DataError
from seesay.names import to_nfc

_MAX_TEXT_BYTES = 1 << 20


@dataclass
class _Sample:
    """Members of one sample: images, captions by text member, captions of the JSON member, split."""

    images: list[str] = field(default_factory=list)
    texts: dict[str, list[object]] = field(default_factory=dict)
    json_captions: list[object] = field(default_factory=list)
    split: str | None = None


def read_webdataset(files: list[Path], split_lists: list[Path], requested: ColumnNames) -> Reading:
    """Return the records of tar files; images are named `shard.tar::member` and not extracted.

    Captions are the lines of a .txt (or .caption) member, or the caption field of a .json member. If a sample has
    several images or texts, one is selected (see `samples`) and the others are reported. Of a truncated archive the
    complete samples are read, and the truncation is reported.

    Args:
        files: The tar files.
        split_lists: Unused.
        requested: If a caption column is set, it is a field of the .json members, and text members are ignored.

    Raises:
        DataError: A file is not a tar file.
    """
    reading = Reading()
    for path in files:
        samples: dict[str, _Sample] = {}
        try:
            with tarfile.open(path, "r:") as archive:
                _collect(archive, samples, reading, path, requested.caption)
        except (tarfile.TarError, OSError, EOFError) as error:
            if not samples:
                raise DataError(
                    f"{path} cannot be read as a tar file ({error}); decompress it first if it is compressed"
                ) from error
            reading.problems.append(f"{path.name} is truncated after {count(len(samples), 'sample')}: {error}")
        _add_records(samples, split_of_file(path), reading, path)
    return reading


def _add_records(samples: dict[str, _Sample], split: str | None, reading: Reading, path: Path) -> None:
    """Add a record for each sample that has an image."""
    without_image, unused = [], []
    for key, sample in samples.items():
        if not sample.images:
            without_image.append(key)
            continue
        image = choose_image(sample.images)
        unused += [name for name in sample.images if name != image]
        captions = sample.json_captions
        filled = [name for name, texts in sample.texts.items() if texts]
        if filled:
            text = choose_text(filled)
            captions = sample.texts[text]
            unused += [name for name in filled if name != text]
        id = f"{path.stem}/{key}"
        reference = f"{path.name}::{image}"
        reading.records.append(Record(reference, captions, path.parent, sample.split or split, id, (), True))
    if without_image:
        reading.problems.append(
            f"{path.name}: {count(len(without_image), 'sample')} without an image: {name_some(without_image)}"
        )
    if unused:
        reading.problems.append(
            f"{path.name}: {count(len(unused), 'member')} not used, because another image or text of the sample has "
            f"precedence: {name_some(unused)}"
        )


def has_samples(path: Path) -> bool:
    """Return whether the first members of a tar include captions."""
    try:
        with tarfile.open(path) as archive:
            for number, member in enumerate(archive):
                if PurePosixPath(member.name).suffix.lower() in (*TEXT_SUFFIXES, ".json"):
                    return True
                if number >= 50:
                    break
    except (tarfile.TarError, OSError, EOFError):
        return False
    return False


def _collect(archive: tarfile.TarFile, samples: dict[str, _Sample], reading: Reading, path: Path, column: str) -> None:
    """Add the samples of an archive in order; only the text members are read."""
    invalid = []
    for member in archive:
        name = PurePosixPath(member.name).name
        if not member.isfile() or name.startswith(".") or "." not in name:
            continue
        key = to_nfc(member.name[: -len(name)] + name.split(".", 1)[0])
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            samples.setdefault(key, _Sample()).images.append(member.name)
        elif suffix in TEXT_SUFFIXES or suffix == ".json":
            sample = samples.setdefault(key, _Sample())
            text = _member_text(archive, member, path, reading)
            invalid += [] if text is not None and _add_text(text, member.name, sample, column) else [member.name]
    if invalid:
        reading.problems.append(f"{path.name}: {count(len(invalid), 'text')} that cannot be read: {name_some(invalid)}")


def _member_text(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, reading: Reading) -> str | None:
    """Return the text of a member, or None if it is too large or not text."""
    file = archive.extractfile(member) if member.size <= _MAX_TEXT_BYTES else None
    if file is None:
        return None
    text = decode_text(file.read(), f"{path.name}::{member.name}", reading)
    return None if "\0" in text else text


def _add_text(text: str, name: str, sample: _Sample, column: str) -> bool:
    """Add the captions of a text member to its sample; return whether it was read."""
    if not name.lower().endswith(".json"):
        sample.texts[name] = [] if column else [line for line in text_lines(text) if line.strip()]
        return True
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if isinstance(content, dict):
        sample.split = split_name(content.get("split"))
        sample.json_captions += object_captions(content, column)
    return True
