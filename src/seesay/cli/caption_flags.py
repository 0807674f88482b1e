"""Flags of `seesay caption`: images, outputs, and where the job runs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from seesay.captioners.prompts import check_variables
from seesay.cli.console import print_note
from seesay.cli.options import COMMON
from seesay.cli.parameters import CaptionerFlags
from seesay.errors import ConfigError, DataError

if TYPE_CHECKING:
    from seesay.bulk import Destination, ImageList


@dataclass(frozen=True)
class ImageFlags:
    """Which images are captioned, and how they are loaded.

    Attributes:
        column: image column of tables [default: the first column with a usual name].
        batch_size: images per batch.
        threads: threads that load images; 0: one per CPU core.
    """

    column: Annotated[str, COMMON] = ""
    batch_size: Annotated[int, COMMON] = 32
    threads: int = 0

    def find(self, sources: Sequence[str], captioner_flags: CaptionerFlags) -> "ImageList":
        """Return the images of the sources, with the columns of tables that the prompt uses.

        Raises:
            ConfigError: the prompt has an unknown variable, or a flag is out of range.
            DataError: there is no source, or one cannot be read.
        """
        from seesay import bulk

        found = bulk.find_images(sources, self.column, captioner_flags.prompt_variables())
        if captioner_flags.prompt:
            check_variables(captioner_flags.prompt, found.column_names)
        if remark := found.remark():
            print_note(remark)
        return found


@dataclass(frozen=True)
class OutputFlags:
    """Where captions are written, instead of being printed.

    Attributes:
        out: file to append to, by its suffix .jsonl, .csv, .tsv or .parquet (a folder); its images are skipped.
        sidecar: suffix of a text file per image, such as .txt or .caption.
        embed: write the caption into the metadata of each image file; pixels are unchanged.
        existing: action for images that already have a sidecar or embedded text.
        before: text before each sidecar or embedded caption.
        after: text after each sidecar or embedded caption.
        errors: file that lists failed images with reasons [default: OUT.errors.jsonl; without --out
            captions-XXXXXXXX.errors.jsonl in the current folder, with a digest of the sources and flags].
        strict: fail instead of warning if --out was written by another model or with other options.
    """

    out: Annotated[Path | None, COMMON] = None
    sidecar: Annotated[str, COMMON] = ""
    embed: Annotated[Literal["", "xmp", "exif", "both"], COMMON] = ""
    existing: Annotated[Literal["skip", "overwrite", "append", "prefix", "suffix"], COMMON] = "skip"
    before: str = ""
    after: str = ""
    errors: Path | None = None
    strict: bool = False

    def destination(self, sources: Sequence[str], *, required: bool) -> "Destination | None":
        """Return the outputs, after the check that they are no inputs; None: captions are printed.

        Raises:
            ConfigError: flags contradict each other, or there is no output although one is required.
            DataError: an output is a source or contains one.
        """
        if self.out is None and not (self.sidecar or self.embed or self.strict or required):
            return None
        from seesay.bulk import Destination

        destination = Destination(**asdict(self))
        destination.check_inputs(sources)
        return destination

    def with_failures(
        self, destination: "Destination", sources: Sequence[str], found: "ImageList", column: str
    ) -> "Destination":
        """Return the outputs with a list of failures, whose default name without --out depends on the job."""
        from seesay.bulk import default_failures_path

        if destination.failures is not None:
            return destination
        path = default_failures_path(sources, found.images, column, self.sidecar, self.embed)
        return replace(destination, errors=path)


@dataclass(frozen=True)
class EngineFlags:
    """Where a job runs.

    Attributes:
        engine: local, or Ray Data on this machine or a cluster (writes a folder of Parquet files).
        ray_address: address of a running Ray cluster [default: start a local one for the job].
        ray_workers: number of workers, each with its own model; 0: one per GPU, or one per four cores.
    """

    engine: Annotated[Literal["local", "ray"], COMMON] = "local"
    ray_address: str = ""
    ray_workers: int = 0


def check_job(sources: Sequence[str], images: ImageFlags, engine: EngineFlags) -> None:
    """Check the flags of a job before any work.

    Raises:
        ConfigError: a value is out of range, or flags of Ray are given without it.
        DataError: there is no source.
    """
    if not sources:
        raise DataError("name at least one image, folder, glob or URL to caption")
    if images.batch_size < 1 or images.threads < 0 or engine.ray_workers < 0:
        raise ConfigError("--batch-size must be at least 1, --threads and --ray-workers at least 0")
    if engine.engine == "local" and (engine.ray_address or engine.ray_workers):
        raise ConfigError("--ray-address and --ray-workers need --engine ray; add it or drop them")
