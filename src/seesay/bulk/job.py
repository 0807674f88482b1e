"""A job: images through a captioner, batch by batch, into every place that was asked for.

In the order in which it survives a kill: a batch's captions are noted as pending where a text beside or inside a
image is to change; they are written to the output, then put beside or inside the images; the note goes. The
next job finishes what such a note tells of, and captions the images that the output does not hold.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from seesay.bulk.destination import Destination
from seesay.bulk.failures import Failures
from seesay.bulk.recipe import Recipe, record_recipe
from seesay.bulk.rows import Row, plain, texts
from seesay.bulk.sinks import Sink
from seesay.bulk.writers import Writer
from seesay.caption import Caption, Captioner
from seesay.config import DecodingOptions
from seesay.errors import ImageError, SeesayError
from seesay.files import only_writer, write_atomically
from seesay.prefetch import usable_cores

Progress = Callable[[int, int], None]
"""Told of images done and images in all, after every batch."""

Complain = Callable[[str], None]
"""Told why an image got no caption, once an image and job."""

BATCH = 32


@dataclass(frozen=True)
class BulkReport:
    """What a job did.

    Every image is counted once: `captioned`, `skipped` and `failed` add up to the images of the job and the sources
    that are broken.

    Attributes:
        captioned: images captioned now, whose caption was written everywhere it was to be.
        skipped: images that had been captioned before.
        failed: images that could not be read, or whose caption could not be put beside or inside them; and sources
            of which a part could not be read.
        seconds: wall time of this job.
        workers: tasks that each worker did, where there were several.
    """

    captioned: int
    skipped: int
    failed: int
    seconds: float = 0.0
    workers: Mapping[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Images a second, those that cannot be read included."""
        return (self.captioned + self.failed) / self.seconds if self.seconds else 0.0


def caption_collection(
    captioner: Captioner,
    images: Sequence[str],
    destination: Destination,
    options: DecodingOptions | None = None,
    *,
    broken: dict[str, str] | None = None,
    batch_size: int = BATCH,
    threads: int = 0,
    progress: Progress | None = None,
    print_error: Complain | None = None,
) -> BulkReport:
    """Captions what has no caption yet and returns what was done.

    Args:
        captioner: the model.
        images: their names, as `find_images` gives them.
        destination: where captions go.
        options: how to search; None = as the run says.
        broken: sources of which a part could not be read, and why; they go on the list of failures too.
        batch_size: images the network sees at once; a kill loses one batch at most.
        threads: that open images; 0 = as many as there are cores.
        progress: told of the images done.
        print_error: told of each image that gets no caption.

    Raises:
        DataError: an output that is something else, is being written to, or with `destination.strict` was made by
            another model or other options.
        SeesayError: the disk is full.
    """
    started = time.perf_counter()
    recipe = Recipe(captioner.folders, captioner.options(options))
    with ExitStack() as stack:
        job = _Job(destination, images, recipe, print_error)
        todo = job.start(stack)
        for source, reason in (broken or {}).items():
            job.fail(source, reason)
        done = len(images) - len(todo)
        if progress:
            progress(done, len(images))
        found = captioner.caption_batches(
            todo, options, batch_size=batch_size, workers=threads or usable_cores(), attention=False
        )
        for batch in found:
            job.take((str(image), caption) for image, caption in batch)
            done += len(batch)
            if progress:
                progress(done, len(images))
        job.finish()
    skipped = len(images) - job.captioned - sum(image in job.failed for image in images)
    return BulkReport(job.captioned, skipped, len(job.failed), time.perf_counter() - started)


class _Job:
    """The state of a job on this machine."""

    def __init__(
        self, destination: Destination, images: Sequence[str], recipe: Recipe, print_error: Complain | None
    ) -> None:
        destination.check_inputs(images)
        wanted = recipe.options.num_return_sequences
        self.recipe = recipe
        self.destination = destination
        self.images = images
        self.print_error = print_error
        self.captioned = 0
        self.failed: set[str] = set()
        self._names = frozenset(map(plain, images)) if wanted > 1 else frozenset()
        self.output: Writer | None = destination.output(wanted, self._names.__contains__)
        self.sinks: list[Sink] = destination.sinks(images)
        self.failures = Failures(destination.failures)

    def start(self, stack: ExitStack) -> list[str]:
        """Returns the images to be captioned, after finishing what an earlier job has left behind."""
        done: set[str] = set()
        if self.output is not None:
            self.output.create()
            stack.enter_context(only_writer(self.output.path))
            done = self.output.open()
            todo = sum(plain(image) not in done for image in self.images)
            record_recipe(self.output.path, self.recipe, len(done), todo, strict=self.destination.strict)
        self.failures.open(done)
        if self.output is not None and self.sinks:
            self._finish_pending(done)
            self._put_missing(self.output)
        elif self.sinks:
            return [image for image in self.images if not self._is_done(image)]
        return [image for image in self.images if plain(image) not in done]

    def take(self, batch: Iterable[tuple[str, Caption | ImageError]]) -> None:
        """Writes a batch everywhere; when this returns, a kill cannot undo it."""
        rows: list[Row] = []
        for image, found in batch:
            if isinstance(found, ImageError):
                self.fail(image, str(found))
            else:
                rows.append((image, found))
        if not rows:
            return
        texts_of = {image: self.destination.text(texts(caption)) for image, caption in rows}
        noted = self._note_pending(texts_of)
        if self.output is not None:
            self.output.write(rows)
        for image, text in texts_of.items():
            self._put(image, text)
        self.captioned += sum(image not in self.failed for image, _ in rows)
        if noted is not None:
            noted.unlink(missing_ok=True)

    def finish(self) -> None:
        """Brings the files into their final form."""
        if self.output is not None:
            self.output.close()
        self.failures.close()

    def fail(self, image: str, reason: str, *, unwritten: bool = False) -> None:
        """Notes an image without a caption, or whose caption is only in the output."""
        self.failed.add(image)
        self.failures.note(image, reason, unwritten)
        if self.print_error:
            self.print_error(reason)

    def _put(self, image: str, text: str) -> None:
        try:
            for sink in self.sinks:
                sink.put(image, text)
        except SeesayError as error:
            self.fail(image, str(error), unwritten=self.output is not None)
        else:
            self.failures.mended(image)

    def _is_done(self, image: str) -> bool:
        return all(sink.is_done(image) for sink in self.sinks)

    def _note_pending(self, texts_of: dict[str, str]) -> Path | None:
        pending = self.destination.pending
        if pending is None or not self.sinks or self.destination.existing == "skip":
            return None
        write_atomically(pending, json.dumps(list(texts_of.items())).encode())
        return pending

    def _finish_pending(self, done: set[str]) -> None:
        """Puts the captions that a killed job had written to the output but perhaps not to the images."""
        pending = self.destination.pending
        if pending is None or not pending.exists():
            return
        for image, text in json.loads(pending.read_bytes()):
            if plain(image) in done:
                self._put(image, text)
        pending.unlink()

    def _put_missing(self, output: Writer) -> None:
        """Puts captions that the output holds where images lack them, or where they could not be put before."""
        skips = self.destination.existing == "skip"
        if not skips and not self.failures.unwritten:
            return
        names = {plain(image): image for image in self.images}
        for name, captions in output.captions():
            image = names.get(plain(name))
            if image is None:
                continue
            if plain(name) in self.failures.unwritten or (skips and not self._is_done(image)):
                self._put(image, self.destination.text(captions))
