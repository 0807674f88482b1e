"""Unpacking zip archives that nobody vouches for: only plain files, only below the folder, only so much."""

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from seesay.errors import DownloadError

MAX_FILES = 1_000_000
MAX_RATIO = 100  # unpacked bytes an archive's byte; text packs to a tenth, images not at all
_CHUNK = 1 << 20
_LITTER = re.compile(r"(^|/)(__MACOSX/|\._|\.DS_Store$)")


class BadArchiveError(DownloadError):
    """An archive that is damaged, or holds what must not be unpacked."""


def unpack(
    archive: Path, folder: Path, only: str = "", progress: Callable[[int, int], None] | None = None
) -> tuple[str, ...]:
    """Unpacks a zip below a folder and returns the names that this put in the folder itself.

    Every file appears whole or not at all, and one that is there with its full size is not written again,
    so that a stopped unpacking goes on. Macintosh litter is left out.

    Args:
        archive: The zip.
        folder: Where it goes; made where absent.
        only: A pattern; files whose whole path does not match are left out. Empty = all.
        progress: Called with the bytes done and their number.

    Raises:
        BadArchiveError: The archive is damaged; or a member is a link or device, or would lie outside the
            folder, or all would be absurdly much, and nothing was written.
        DownloadError: There is not enough room for it, or a file of the same name and another size is there; nothing
            was written.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = [
                member
                for member in file.infolist()
                if not member.is_dir()
                and not _LITTER.search(member.filename)
                and (not only or re.fullmatch(only, member.filename))
            ]
            _check(archive, members, folder)
            total = sum(member.file_size for member in members)
            done = 0
            for member in members:
                _extract(file, member, folder / member.filename)
                done += member.file_size
                if progress is not None:
                    progress(done, total)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise BadArchiveError(f"{archive} is damaged ({error})") from error
    return tuple(dict.fromkeys(PurePosixPath(member.filename).parts[0] for member in members))


def _check(archive: Path, members: list[zipfile.ZipInfo], folder: Path) -> None:
    """Raises BadArchiveError where an archive holds what must not be unpacked."""
    for member in members:
        name = PurePosixPath(member.filename)
        kind = stat.S_IFMT(member.external_attr >> 16)
        outside = name.is_absolute() or ".." in name.parts or ":" in member.filename or "\\" in member.filename
        if outside or not name.parts:
            raise BadArchiveError(f"{archive} has a member outside its folder ({member.filename!r})")
        if kind not in (0, stat.S_IFREG):
            raise BadArchiveError(f"{archive} has a link or device ({member.filename!r})")
        if (target := folder / member.filename).exists() and not _is_there(target, member):
            raise DownloadError(f"{target} exists and differs from that of {archive}; move it, or name another folder")
    total = sum(member.file_size for member in members)
    packed = archive.stat().st_size
    if len(members) > MAX_FILES or total > MAX_RATIO * packed:
        raise BadArchiveError(f"{archive} ({packed:,} bytes) would unpack to {total:,} bytes in {len(members):,} files")
    folder.mkdir(parents=True, exist_ok=True)
    room = shutil.disk_usage(folder).free
    there = sum(member.file_size for member in members if _is_there(folder / member.filename, member))
    if total - there > room:
        raise DownloadError(f"{archive} needs {total - there:,} bytes in {folder}, which has {room:,} free")


def _is_there(target: Path, member: zipfile.ZipInfo) -> bool:
    return target.is_file() and not target.is_symlink() and target.stat().st_size == member.file_size


def _extract(file: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Writes one member, whole or not at all, unless it is there."""
    if _is_there(target, member):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # One name for all attempts, so that a killed one leaves nothing that the next does not overwrite.
    partial = target.with_name(f"{target.name}.part")
    partial.unlink(missing_ok=True)
    # The reader checks the member's CRC at its end, and never gives more than its stated size.
    with file.open(member) as source, partial.open("xb") as copy:
        shutil.copyfileobj(source, copy, _CHUNK)
    partial.replace(target)
