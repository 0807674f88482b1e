"""Location of the images that captions files refer to, from folder listings; no image is opened.

Captions files are often moved without their images: the image folder has another name or level, or the paths are
absolute paths of another machine. An image is searched at its stated path, then by the longest suffix of its path
that matches exactly one file below the data set's folder.
"""

# Paths are strings here: creating millions of Path objects takes seconds.
# ruff: noqa: PTH114, PTH118, PTH119, PTH122, PTH208
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seesay.data.records import count, name_some
from seesay.images.loading import FORMAT_SUFFIXES
from seesay.names import Folders, to_nfc

IMAGE_SUFFIXES = frozenset(suffix for suffixes in FORMAT_SUFFIXES.values() for suffix in suffixes)
# Image formats that seesay cannot open; listings report them.
_UNSUPPORTED_SUFFIX = re.compile(
    r"\.(jxl|jxr|wdp|bpg|flif|qoi|tga|pcx|dcx|ico|icns|dib|psd|psb|xcf|kra|svgz?|eps|exr|hdr|dds|sgi|ras|xbm|xpm|wmf|emf"
    r"|fits|djvu|dng|cr[23w]|nef|nrw|arw|sr[f2w]|orf|rw2|raf|pef|x3f|erf|mrw|3fr|iiq)",
    re.IGNORECASE,
)
# Folders of captions beside a folder of images, such as COCO's annotations/.
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
_IMAGE_FOLDER = re.compile(r"images?|pictures?|photos?|flicke?r.*|(train|val|test)(20\d\d)?", re.IGNORECASE)
_MAX_DEPTH = 5
_ARCHIVE = re.compile(r"(.+?\.(?:tar|parquet|arrow))::(.+)", re.IGNORECASE | re.DOTALL)
_URL = re.compile(r"https?://", re.IGNORECASE)


def is_url(reference: str) -> bool:
    """Return whether an image reference is an http(s) URL."""
    return _URL.match(reference) is not None


def is_image_name(name: str) -> bool:
    """Return whether a name has the suffix of an image file."""
    return os.path.splitext(name.strip())[1].lower() in IMAGE_SUFFIXES


class SidecarNames:
    """Names of the text files beside images: `photo.txt` for `photo.jpg`.

    The name depends only on the image's folder, not on which images are processed together. Images that differ only in
    their suffix (also ignoring case and Unicode normalization, as some file systems do) get the full name:
    `photo.jpg.txt` and `photo.png.txt`. So does an image whose short name is another file's full name, and a file
    without a common image suffix. No two images share a name.

    Args:
        suffix: suffix of the text files, such as `.txt`.
    """

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix
        self._taken: dict[str, frozenset[str]] = {}

    def path(self, image: str) -> str:
        """Return the path of an image's text file; each folder is listed once."""
        folder, name = os.path.split(image)
        stem = os.path.splitext(name)[0]
        if folder not in self._taken:
            self._taken[folder] = self._taken_stems(folder)
        short = is_image_name(name) and to_nfc(stem).lower() not in self._taken[folder]
        return os.path.join(folder, (stem if short else name) + self.suffix)

    def _taken_stems(self, folder: str) -> frozenset[str]:
        """Return the lower-case stems that more than one file of a folder would use."""
        try:
            names = [to_nfc(name).lower() for name in os.listdir(folder or ".")]
        except (OSError, ValueError):
            return frozenset()
        stems = Counter(os.path.splitext(name)[0] for name in names if is_image_name(name))
        others = {name for name in names if not name.endswith(self.suffix.lower())}
        return frozenset(stem for stem, number in stems.items() if number > 1 or stem in others)


def expected_path(reference: str, base: Path) -> str:
    """Return the path where an image should be, without checking."""
    if is_url(reference):
        return reference
    path, mark, member = reference.partition("::")
    return os.path.normpath(os.path.join(base, path.replace("\\", "/"))) + mark + member


def root_of(captions: Path) -> Path:
    """Return the folder below which the images of a captions file are located."""
    folder = captions if captions.is_dir() else captions.parent
    # The name of "." is empty, so resolve it.
    if folder.resolve().name.lower() in _CAPTION_FOLDERS and not list_image_paths(folder):
        return folder.parent if folder.name not in ("", "..") else folder / ".."
    return folder


