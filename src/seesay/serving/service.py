"""From uploads to captions: places, decoding of the files, and batches through the network."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image

from seesay.captioner import Caption, TrainedCaptioner
from seesay.errors import ConfigError, ImageError, SeesayError
from seesay.images import Preprocessing
from seesay.request_batching import CaptionRequest, generate_batch
from seesay.serving import limits
from seesay.serving.batching import Batcher
from seesay.serving.errors import ApiError
from seesay.serving.limits import Limits
from seesay.serving.requests import Request
from seesay.serving.telemetry import Metrics
from seesay.serving.uploads import check_header
from seesay.sources import ImageBytes

log = logging.getLogger("seesay.serving")


@dataclass(frozen=True)
class Seen:
    """An image with what was said of it.

    Attributes:
        width: of the upright image, in pixels.
        height: of the same.
        caption: what the model says.
    """

    width: int
    height: int
    caption: Caption


class CapacityLimiter:
    """A bound on what is done at a time; used by one event loop alone."""

    def __init__(self, size: int, full: str) -> None:
        self.size, self.taken, self._full = size, 0, full

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Takes places and gives them back, however what is done in them ends.

        Raises:
            ApiError: there are not so many left.
        """
        if self.taken + count > self.size:
            raise ApiError("busy", self._full, {"Retry-After": str(limits.RETRY_SECONDS)})
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count


class CaptionService:
    """A captioner that many requests share.

    A request holds a place for each of its images from the moment its body is here until it is answered, cancelled
    or given up; what takes longer to arrive or to be read by the client holds none.

    Args:
        captioner: one, or an ensemble.
        bounds: of the service.
        metrics: told what happens.

    Raises:
        ConfigError: the captioner cannot look at images.
    """

    def __init__(self, captioner: TrainedCaptioner, bounds: Limits, metrics: Metrics) -> None:
        self.captioner, self.limits, self.metrics = captioner, bounds, metrics
        self.pending = CapacityLimiter(
            bounds.max_pending, f"all {bounds.max_pending} places are taken; try again in {limits.RETRY_SECONDS} s"
        )
        self.pending_bytes = CapacityLimiter(
            limits.MAX_PENDING_BYTES, f"too many bytes wait already; try again in {limits.RETRY_SECONDS} s"
        )
        self.receiving = CapacityLimiter(
            bounds.max_receiving, f"too many bodies are on their way; try again in {limits.RETRY_SECONDS} s"
        )
        # The first image through a network takes longer than all others: it is an empty one, before the first client.
        self.has_attention = captioner.caption(Image.new("RGB", (64, 64)), attention=True).attention is not None
        self._readers = ThreadPoolExecutor(limits.READERS, "seesay-images")
        self._batcher: Batcher[CaptionRequest, Caption] = Batcher(
            self._work, bounds.max_batch, bounds.max_wait, metrics.batch_size.observe
        )
        metrics.pending.set_function(lambda: self.pending.taken)
        metrics.waiting.set_function(lambda: self._batcher.waiting)

    @property
    def name(self) -> str:
        """What the model is called: its run's folder, or all of them."""
        members: Sequence[TrainedCaptioner] = getattr(self.captioner, "members", [self.captioner])
        return "+".join(member.run.folder.resolve().name for member in members)

    @property
    def preprocessing(self) -> Preprocessing:
        """How the (first) encoder is shown an image."""
        encoder = self.captioner.model.encoder
        if encoder is None:
            raise ConfigError(f"{self.captioner.run.folder} has no encoder of its own and cannot look at images")
        return encoder.preprocessing

    @property
    def alive(self) -> bool:
        """Whether images are worked on."""
        return self._batcher.alive

    def close(self) -> None:
        """Finishes what was accepted, and ends."""
        self._readers.shutdown()
        self._batcher.close(self.limits.answer_seconds)

    def check(self, caption_request: Request) -> None:
        """Refuses words that the vocabulary cannot keep before any image is looked at.

        Raises:
            ApiError: such as a required word that the model does not know.
        """
        try:
            self.captioner.check(caption_request.options)
        except ConfigError as error:
            raise ApiError("invalid_options", str(error).removeprefix("decoding.")) from error

    async def caption(self, images: Sequence[ImageBytes | ApiError], caption_request: Request) -> list[Seen | ApiError]:
        """Returns each image with its caption, or why there is none.

        Raises:
            ApiError: no place is free, or the options cannot be kept.
        """
        size = sum(len(image.content) for image in images if isinstance(image, ImageBytes))
        with self.pending.hold(len(images)), self.pending_bytes.hold(size):
            await asyncio.get_running_loop().run_in_executor(self._readers, self.check, caption_request)
            return list(await asyncio.gather(*(self._caption_one(image, caption_request) for image in images)))

    async def _caption_one(self, image: ImageBytes | ApiError, caption_request: Request) -> Seen | ApiError:
        if isinstance(image, ApiError):
            return image
        try:
            read: Callable[[], tuple[tuple[int, int], CaptionRequest]] = lambda: self._read(image, caption_request)  # noqa: E731
            (width, height), job = await asyncio.get_running_loop().run_in_executor(self._readers, read)
        except ImageError as error:
            return ApiError("unreadable_image", str(error)[:300])
        try:
            caption = await asyncio.wrap_future(self._batcher.submit(job))
        except SeesayError as error:
            return ApiError("invalid_options", str(error).removeprefix("decoding."))
        return Seen(width, height, caption)

    def _read(self, image: ImageBytes, caption_request: Request) -> tuple[tuple[int, int], CaptionRequest]:
        with self.metrics.seconds.labels("read").time():
            size = check_header(image)
            model_inputs, name = self.captioner.prepare(image)
        return size, CaptionRequest(
            model_inputs, name, caption_request.options, caption_request.attention, caption_request.top_tokens
        )

    def _work(self, jobs: Sequence[CaptionRequest], deliver: Callable[[int, Caption | Exception], None]) -> None:
        with self.metrics.seconds.labels("caption").time():
            generate_batch(self.captioner, jobs, deliver)
