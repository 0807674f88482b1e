"""Options of a job's outputs, and their validation."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from seesay.bulk.parquet_writer import ParquetWriter
from seesay.bulk.sinks import Descriptions, EmbedField, Existing, Sidecars, Sink, require_files
from seesay.bulk.writers import CsvWriter, InJob, JsonlWriter, Writer
from seesay.data.readers.images import ImageListing
from seesay.errors import ConfigError, DataError, core_dependencies
from seesay.files import require_suffix
from seesay.outputs import check_inputs, check_name

SUFFIXES = {".jsonl": "JSON lines", ".csv": "CSV", ".tsv": "TSV", ".parquet": "a folder of Parquet files"}

_NOT_TEXT = re.compile(
    r"\.(jsonl?|ndjson|csv|tsv|parquet|tar|zip|gz|npy|npz|html?|xml|xmp|ya?ml|safetensors)", re.IGNORECASE
)
"""Suffixes of files that are no plain text; `ImageListing` recognises images."""


@dataclass(frozen=True)
class Destination:
    """Outputs of a job; several may be set.

    Attributes:
        out: file or folder for all captions; its suffix, one of `SUFFIXES`, selects the format.
        sidecar: suffix of a text file per image; empty = none.
        embed: metadata field in the image file for the caption; empty = none.
        existing: what to do with an existing text beside or inside an image.
        before: prefix of every caption beside or inside an image.
        after: suffix of every caption beside or inside an image.
        errors: list of images without a caption; None = beside `out`, or none without `out`.
        strict: fail instead of warning if another model or other options made `out`.

    Raises:
        ConfigError: no output, contradicting options, or an unknown suffix of `out`.
        MissingDependencyError: `out` is a folder of Parquet files, and pyarrow is not installed.
    """

    out: Path | None = None
    sidecar: str = ""
    embed: EmbedField | Literal[""] = ""
    existing: Existing = "skip"
    before: str = ""
    after: str = ""
    errors: Path | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        beside = bool(self.sidecar or self.embed)
        if self.out is None and not beside:
            raise ConfigError("no output for the captions; give --out, --sidecar or --embed")
        if self.out is not None:
            require_suffix(self.out, SUFFIXES, "--out")
            if self.out.suffix.lower() == ".parquet":
                with core_dependencies(f"--out {self.out}"):  # here, because it is first used after thousands of images
                    import_module("pyarrow.parquet")
        if self.sidecar and ("/" in self.sidecar or not self.sidecar.startswith(".")):
            raise ConfigError(f"--sidecar is a suffix with its dot, such as .txt, not {self.sidecar!r}")
        listing = ImageListing.of([f"name{self.sidecar}"])
        if listing.images or listing.unsupported or _NOT_TEXT.fullmatch(Path(f"name{self.sidecar}").suffix):
            raise ConfigError(
                f"--sidecar {self.sidecar} is a suffix of images or data; use one of text files, such as .txt"
            )
        if not beside and (self.existing != "skip" or self.before or self.after):
            raise ConfigError("--existing, --before and --after apply to --sidecar or --embed; give one of these")
        if self.existing != "skip" and self.out is None:
            raise ConfigError(
                f"--existing {self.existing} changes existing texts; add --out FILE, which records the changed ones, "
                "so that a second run does not change them again"
            )

    @property
    def failures(self) -> Path | None:
        """File that lists images without a caption."""
        if self.errors is not None or self.out is None:
            return self.errors
        return self.out.with_suffix(".errors.jsonl")

    @property
    def pending(self) -> Path | None:
        """File with the captions of the batch that is being written beside or inside its images."""
        return None if self.out is None else self.out.with_name(f".{self.out.name}.pending")

    def check_inputs(self, inputs: Sequence[str]) -> None:
        """Check that no output is an input or contains one, and that the outputs differ.

        Args:
            inputs: the images, or the sources that list them.

        Raises:
            DataError: an output is an input, contains one, or has no name.
            ConfigError: `out` and `errors` are the same file.
        """
        for path, flag in ((self.out, "--out"), (self.errors, "--errors")):
            if path is not None:
                check_name(path, flag)
                check_inputs(path, inputs, flag)
        if self.out is not None and self.errors is not None and self.out.resolve() == self.errors.resolve():
            raise ConfigError(f"--errors {self.errors} is the same file as --out; choose another")
        if self.errors is not None and self.errors.is_dir():
            raise DataError(f"--errors {self.errors} is a folder; choose a file")

    def text(self, captions: list[str]) -> str:
        """Return the text to write beside or inside an image: one line per caption that is not empty."""
        return "\n".join(f"{self.before}{caption}{self.after}" for caption in captions if caption)

    def output(self, num_captions: int, in_job: InJob) -> Writer | None:
        """Return the writer of the file or folder for all captions.

        Args:
            num_captions: captions per image.
            in_job: returns whether an image, by its `plain` name, belongs to the job.
        """
        if self.out is None:
            return None
        suffix = self.out.suffix.lower()
        if suffix in (".csv", ".tsv"):
            return CsvWriter(self.out, num_captions)
        if suffix == ".parquet":
            return ParquetWriter(self.out, num_captions, in_job)
        return JsonlWriter(self.out, num_captions, in_job)

    def sinks(self, images: Sequence[str]) -> list[Sink]:
        """Return the outputs beside and inside images.

        Raises:
            DataError: an image is not a file.
        """
        sinks: list[Sink] = []
        if self.sidecar:
            require_files(images, "--sidecar")
            sinks.append(Sidecars(self.sidecar, self.existing))
        if self.embed:
            require_files(images, "--embed")
            sinks.append(Descriptions(self.embed, self.existing))
        return sinks