class ImageFinder:
    """Finds images below one folder; each listing is read once, the recursive one only if needed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ambiguous: list[str] = []
        self._folders = Folders()
        self._index: dict[str, list[str]] | None = None

    def find(self, reference: str, base: Path) -> str | None:
        """Return the path of an image, or None.

        Args:
            reference: A relative path, an absolute path (of any system), a URL, or `archive::member`.
            base: Folder of relative references.
        """
        if is_url(reference):
            return reference
        archive = _ARCHIVE.match(reference)
        if archive is not None:
            found = self._folders.find(os.path.join(base, archive[1]))
            return None if found is None else f"{found}::{archive[2]}"
        for spelling in (reference, reference.replace("\\", "/")):
            found = self._folders.find(os.path.join(base, spelling))
            if found is not None:
                return found
        return self._search(reference.replace("\\", "/"))

    def _search(self, reference: str) -> str | None:
        """Return the image below the root whose path shares the longest suffix with the reference, if unique."""
        if self._index is None:
            self._index = _deep_index(self.root)
        requested = [part for part in to_nfc(reference).lower().split("/") if part not in ("", ".", "..")]
        if not requested:
            return None
        candidates = self._index.get(requested[-1], [])
        if len(candidates) > 1:
            ranks = [self._rank(path, requested) for path in candidates]
            best = max(ranks)
            candidates = [path for path, rank in zip(candidates, ranks, strict=True) if rank == best]
            if len(candidates) > 1:
                self.ambiguous.append(f"{reference} ({' or '.join(sorted(candidates)[:2])})")
                return None
        return candidates[0] if candidates else None

    def _rank(self, path: str, requested: list[str]) -> tuple[int, bool, int]:
        """Return the match quality of a path: number of shared trailing parts, common folder name, small depth."""
        parts = to_nfc(os.path.relpath(path, self.root)).replace(os.sep, "/").lower().split("/")
        shared = 0
        for ours, theirs in zip(reversed(parts[:-1]), reversed(requested[:-1]), strict=False):
            if ours != theirs:
                break
            shared += 1
        usual = len(parts) > 1 and _IMAGE_FOLDER.fullmatch(parts[-2]) is not None
        return shared, usual, -len(parts)


@dataclass(frozen=True)
class ImageListing:
    """The images in a list of files.

    Attributes:
        images: paths with the suffix of a supported format.
        unsupported: paths of images of other formats (JPEG XL, camera raw, SVG, ...).
    """

    images: list[str]
    unsupported: list[str]

    @classmethod
    def of(cls, files: Iterable[str]) -> "ImageListing":
        """Return the listing of files, in their order, without macOS resource forks (`._a.jpg`)."""
        listing = cls([], [])
        for path in files:
            suffix = os.path.splitext(path)[1].lower()
            if os.path.basename(path).startswith("._"):
                continue
            if suffix in IMAGE_SUFFIXES:
                listing.images.append(path)
            elif _UNSUPPORTED_SUFFIX.fullmatch(suffix):
                listing.unsupported.append(path)
        return listing

    def remark(self) -> str | None:
        """Return a remark about unsupported images; None if there are none."""
        return unsupported_images(self.unsupported)


def unsupported_images(paths: Sequence[str]) -> str | None:
    """Return a remark that counts and names images of unsupported formats; None if there are none."""
    if not paths:
        return None
    suffixes = ", ".join(sorted({os.path.splitext(path)[1].lower() for path in paths}))
    skipped = f"{count(len(paths), 'file')} of unsupported formats skipped ({suffixes})"
    return f"{skipped}; convert to JPEG or PNG: {name_some(paths)}"


def walk_files(
    root: Path, depth: int | None = _MAX_DEPTH, on_error: Callable[[OSError], None] | None = None
) -> Iterator[str]:
    """Yield the paths of all files below a folder, without hidden folders and macOS metadata.

    Links to folders are followed, except to folders above. Each folder is listed once, under its path without links if
    that is below the root.

    Args:
        root: the folder.
        depth: maximum folder depth; None: no limit.
        on_error: called with the error of each folder that cannot be listed.
    """
    real_root = os.path.realpath(root)
    listed: set[str] = set()
    linked = deque([str(root)])
    while linked:
        for folder, folders, names in os.walk(linked.popleft(), onerror=on_error):
            real = os.path.realpath(folder)
            if real in listed:
                folders.clear()
                continue
            listed.add(real)
            yield from (os.path.normpath(os.path.join(folder, name)) for name in names)
            deepest = depth is not None and os.path.relpath(folder, root).count(os.sep) >= depth
            inner = [] if deepest else sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
            links = [name for name in inner if os.path.islink(os.path.join(folder, name))]
            folders[:] = [name for name in inner if name not in links]
            targets = [os.path.join(folder, name) for name in links]
            linked.extend(target for target in targets if not _contains(target, (real, real_root)))


def _contains(folder: str, others: Iterable[str]) -> bool:
    """Return whether a folder equals or contains one of other folders (real paths)."""
    prefix = os.path.join(os.path.realpath(folder), "")
    return any(os.path.join(other, "").startswith(prefix) for other in others)


def list_image_paths(root: Path, depth: int | None = _MAX_DEPTH) -> list[str]:
    """Return the paths of all images below a folder, sorted; see `walk_files`."""
    return list_images(root, depth).images


def list_images(root: Path, depth: int | None = _MAX_DEPTH) -> ImageListing:
    """Return the images below a folder, sorted; see `walk_files`."""
    return ImageListing.of(sorted(walk_files(root, depth)))


class Identities:
    """Compares image references: `a.jpg`, `./a.jpg` and its absolute path are one image.

    Each folder is resolved once. Links to files are not resolved: a link is a separate image.
    """

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def distinct(self, names: Iterable[str]) -> list[str]:
        """Return the first reference of each image, in order."""
        first: dict[str, str] = {}
        for name in names:
            first.setdefault(self.of(name), name)
        return list(first.values())

    def of(self, name: str) -> str:
        """Return a key that is equal for references to one image."""
        if is_url(name):
            return name
        archive = _ARCHIVE.match(name)
        folder, file = os.path.split(archive[1] if archive else name)
        if folder not in self._folders:
            try:
                self._folders[folder] = os.path.realpath(folder)
            except (OSError, ValueError):  # not a valid folder name
                self._folders[folder] = folder
        member = f"::{archive[2].removeprefix('./')}" if archive else ""
        return os.path.join(self._folders[folder], file) + member


def _deep_index(root: Path) -> dict[str, list[str]]:
    """Return the images below a folder by lower-case name, with and without suffix."""
    index: dict[str, list[str]] = {}
    for path in list_image_paths(root):
        name = to_nfc(os.path.basename(path)).lower()
        index.setdefault(name, []).append(path)
        index.setdefault(os.path.splitext(name)[0], []).append(path)
    return index
