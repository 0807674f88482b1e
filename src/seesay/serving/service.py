"""From uploads to captions: places, decoding of the files, and batches through the network."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image

from seesay.captioner import Caption, Captioner
from seesay.captioner_mixed import Wish, caption_mixed, is_same_in_company
from seesay.errors import ConfigError, ImageError, SeesayError
from seesay.images import Preprocessing
from seesay.serving import limits
from seesay.serving.batching import Batcher
from seesay.serving.limits import Limits
from seesay.serving.observing import Metrics
from seesay.serving.refusals import RefusalError
from seesay.serving.uploads import check_header
from seesay.serving.wishes import Request
from seesay.sources import PictureBytes

log = logging.getLogger("seesay.serving")


@dataclass(frozen=True)
class Seen:
    """A picture with what was said of it.

    Attributes:
        width: of the upright picture, in pixels.
        height: of the same.
        caption: what the model says.
    """

    width: int
    height: int
    caption: Caption


class Places:
    """A bound on what is done at a time; used by one event loop alone."""

    def __init__(self, size: int, full: str) -> None:
        self.size, self.taken, self._full = size, 0, full

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Takes places and gives them back, however what is done in them ends.

        Raises:
            RefusalError: there are not so many left.
        """
        if self.taken + count > self.size:
            raise RefusalError("busy", self._full, {"Retry-After": str(limits.RETRY_SECONDS)})
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count


class CaptionService:
    """A captioner that many requests share.

    A request holds a place for each of its pictures from the moment its body is here until it is answered, cancelled
    or given up; what takes longer to arrive or to be read by the client holds none.

    Args:
        captioner: one, or an ensemble.
        bounds: of the service.
        metrics: told what happens.

    Raises:
        ConfigError: the captioner cannot look at pictures.
    """

    def __init__(self, captioner: Captioner, bounds: Limits, metrics: Metrics) -> None:
        self.captioner, self.limits, self.metrics = captioner, bounds, metrics
        self.pending = Places(
            bounds.max_pending, f"all {bounds.max_pending} places are taken; try again in {limits.RETRY_SECONDS} s"
        )
        self.pending_bytes = Places(
            limits.MAX_PENDING_BYTES, f"too many bytes wait already; try again in {limits.RETRY_SECONDS} s"
        )
        self.receiving = Places(
            bounds.max_receiving, f"too many bodies are on their way; try again in {limits.RETRY_SECONDS} s"
        )
        # The first picture through a network takes longer than all others: it is an empty one, before the first client.
        self.has_attention = captioner.caption(Image.new("RGB", (64, 64)), attention=True).attention is not None
        is_same_in_company(captioner)  # measured now, for the same reason
        self._readers = ThreadPoolExecutor(limits.READERS, "seesay-pictures")
        self._batcher: Batcher[Wish, Caption] = Batcher(
            self._work, bounds.max_batch, bounds.max_wait, metrics.batch_size.observe
        )
        metrics.pending.set_function(lambda: self.pending.taken)
        metrics.waiting.set_function(lambda: self._batcher.waiting)

    @property
    def name(self) -> str:
        """What the model is called: its run's folder, or all of them."""
        members: Sequence[Captioner] = getattr(self.captioner, "members", [self.captioner])
        return "+".join(member.run.folder.resolve().name for member in members)

    @property
    def preprocessing(self) -> Preprocessing:
        """How the (first) encoder is shown a picture."""
        encoder = self.captioner.model.encoder
        if encoder is None:
            raise ConfigError(f"{self.captioner.run.folder} has no encoder of its own and cannot look at pictures")
        return encoder.preprocessing

    @property
    def alive(self) -> bool:
        """Whether pictures are worked on."""
        return self._batcher.alive

    def close(self) -> None:
        """Finishes what was accepted, and ends."""
        self._readers.shutdown()
        self._batcher.close(self.limits.answer_seconds)

    def check(self, wish: Request) -> None:
        """Refuses words that the vocabulary cannot keep before any picture is looked at.

        Raises:
            RefusalError: such as a required word that the model does not know.
        """
        try:
            self.captioner.check(wish.options)
        except ConfigError as error:
            raise RefusalError("invalid_options", str(error).removeprefix("decoding.")) from error

    async def caption(
        self, pictures: Sequence[PictureBytes | RefusalError], wish: Request
    ) -> list[Seen | RefusalError]:
        """Returns each picture with its caption, or why there is none.

        Raises:
            RefusalError: no place is free, or the options cannot be kept.
        """
        size = sum(len(picture.content) for picture in pictures if isinstance(picture, PictureBytes))
        with self.pending.hold(len(pictures)), self.pending_bytes.hold(size):
            await asyncio.get_running_loop().run_in_executor(self._readers, self.check, wish)
            return list(await asyncio.gather(*(self._caption_one(picture, wish) for picture in pictures)))

    async def _caption_one(self, picture: PictureBytes | RefusalError, wish: Request) -> Seen | RefusalError:
        if isinstance(picture, RefusalError):
            return picture
        try:
            read: Callable[[], tuple[tuple[int, int], Wish]] = lambda: self._read(picture, wish)  # noqa: E731
            (width, height), job = await asyncio.get_running_loop().run_in_executor(self._readers, read)
        except ImageError as error:
            return RefusalError("unreadable_picture", str(error)[:300])
        try:
            caption = await asyncio.wrap_future(self._batcher.submit(job))
        except SeesayError as error:
            return RefusalError("invalid_options", str(error).removeprefix("decoding."))
        return Seen(width, height, caption)

    def _read(self, picture: PictureBytes, wish: Request) -> tuple[tuple[int, int], Wish]:
        with self.metrics.seconds.labels("read").time():
            size = check_header(picture)
            views, name = self.captioner.prepare(picture)
        return size, Wish(views, name, wish.options, wish.attention, wish.alternatives)

    def _work(self, jobs: Sequence[Wish], deliver: Callable[[int, Caption | Exception], None]) -> None:
        with self.metrics.seconds.labels("caption").time():
            caption_mixed(self.captioner, jobs, deliver)
