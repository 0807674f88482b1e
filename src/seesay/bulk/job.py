"""A job: pictures through a captioner, batch by batch, into every place that was asked for.

In the order in which it survives a kill: a batch's captions are noted as pending where a text beside or inside a
picture is to change; they are written to the output, then put beside or inside the pictures; the note goes. The
next job finishes what such a note tells of, and captions the pictures that the output does not hold.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from seesay.bulk.deposits import Deposit
from seesay.bulk.destination import Destination
from seesay.bulk.failures import Failures
from seesay.bulk.outputs import Output
from seesay.bulk.recipe import Recipe, record_recipe
from seesay.bulk.rows import Row, plain, texts
from seesay.caption import Caption, PictureCaptioner
from seesay.config import DecodingOptions
from seesay.errors import ImageError, SeesayError
from seesay.files import only_writer, write_atomically
from seesay.prefetch import usable_cores

Progress = Callable[[int, int], None]
"""Told of pictures done and pictures in all, after every batch."""

Complain = Callable[[str], None]
"""Told why a picture got no caption, once a picture and job."""

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
        """Pictures a second, those that cannot be read included."""
        return (self.captioned + self.failed) / self.seconds if self.seconds else 0.0


def caption_collection(
    captioner: PictureCaptioner,
    pictures: Sequence[str],
    destination: Destination,
    options: DecodingOptions | None = None,
    *,
    broken: dict[str, str] | None = None,
    batch_size: int = BATCH,
    threads: int = 0,
    progress: Progress | None = None,
    complain: Complain | None = None,
) -> BulkReport:
    """Captions what has no caption yet and returns what was done.

    Args:
        captioner: the model.
        pictures: their names, as `find_pictures` gives them.
        destination: where captions go.
        options: how to search; None = as the run says.
        broken: sources of which a part could not be read, and why; they go on the list of failures too.
        batch_size: pictures the network sees at once; a kill loses one batch at most.
        threads: that open pictures; 0 = as many as there are cores.
        progress: told of the pictures done.
        complain: told of each picture that gets no caption.

    Raises:
        DataError: an output that is something else, is being written to, or with `destination.strict` was made by
            another model or other options.
        SeesayError: the disk is full.
    """
    started = time.perf_counter()
    recipe = Recipe(captioner.folders, captioner.options(options))
    with ExitStack() as stack:
        job = _Job(destination, pictures, recipe, complain)
        todo = job.start(stack)
        for source, reason in (broken or {}).items():
            job.fail(source, reason)
        done = len(pictures) - len(todo)
        if progress:
            progress(done, len(pictures))
        found = captioner.caption_batches(
            todo, options, batch_size=batch_size, workers=threads or usable_cores(), attention=False
        )
        for batch in found:
            job.take((str(picture), caption) for picture, caption in batch)
            done += len(batch)
            if progress:
                progress(done, len(pictures))
        job.finish()
    skipped = len(pictures) - job.captioned - sum(picture in job.failed for picture in pictures)
    return BulkReport(job.captioned, skipped, len(job.failed), time.perf_counter() - started)


class _Job:
    """The state of a job on this machine."""

    def __init__(
        self, destination: Destination, pictures: Sequence[str], recipe: Recipe, complain: Complain | None
    ) -> None:
        destination.check_inputs(pictures)
        wanted = recipe.options.num_captions
        self.recipe = recipe
        self.destination = destination
        self.pictures = pictures
        self.complain = complain
        self.captioned = 0
        self.failed: set[str] = set()
        self._names = frozenset(map(plain, pictures)) if wanted > 1 else frozenset()
        self.output: Output | None = destination.output(wanted, self._names.__contains__)
        self.deposits: list[Deposit] = destination.deposits(pictures)
        self.failures = Failures(destination.failures)

    def start(self, stack: ExitStack) -> list[str]:
        """Returns the pictures to be captioned, after finishing what an earlier job has left behind."""
        done: set[str] = set()
        if self.output is not None:
            self.output.create()
            stack.enter_context(only_writer(self.output.path))
            done = self.output.open()
            todo = sum(plain(picture) not in done for picture in self.pictures)
            record_recipe(self.output.path, self.recipe, len(done), todo, strict=self.destination.strict)
        self.failures.open(done)
        if self.output is not None and self.deposits:
            self._finish_pending(done)
            self._put_missing(self.output)
        elif self.deposits:
            return [picture for picture in self.pictures if not self._settled(picture)]
        return [picture for picture in self.pictures if plain(picture) not in done]

    def take(self, batch: Iterable[tuple[str, Caption | ImageError]]) -> None:
        """Writes a batch everywhere; when this returns, a kill cannot undo it."""
        rows: list[Row] = []
        for picture, found in batch:
            if isinstance(found, ImageError):
                self.fail(picture, str(found))
            else:
                rows.append((picture, found))
        if not rows:
            return
        texts_of = {picture: self.destination.text(texts(caption)) for picture, caption in rows}
        noted = self._note_pending(texts_of)
        if self.output is not None:
            self.output.write(rows)
        for picture, text in texts_of.items():
            self._put(picture, text)
        self.captioned += sum(picture not in self.failed for picture, _ in rows)
        if noted is not None:
            noted.unlink(missing_ok=True)

    def finish(self) -> None:
        """Brings the files into their final form."""
        if self.output is not None:
            self.output.close()
        self.failures.close()

    def fail(self, picture: str, reason: str, *, unplaced: bool = False) -> None:
        """Notes a picture without a caption, or whose caption is only in the output."""
        self.failed.add(picture)
        self.failures.note(picture, reason, unplaced)
        if self.complain:
            self.complain(reason)

    def _put(self, picture: str, text: str) -> None:
        try:
            for deposit in self.deposits:
                deposit.put(picture, text)
        except SeesayError as error:
            self.fail(picture, str(error), unplaced=self.output is not None)
        else:
            self.failures.mended(picture)

    def _settled(self, picture: str) -> bool:
        return all(deposit.settled(picture) for deposit in self.deposits)

    def _note_pending(self, texts_of: dict[str, str]) -> Path | None:
        pending = self.destination.pending
        if pending is None or not self.deposits or self.destination.existing == "skip":
            return None
        write_atomically(pending, json.dumps(list(texts_of.items())).encode())
        return pending

    def _finish_pending(self, done: set[str]) -> None:
        """Puts the captions that a killed job had written to the output but perhaps not to the pictures."""
        pending = self.destination.pending
        if pending is None or not pending.exists():
            return
        for picture, text in json.loads(pending.read_bytes()):
            if plain(picture) in done:
                self._put(picture, text)
        pending.unlink()

    def _put_missing(self, output: Output) -> None:
        """Puts captions that the output holds where pictures lack them, or where they could not be put before."""
        skips = self.destination.existing == "skip"
        if not skips and not self.failures.unplaced:
            return
        names = {plain(picture): picture for picture in self.pictures}
        for name, captions in output.captions():
            picture = names.get(plain(name))
            if picture is None:
                continue
            if plain(name) in self.failures.unplaced or (skips and not self._settled(picture)):
                self._put(picture, self.destination.text(captions))
