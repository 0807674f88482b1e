"""From uploads to captions: capacity limits, image decoding and batching."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from seesay.captioners.base import Captioner
from seesay.captioners.batching import CaptionRequest, generate_batch
from seesay.captioners.caption import Caption, CaptionSettings
from seesay.errors import ConfigError, EndpointError, ImageError, SeesayError
from seesay.images.sources import ImageBytes
from seesay.serving import limits
from seesay.serving.batching import Batcher
from seesay.serving.errors import ApiError
from seesay.serving.limits import Limits
from seesay.serving.telemetry import Metrics
from seesay.serving.uploads import check_header

log = logging.getLogger("seesay.serving")


@dataclass(frozen=True)
class CaptionedImage:
    """An image and its caption.

    Attributes:
        width: of the upright image, in pixels.
        height: of the upright image, in pixels.
        caption: the generated caption.
    """

    width: int
    height: int
    caption: Caption


class CapacityLimiter:
    """A limit on concurrent work; for use within one event loop."""

    def __init__(self, size: int, full: str) -> None:
        self.size, self.taken, self._full = size, 0, full

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Reserve `count` places while the context is active.

        Raises:
            ApiError: fewer than `count` places are free.
        """
        if self.taken + count > self.size:
            raise ApiError("busy", self._full, {"Retry-After": str(limits.RETRY_SECONDS)})
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count


class CaptionService:
    """A captioner shared by concurrent requests.

    A request occupies one place per image from the arrival of its body until it is answered, cancelled or timed out;
    slow uploads and slowly read responses occupy none.

    Args:
        captioner: any captioner.
        bounds: limits of the service.
        metrics: updated by the service.

    Raises:
        ConfigError: the captioner has no encoder.
    """

    def __init__(self, captioner: Captioner, bounds: Limits, metrics: Metrics) -> None:
        self.captioner, self.limits, self.metrics = captioner, bounds, metrics
        self.started = int(time.time())
        self.pending = CapacityLimiter(
            bounds.max_pending,
            f"the queue is full ({bounds.max_pending} images); try again in {limits.RETRY_SECONDS} s",
        )
        self.pending_bytes = CapacityLimiter(
            limits.MAX_PENDING_BYTES, f"too many bytes are queued; try again in {limits.RETRY_SECONDS} s"
        )
        self.receiving = CapacityLimiter(
            bounds.max_receiving, f"too many requests are being received; try again in {limits.RETRY_SECONDS} s"
        )
        self.has_attention = captioner.warm_up()
        self._readers = ThreadPoolExecutor(limits.READERS, "seesay-images")
        self._batcher: Batcher[CaptionRequest, Caption] = Batcher(
            self._work, bounds.max_batch, bounds.max_wait, metrics.batch_size.observe
        )
        metrics.pending.set_function(lambda: self.pending.taken)
        metrics.waiting.set_function(lambda: self._batcher.waiting)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.captioner.name

    @property
    def alive(self) -> bool:
        """Whether the batching thread is running."""
        return self._batcher.alive

    def close(self) -> None:
        """Finish accepted requests, then stop."""
        self._readers.shutdown()
        self._batcher.close(self.limits.answer_seconds)

    def check(self, settings: CaptionSettings) -> None:
        """Check prompt and options, before any image is decoded.

        Raises:
            ApiError: for example, a required word is not in the vocabulary, or the model takes no prompt.
        """
        try:
            self.captioner.check_prompt(settings.prompt)
            self.captioner.check(self.captioner.options(settings.options, settings.prompt))
        except ConfigError as error:
            raise ApiError("invalid_options", str(error).removeprefix("decoding.")) from error

    async def require_available(self) -> None:
        """Check that the model server of the captioner, if there is one, can be reached.

        Raises:
            ApiError: it cannot.
        """
        if reason := await asyncio.get_running_loop().run_in_executor(None, self.captioner.unavailable):
            log.error("%s", reason)
            raise _model_server_error()

    async def caption(
        self, images: Sequence[ImageBytes | ApiError], settings: CaptionSettings
    ) -> list[CaptionedImage | ApiError]:
        """Return each image with its caption, or the reason why there is none.

        Raises:
            ApiError: the queue is full, the options are invalid, or the model server cannot be reached.
        """
        size = sum(len(image.content) for image in images if isinstance(image, ImageBytes))
        with self.pending.hold(len(images)), self.pending_bytes.hold(size):
            await asyncio.get_running_loop().run_in_executor(self._readers, self.check, settings)
            await self.require_available()
            return list(await asyncio.gather(*(self._caption_one(image, settings) for image in images)))

    async def _caption_one(self, image: ImageBytes | ApiError, settings: CaptionSettings) -> CaptionedImage | ApiError:
        if isinstance(image, ApiError):
            return image
        try:
            read: Callable[[], tuple[tuple[int, int], CaptionRequest]] = lambda: self._read(image, settings)  # noqa: E731
            (width, height), job = await asyncio.get_running_loop().run_in_executor(self._readers, read)
        except ImageError as error:
            return ApiError("unreadable_image", str(error)[:300])
        try:
            caption = await asyncio.wrap_future(self._batcher.submit(job))
        except ImageError as error:
            return ApiError("unreadable_image", str(error)[:300])
        except EndpointError as error:
            log.error("%s", error)
            return _model_server_error()
        except SeesayError as error:
            return ApiError("invalid_options", str(error).removeprefix("decoding."))
        return CaptionedImage(width, height, caption)

    def _read(self, image: ImageBytes, settings: CaptionSettings) -> tuple[tuple[int, int], CaptionRequest]:
        with self.metrics.seconds.labels("read").time():
            size = check_header(image)
            loaded = self.captioner.prepare(image, settings)
        return size, CaptionRequest(loaded, settings)

    def _work(self, jobs: Sequence[CaptionRequest], deliver: Callable[[int, Caption | Exception], None]) -> None:
        with self.metrics.seconds.labels("caption").time():
            generate_batch(self.captioner, jobs, deliver)


def _model_server_error() -> ApiError:
    # Without the reason, which has the address of the server.
    message = "the model server cannot be used; try again later (the service log has the reason)"
    return ApiError("model_server", message, {"Retry-After": str(limits.RETRY_SECONDS)})
