"""Reduced, upright JPEGs of the images under review, cached in memory."""

import io
import threading
from collections import OrderedDict

from seesay.images.loading import read_thumbnail
from seesay.images.sources import source_state
from seesay.review import limits

_QUALITY = 82


class Thumbnails:
    """Makes thumbnails and keeps the most recently used ones; thread-safe.

    Args:
        max_bytes: maximum total size of the encoded thumbnails that are kept.
    """

    def __init__(self, max_bytes: int = limits.CACHE_BYTES) -> None:
        self._max_bytes, self.cached_bytes = max_bytes, 0
        self._cache: OrderedDict[tuple[str, str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, source: str, side: int) -> bytes:
        """Return a JPEG of an image with at most `side` pixels per side.

        Raises:
            ImageError: the image is missing, damaged or too large.
        """
        try:
            key = (source, source_state(source), side)
        except (OSError, ValueError):
            key = (source, "", side)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        buffer = io.BytesIO()
        read_thumbnail(source, side).save(buffer, "JPEG", quality=_QUALITY)
        self._keep(key, buffer.getvalue())
        return buffer.getvalue()

    def _keep(self, key: tuple[str, str, int], content: bytes) -> None:
        with self._lock:
            if key not in self._cache:
                self.cached_bytes += len(content)
            self._cache[key] = content
            while self.cached_bytes > self._max_bytes:
                _, oldest = self._cache.popitem(last=False)
                self.cached_bytes -= len(oldest)
