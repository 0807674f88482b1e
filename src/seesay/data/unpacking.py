"""Safe extraction of untrusted zip archives: plain files only, below the folder only, limited in size."""

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from seesay.errors import DownloadError

MAX_FILES = 1_000_000
MAX_RATIO = 100  # unpacked bytes per byte of the archive; text compresses to a tenth, images not at all
_CHUNK = 1 << 20
_MACOS_FILES = re.compile(r"(^|/)(__MACOSX/|\._|\.DS_Store$)")


class BadArchiveError(DownloadError):
    """An archive that is damaged or unsafe to unpack."""


def unpack(
    archive: Path, folder: Path, only: str = "", progress: Callable[[int, int], None] | None = None
) -> tuple[str, ...]:
    """Extract a zip archive into a folder and return the names of the new top-level entries.

    Each file is written atomically, and an existing file of the same size is skipped, so that an interrupted extraction
    resumes. macOS metadata files are skipped.

    Args:
        archive: The zip archive.
        folder: Output folder; created if missing.
        only: Regular expression that the full path of a member must match; empty: all members.
        progress: Called with the bytes done and the total.

    Raises:
        BadArchiveError: The archive is damaged; or, before anything is written, a member is a link or device or lies
            outside the folder, or the archive exceeds the limits.
        DownloadError: The disk has too little space, or a file of the same name and another size exists. Nothing is
            written.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = [
                member
                for member in file.infolist()
                if not member.is_dir()
                and not _MACOS_FILES.search(member.filename)
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
    """Raise BadArchiveError if an archive is unsafe to unpack."""
    for member in members:
        name = PurePosixPath(member.filename)
        kind = stat.S_IFMT(member.external_attr >> 16)
        outside = name.is_absolute() or ".." in name.parts or ":" in member.filename or "\\" in member.filename
        if outside or not name.parts:
            raise BadArchiveError(f"{archive} has a member outside its folder ({member.filename!r})")
        if kind not in (0, stat.S_IFREG):
            raise BadArchiveError(f"{archive} has a link or device ({member.filename!r})")
        if (target := folder / member.filename).exists() and not _is_extracted(target, member):
            raise DownloadError(
                f"{target} exists and differs from that in {archive}; move it, or choose another folder"
            )
    total = sum(member.file_size for member in members)
    packed = archive.stat().st_size
    if len(members) > MAX_FILES or total > MAX_RATIO * packed:
        raise BadArchiveError(f"{archive} ({packed:,} bytes) would unpack to {total:,} bytes in {len(members):,} files")
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    existing = sum(member.file_size for member in members if _is_extracted(folder / member.filename, member))
    if total - existing > free:
        raise DownloadError(f"{archive} needs {total - existing:,} bytes in {folder}, which has {free:,} bytes free")


def _is_extracted(target: Path, member: zipfile.ZipInfo) -> bool:
    return target.is_file() and not target.is_symlink() and target.stat().st_size == member.file_size


def _extract(file: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Extract one member atomically, unless it is already extracted."""
    if _is_extracted(target, member):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # The same name for every attempt: the next one overwrites what a killed one left.
    partial = target.with_name(f"{target.name}.part")
    partial.unlink(missing_ok=True)
    # zipfile verifies the CRC at the end and never returns more than the stated size.
    with file.open(member) as source, partial.open("xb") as copy:
        shutil.copyfileobj(source, copy, _CHUNK)
    partial.replace(target)
