"""Finding the picture that a captions file means, by listings of folders: no picture is opened or asked for.

Lists of captions travel without their pictures: the folder has another name, one more level, or the paths
are absolute on somebody else's machine. A picture is looked for where the list says, then by the longest
tail of its path that names exactly one file below the data set's folder.
"""

# Paths are strings here: an object for each of millions of names takes seconds.
# ruff: noqa: PTH114, PTH118, PTH119, PTH122, PTH208
import os
import re
from collections import Counter
from pathlib import Path

PICTURE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".avif")
)
# Folders that hold captions beside a folder of pictures, as annotations/ does in COCO.
_CAPTION_FOLDERS = frozenset(
    (
        "annotations",
        "annotation",
        "captions",
        "text",
        "texts",
        "labels",
        "metadata",
        "splits",
        "flickr8k_text",
    )
)
_PICTURE_FOLDER = re.compile(r"images?|pictures?|photos?|flicke?r.*|(train|val|test)(20\d\d)?", re.IGNORECASE)
_MAX_DEPTH = 5
_ARCHIVE = re.compile(r"(.+?\.(?:tar|parquet))::(.+)", re.IGNORECASE | re.DOTALL)
_URL = re.compile(r"https?://", re.IGNORECASE)


def is_url(reference: str) -> bool:
    """Tells whether a picture is named by an http(s) address."""
    return _URL.match(reference) is not None


def is_picture_name(name: str) -> bool:
    """Tells whether a name ends as picture files do."""
    return os.path.splitext(name.strip())[1].lower() in PICTURE_SUFFIXES


class SidecarNames:
    """Names of the text files beside images: `photo.txt` for `photo.jpg`.

    The name depends on the image's folder alone, never on which images are processed together. Two images that
    differ only in their suffix (or in case) are named in full: `photo.jpg.txt` and `photo.png.txt`. So is an image
    whose short name is another file's full name, and a file without a usual image suffix. No two images share a name.

    Args:
        suffix: of the text files, such as `.txt`.
    """

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix
        self._taken: dict[str, frozenset[str]] = {}

    def path(self, image: str) -> str:
        """Returns the path of an image's text file; the folder is listed once."""
        folder, name = os.path.split(image)
        stem = os.path.splitext(name)[0]
        if folder not in self._taken:
            self._taken[folder] = self._taken_stems(folder)
        short = is_picture_name(name) and stem.lower() not in self._taken[folder]
        return os.path.join(folder, (stem if short else name) + self.suffix)

    def _taken_stems(self, folder: str) -> frozenset[str]:
        """Returns the names without suffix, in lower case, that more than one file of a folder would use."""
        try:
            names = {name.lower() for name in os.listdir(folder or ".")}
        except OSError:
            return frozenset()
        stems = Counter(os.path.splitext(name)[0] for name in names if is_picture_name(name))
        return frozenset(
            stem
            for stem, number in stems.items()
            if number > 1 or (stem in names and not stem.endswith(self.suffix.lower()))
        )


def expected_path(reference: str, base: Path) -> str:
    """Returns where a picture should be, without looking."""
    if is_url(reference):
        return reference
    path, mark, member = reference.partition("::")
    return os.path.normpath(os.path.join(base, path.replace("\\", "/"))) + mark + member


def root_of(captions: Path) -> Path:
    """Returns the folder below which the pictures of a captions file are looked for."""
    folder = captions if captions.is_dir() else captions.parent
    # The name of "." is empty; only the real path tells it.
    if folder.resolve().name.lower() in _CAPTION_FOLDERS and not list_pictures(folder):
        return folder.parent if folder.name not in ("", "..") else folder / ".."
    return folder


class PictureFinder:
    """Finds pictures below one folder; listings are read once, the deep one only when it is needed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ambiguous: list[str] = []
        self._listings: dict[str, frozenset[str]] = {}
        self._index: dict[str, list[str]] | None = None

    def find(self, reference: str, base: Path) -> str | None:
        """Returns the path of a picture, or None.

        Args:
            reference: As written: relative, absolute (on any system), a URL, or `archive::member`.
            base: The folder that a relative reference starts from.
        """
        if is_url(reference):
            return reference
        archive = _ARCHIVE.match(reference)
        if archive is not None:
            found = self._at(os.path.join(base, archive[1]))
            return None if found is None else f"{found}::{archive[2]}"
        for spelling in (reference, reference.replace("\\", "/")):
            found = self._at(os.path.join(base, spelling))
            if found is not None:
                return found
        return self._search(reference.replace("\\", "/"))

    def _at(self, path: str) -> str | None:
        """Returns the path in its plain form if its folder lists it."""
        path = os.path.normpath(path)
        folder, name = os.path.split(path)
        if folder not in self._listings:
            try:
                with os.scandir(folder or ".") as entries:
                    self._listings[folder] = frozenset(entry.name for entry in entries)
            except OSError:
                self._listings[folder] = frozenset()
        return path if name in self._listings[folder] else None

    def _search(self, reference: str) -> str | None:
        """Returns the one picture below the root whose path shares the longest tail with the reference."""
        if self._index is None:
            self._index = _deep_index(self.root)
        wanted = [part for part in reference.lower().split("/") if part not in ("", ".", "..")]
        if not wanted:
            return None
        candidates = self._index.get(wanted[-1], [])
        if len(candidates) > 1:
            ranks = [self._rank(path, wanted) for path in candidates]
            best = max(ranks)
            candidates = [path for path, rank in zip(candidates, ranks, strict=True) if rank == best]
            if len(candidates) > 1:
                self.ambiguous.append(f"{reference} ({' or '.join(sorted(candidates)[:2])})")
                return None
        return candidates[0] if candidates else None

    def _rank(self, path: str, wanted: list[str]) -> tuple[int, bool, int]:
        """Returns how well a path fits: parts shared from the end, a usual folder name, shallowness."""
        parts = os.path.relpath(path, self.root).replace(os.sep, "/").lower().split("/")
        shared = 0
        for ours, theirs in zip(reversed(parts[:-1]), reversed(wanted[:-1]), strict=False):
            if ours != theirs:
                break
            shared += 1
        usual = len(parts) > 1 and _PICTURE_FOLDER.fullmatch(parts[-2]) is not None
        return shared, usual, -len(parts)


def list_pictures(root: Path, depth: int | None = _MAX_DEPTH) -> list[str]:
    """Returns the paths of all pictures below a folder, sorted; hidden folders and Mac litter left out.

    Args:
        root: the folder.
        depth: folders below each other that are looked into; None = all. Links are followed, but for those that
            lead back to a folder above them.
    """
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        deepest = depth is not None and os.path.relpath(folder, root).count(os.sep) >= depth
        folders[:] = [] if deepest else sorted(f for f in folders if _is_entered(folder, f))
        found += [os.path.join(folder, n) for n in names if is_picture_name(n) and not n.startswith("._")]
    return sorted(os.path.normpath(path) for path in found)


def _is_entered(folder: str, name: str) -> bool:
    path = os.path.join(folder, name)
    if name.startswith((".", "__MACOSX")):
        return False
    # A link to itself or upwards would be walked round and round.
    return not os.path.islink(path) or not f"{os.path.realpath(folder)}/".startswith(f"{os.path.realpath(path)}/")


def _deep_index(root: Path) -> dict[str, list[str]]:
    """Returns the pictures below a folder by lower-case name, and by lower-case name without its suffix."""
    index: dict[str, list[str]] = {}
    for path in list_pictures(root):
        name = os.path.basename(path).lower()
        index.setdefault(name, []).append(path)
        index.setdefault(os.path.splitext(name)[0], []).append(path)
    return index
