"""METEOR's paraphrase table as sorted hashes in a memory-mapped file.

The table of five million pairs is 272 MB of text. Each phrase is replaced by a 64-bit hash, so that the phrases of a
corpus are looked up with array operations on their bytes, and loading takes no time.
"""

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from seesay.errors import DataError, SeesayError
from seesay.files import cache_folder, write_atomically

Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]
_Table = tuple[Hashes, Integers, npt.NDArray[np.int32]]

# Part of the file name; change it with the hash or the layout.
_FORMAT = b"seesay paraphrases 1"
_CHUNK = 1 << 18  # the arrays of a chunk fit into the CPU cache
_STEP = 0x9E3779B97F4A7C15


class Paraphrases(NamedTuple):
    """Part of the table for a set of phrases.

    Attributes:
        rows: row of each phrase, -1 if it is not in the table, (Q,).
        sources: row of the phrase of each pair, ascending, then in the order of the table, (P,).
        targets: row of its paraphrase, (P,).
    """

    rows: Integers
    sources: Integers
    targets: Integers


class ParaphraseTable:
    """The paraphrase table.

    The first use builds it in the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`), which takes some seconds. If
    the folder is not writable, each process builds it again.

    Args:
        path: METEOR's file: three lines per pair, with probability, phrase and paraphrase.

    Raises:
        DataError: The file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._hashes, self._offsets, self._targets = _load(path)

    def among(self, phrases: Hashes) -> Paraphrases:
        """Returns the pairs whose phrases are both in a set, given by hashes, (Q,)."""
        positions = np.searchsorted(self._hashes, phrases)
        positions[positions == len(self._hashes)] = 0
        known = self._hashes[positions] == phrases if len(self._hashes) else np.zeros(len(phrases), bool)
        found = np.unique(positions[known])
        counts = self._offsets[found + 1] - self._offsets[found]
        sources = np.repeat(np.arange(len(found)), counts)
        skipped = np.cumsum(counts) - counts
        targets = self._targets[np.arange(len(sources)) + (self._offsets[found] - skipped)[sources]]
        rows = np.searchsorted(found, targets)
        rows[rows == len(found)] = 0
        both = found[rows] == targets if len(found) else np.zeros(0, bool)
        return Paraphrases(
            np.where(known, np.searchsorted(found, positions), -1), sources[both], rows[both].astype(np.int64)
        )


def hash_parts(text: bytes, starts: Integers, ends: Integers) -> Hashes:
    """Returns the hash of each part of a text, `starts` to `ends` (exclusive), from its bytes only."""
    sums = np.zeros(len(text) + 1, np.uint64)
    size = 1 << len(text).bit_length()
    terms = _codes().take(np.frombuffer(text, np.uint8))
    terms *= _powers(_STEP, size)[: len(text)]
    np.cumsum(terms, out=sums[1:])
    return (sums[ends] - sums[starts]) * _powers(pow(_STEP, -1, 1 << 64), size)[starts]


@cache
def _codes() -> Hashes:
    digests = b"".join(hashlib.sha256(_FORMAT + bytes([byte])).digest()[:8] for byte in range(256))
    return np.frombuffer(digests, np.dtype("<u8")).astype(np.uint64)


@lru_cache(maxsize=4)
def _powers(base: int, count: int) -> Hashes:
    """Returns the first powers of a number modulo 2^64."""
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


def _load(path: Path) -> _Table:
    with suppress(OSError, RuntimeError, ValueError):  # not cached yet, damaged, or no home folder
        return _read(_cache_file(path))
    table = _build(path)
    sizes = np.array([len(table[0]), len(table[2])], np.int64)
    with suppress(OSError, RuntimeError, SeesayError):
        write_atomically(_cache_file(path), b"".join(array.tobytes() for array in (sizes, *table)))
    return table


def _cache_file(path: Path) -> Path:
    """Returns the path of a file's cached table, named after the checksum at the end of the file."""
    with path.open("rb") as file:
        file.seek(-min(8, path.stat().st_size), os.SEEK_END)
        digest = hashlib.sha256(_FORMAT + file.read() + str(path.stat().st_size).encode()).hexdigest()[:16]
    return cache_folder("meteor") / f"{digest}.table"


def _read(cached: Path) -> _Table:
    data = np.memmap(cached, np.uint8, "r")
    phrases, pairs = data[:16].view(np.int64).tolist() if len(data) >= 16 else (0, 0)
    ends = np.cumsum([16, 8 * phrases, 8 * (phrases + 1), 4 * pairs]).tolist()
    if len(data) != ends[-1]:
        raise OSError(f"{cached} is incomplete")
    hashes, offsets, targets = (data[start:end] for start, end in pairwise(ends))
    return hashes.view(np.uint64), offsets.view(np.int64), targets.view(np.int32)


def _build(path: Path) -> _Table:
    pairs = list(_hashed_pairs(path))
    hashes, numbers = np.unique(np.concatenate([*pairs, np.zeros((0, 2), np.uint64)]), return_inverse=True)
    pair = numbers.reshape(-1, 2)
    sources, targets = pair[:, 0], pair[:, 1]
    order = np.argsort(sources, kind="stable")
    offsets = np.concatenate(([0], np.cumsum(np.bincount(sources, minlength=len(hashes))))).astype(np.int64)
    return hashes, offsets, targets[order].astype(np.int32)


def _hashed_pairs(path: Path) -> Iterator[Hashes]:
    """Yields the hashes of phrases and their paraphrases, (P, 2), in the order of the file."""
    rest = b""
    try:
        with gzip.open(path) as file:
            while chunk := file.read(_CHUNK):
                text = rest + chunk
                ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
                pairs = ends[: len(ends) // 3 * 3].reshape(-1, 3)
                rest = text[pairs[-1, -1] + 1 :] if len(pairs) else text
                yield hash_parts(text, pairs[:, :2].ravel() + 1, pairs[:, 1:].ravel()).reshape(-1, 2)
            if rest or not file.tell():
                raise EOFError("it is truncated")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(damaged(path, error)) from error


def damaged(path: Path, error: Exception) -> str:
    """Returns the error message for an unreadable file of METEOR."""
    return f"METEOR's tables cannot be read from {path} ({error}); run: pip install --force-reinstall pycocoevalcap"
