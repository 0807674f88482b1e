"""A job: captions images batch by batch and writes the captions to every output.

The order of the writes makes a job resumable after a kill. If existing texts beside or inside images will change, a
batch's captions are first written to a pending file; then they are written to the output, then beside or inside the
images; then the pending file is deleted. The next job first completes a pending batch, then captions the images that
are not in the output.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from seesay.bulk.destination import Destination
from seesay.bulk.failures import Failures
from seesay.bulk.recipe import Recipe, record_recipe
from seesay.bulk.rows import Row, find_captioned, plain, texts
from seesay.bulk.sinks import Sink
from seesay.bulk.writers import Writer
from seesay.captioners.alt_text import Style, alt_text
from seesay.captioners.base import Captioner
from seesay.captioners.caption import Caption
from seesay.config import DecodingOptions
from seesay.errors import CaptionError, ImageError, SeesayError
from seesay.files import only_writer, write_atomically
from seesay.images.prefetch import usable_cores

ProgressCallback = Callable[[int, int], None]
"""Called with the number of finished images and of all images after every batch."""

ErrorCallback = Callable[[str], None]
"""Called with the reason for each image without a caption, once per image and job."""

BATCH_SIZE = 32


@dataclass(frozen=True)
class BulkReport:
    """Summary of a job.

    `captioned`, `skipped` and `failed` add up to the number of images plus the number of broken sources.

    Attributes:
        captioned: images captioned by this job, with all outputs written.
        skipped: images captioned by an earlier job.
        failed: unreadable images, images without a usable caption, images whose caption could not be written beside or
            inside them, and partly unreadable sources.
        rejected: number of images without a usable caption by reason (`seesay.captioners.guard`).
        blank: captioned images with an empty alt text.
        rewritten: texts beside or inside images that this job wrote from captions that were in the output before.
        seconds: wall time of this job.
        workers: number of tasks per worker, with several workers.
        usage: line about the resources that were used, see `Captioner.summary`; by one captioner since it was loaded.
    """

    captioned: int
    skipped: int
    failed: int
    seconds: float = 0.0
    workers: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    blank: int = 0
    rewritten: int = 0
    usage: str = ""

    @property
    def rate(self) -> float:
        """Images per second, including unreadable ones."""
        return (self.captioned + self.failed) / self.seconds if self.seconds else 0.0


def caption_collection(
    captioner: Captioner,
    images: Sequence[str],
    destination: Destination,
    options: DecodingOptions | None = None,
    *,
    guard: bool = True,
    style: Style = "plain",
    broken: dict[str, str] | None = None,
    batch_size: int = BATCH_SIZE,
    threads: int = 0,
    progress: ProgressCallback | None = None,
    print_error: ErrorCallback | None = None,
) -> BulkReport:
    """Caption the images that have no caption yet.

    Args:
        captioner: the model.
        images: image names from `find_images`.
        destination: outputs.
        options: decoding options; None = those of the run.
        guard: generate unusable captions once more, then list the image as failed instead of writing its caption.
        style: plain or alt-text; alt text is written in place of the caption, empty for blank images.
        broken: partly unreadable sources -> reason; added to the list of failures.
        batch_size: images per batch; a kill loses at most one batch.
        threads: number of threads that read images; 0 = number of cores.
        progress: called after every batch.
        print_error: called for each image without a caption.

    Raises:
        DataError: an output has another format, is being written by another process, or, with `destination.strict`,
            was made by another model or other options.
        SeesayError: the disk is full.
    """
    started = time.perf_counter()
    recipe = Recipe(captioner.identities(), captioner.options(options), style, captioner.prompt_text)
    with ExitStack() as stack:
        job = _Job(destination, images, recipe, print_error)
        todo = job.start(stack)
        for source, reason in (broken or {}).items():
            job.fail(source, reason)
        done = len(images) - len(todo)
        if progress:
            progress(done, len(images))
        found = captioner.caption_batches(
            todo, options, guard=guard, style=style, batch_size=batch_size, workers=threads or usable_cores()
        )
        for batch in found:
            job.add_batch((str(image), caption) for image, caption in batch)
            done += len(batch)
            if progress:
                progress(done, len(images))
        job.finish()
    skipped = len(images) - job.captioned - sum(image in job.failed for image in images)
    seconds = time.perf_counter() - started
    return BulkReport(
        job.captioned,
        skipped,
        len(job.failed),
        seconds,
        rejected=job.rejected,
        blank=job.blank,
        rewritten=job.rewritten,
        usage=captioner.summary(),
    )


class _Job:
    """State of a job on this machine."""

    def __init__(
        self, destination: Destination, images: Sequence[str], recipe: Recipe, print_error: ErrorCallback | None
    ) -> None:
        destination.check_inputs(images)
        num_captions = recipe.options.num_return_sequences
        self.recipe = recipe
        self.destination = destination
        self.images = images
        self.print_error = print_error
        self.captioned = self.blank = self.rewritten = 0
        self.rejected: Counter[str] = Counter()
        self.failed: set[str] = set()
        self._names = frozenset(map(plain, images)) if num_captions > 1 else frozenset()
        self.output: Writer | None = destination.output(num_captions, self._names.__contains__)
        self.sinks: list[Sink] = destination.sinks(images)
        self.failures = Failures(destination.failures)

    def start(self, stack: ExitStack) -> list[str]:
        """Complete the pending batch of an earlier job and return the images without a caption."""
        if self.output is None:
            self.failures.open(set())
            return [image for image in self.images if not self._is_done(image)]
        self.output.create()
        stack.enter_context(only_writer(self.output.path))
        done = self.output.open()
        captioned = find_captioned(self.images, done, self.output.path.parent)
        kept = set(captioned.values())
        todo = [image for image in self.images if image not in kept]
        record_recipe(self.output.path, self.recipe, len(done), len(todo), strict=self.destination.strict)
        self.failures.open(done)
        if self.sinks:
            self._finish_pending(done)
            self._write_missing(self.output, captioned)
            self._write_corrections(self.output, captioned)
        return todo

    def add_batch(self, batch: Iterable[tuple[str, Caption | ImageError]]) -> None:
        """Write a batch to all outputs; once this returns, a kill cannot lose it."""
        rows: list[Row] = []
        for image, found in batch:
            if isinstance(found, ImageError):
                self.fail(image, str(found))
                if isinstance(found, CaptionError):
                    self.rejected[found.reason] += 1
            else:
                rows.append((image, found))
        if not rows:
            return
        texts_of = {image: self.destination.text(texts(caption)) for image, caption in rows}
        pending = self._record_pending(texts_of)
        if self.output is not None:
            self.output.write(rows)
        for image, text in texts_of.items():
            self._write_sinks(image, text)
        written = [caption for image, caption in rows if image not in self.failed]
        self.captioned += len(written)
        if self.recipe.style == "alt-text":
            self.blank += sum(not caption.text for caption in written)
        if pending is not None:
            pending.unlink(missing_ok=True)

    def finish(self) -> None:
        """Finish the outputs."""
        if self.output is not None:
            self.output.close()
        self.failures.close()

    def fail(self, image: str, reason: str, *, unwritten: bool = False) -> None:
        """Record an image without a caption, or whose caption is only in the output."""
        self.failed.add(image)
        self.failures.add(image, reason, unwritten)
        if self.print_error:
            self.print_error(reason)

    def _write_sinks(self, image: str, text: str, sinks: Sequence[Sink] | None = None) -> bool:
        """Write a text beside and inside an image, or to `sinks` only; return whether anything changed."""
        try:
            changed = [sink.write(image, text) for sink in (self.sinks if sinks is None else sinks)]
        except SeesayError as error:
            self.fail(image, str(error), unwritten=self.output is not None)
            return False
        self.failures.resolve(image)
        return any(changed)

    def _is_done(self, image: str) -> bool:
        return all(text for sink in self.sinks for text in sink.texts(image))

    def _record_pending(self, texts_of: dict[str, str]) -> Path | None:
        pending = self.destination.pending
        if pending is None or not self.sinks or self.destination.existing == "skip":
            return None
        write_atomically(pending, json.dumps(list(texts_of.items())).encode())
        return pending

    def _finish_pending(self, done: set[str]) -> None:
        """Write the captions of a pending batch that are in the output to the images."""
        pending = self.destination.pending
        if pending is None or not pending.exists():
            return
        for image, text in json.loads(pending.read_bytes()):
            if plain(image) in done:
                self._write_sinks(image, text)
        pending.unlink()

    def _write_missing(self, output: Writer, captioned: Mapping[str, str]) -> None:
        """Write captions of the output to images that lack them, or where an earlier write failed.

        Args:
            output: the output.
            captioned: images of the job by their name in the output.
        """
        skips = self.destination.existing == "skip"
        if not skips and not self.failures.unwritten:
            return
        for name, captions in output.captions():
            image = captioned.get(plain(name))
            if image is None:
                continue
            if plain(name) in self.failures.unwritten or (skips and not self._is_done(image)):
                self.rewritten += self._write_sinks(image, self._text(captions))

    def _write_corrections(self, output: Writer, captioned: Mapping[str, str]) -> None:
        """Replace model captions beside and inside images by the corrected ones; other texts are kept.

        Args:
            output: the output.
            captioned: images of the job by their name in the output.
        """
        sinks = replace(self.destination, existing="overwrite").sinks(self.images)
        for name, before, after in output.corrections():
            image = captioned.get(plain(name))
            if image is None:
                continue
            old = self._text(before).strip()
            changing = [sink for sink in sinks if set(sink.texts(image)) == {old}]
            self.rewritten += self._write_sinks(image, self._text(after), changing)

    def _text(self, captions: Iterable[str]) -> str:
        """Return the text beside or inside an image for captions of the output."""
        styled = map(alt_text, captions) if self.recipe.style == "alt-text" else captions
        return self.destination.text(list(styled))
