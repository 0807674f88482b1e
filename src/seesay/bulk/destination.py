"""Where a job's captions go: the options, and what contradicts what."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seesay.bulk.parquet_writer import ParquetWriter
from seesay.bulk.sinks import Descriptions, Existing, Place, Sidecars, Sink, require_files
from seesay.bulk.writers import CsvWriter, JsonlWriter, Needed, Writer
from seesay.data.readers.images import ImageListing
from seesay.errors import ConfigError, DataError
from seesay.files import require_suffix
from seesay.outputs import check_inputs, check_name

SUFFIXES = {".jsonl": "JSON lines", ".csv": "CSV", ".tsv": "TSV", ".parquet": "a folder of Parquet files"}


_NOT_TEXT = re.compile(
    r"\.(jsonl?|ndjson|csv|tsv|parquet|tar|zip|gz|npy|npz|html?|xml|xmp|ya?ml|safetensors)", re.IGNORECASE
)
"""Suffixes of files that hold more than a text; images are told by `ImageListing`."""


@dataclass(frozen=True)
class Destination:
    """Where captions go; several places at once if several are given.

    Attributes:
        out: a file or folder for all captions; its suffix, one of `SUFFIXES`, selects the format.
        sidecar: suffix of a text file beside each image; empty = none.
        embed: where in the image's own file its description goes; empty = nowhere.
        existing: what becomes of a text that is beside or inside an image already.
        before: put before every caption that goes beside or inside an image.
        after: put after it.
        errors: list of images without a caption; None = beside `out`, or nowhere where there is no `out`.
        strict: refuse to add to an `out` that another model or other options made, instead of warning.

    Raises:
        ConfigError: nothing is given, options contradict each other, or the suffix of `out` is unknown.
    """

    out: Path | None = None
    sidecar: str = ""
    embed: Place | Literal[""] = ""
    existing: Existing = "skip"
    before: str = ""
    after: str = ""
    errors: Path | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        beside = bool(self.sidecar or self.embed)
        if self.out is None and not beside:
            raise ConfigError("captions have nowhere to go; give --out, --sidecar or --embed")
        if self.out is not None:
            require_suffix(self.out, SUFFIXES, "--out")
        if self.sidecar and ("/" in self.sidecar or not self.sidecar.startswith(".")):
            raise ConfigError(f"--sidecar is the suffix of a text file, such as .txt, not {self.sidecar!r}")
        named = ImageListing.of([f"name{self.sidecar}"])
        if named.images or named.unsupported or _NOT_TEXT.fullmatch(Path(f"name{self.sidecar}").suffix):
            raise ConfigError(
                f"--sidecar {self.sidecar} is the suffix of images or data; name one of texts, such as .txt"
            )
        if not beside and (self.existing != "skip" or self.before or self.after):
            raise ConfigError("--existing, --before and --after need --sidecar or --embed, whose texts they are about")
        if self.existing != "skip" and self.out is None:
            raise ConfigError(
                f"--existing {self.existing} changes texts that are there; add --out FILE, which remembers whose were "
                "changed, so that a second run does not change them again"
            )

    @property
    def failures(self) -> Path | None:
        """Where images without a caption are listed."""
        if self.errors is not None or self.out is None:
            return self.errors
        return self.out.with_suffix(".errors.jsonl")

    @property
    def pending(self) -> Path | None:
        """Where the batch stands whose captions are being put beside or inside their images."""
        return None if self.out is None else self.out.with_name(f".{self.out.name}.pending")

    def check_inputs(self, inputs: Sequence[str]) -> None:
        """Refuses files of this destination that are inputs or contain them, and two of one name.

        Args:
            inputs: the images, or the sources that name them.

        Raises:
            DataError: an output is an input, contains one, or has no name of its own.
            ConfigError: `out` and `errors` are the same file.
        """
        for path, flag in ((self.out, "--out"), (self.errors, "--errors")):
            if path is not None:
                check_name(path, flag)
                check_inputs(path, inputs, flag)
        if self.out is not None and self.errors is not None and self.out.resolve() == self.errors.resolve():
            raise ConfigError(f"--errors {self.errors} is the file of --out; name another")
        if self.errors is not None and self.errors.is_dir():
            raise DataError(f"--errors {self.errors} is a folder; name a file")

    def text(self, captions: list[str]) -> str:
        """Returns what goes beside or inside an image: a line a caption."""
        return "\n".join(f"{self.before}{caption}{self.after}" for caption in captions)

    def output(self, wanted: int, needed: Needed) -> Writer | None:
        """Returns the file or folder for all captions.

        Args:
            wanted: captions an image.
            needed: tells whether an image, by its `plain` name, belongs to the job.
        """
        if self.out is None:
            return None
        suffix = self.out.suffix.lower()
        if suffix in (".csv", ".tsv"):
            return CsvWriter(self.out, wanted)
        if suffix == ".parquet":
            return ParquetWriter(self.out, wanted, needed)
        return JsonlWriter(self.out, wanted, needed)

    def sinks(self, images: Sequence[str]) -> list[Sink]:
        """Returns the places beside and inside images.

        Raises:
            DataError: an image has no file of its own.
        """
        found: list[Sink] = []
        if self.sidecar:
            require_files(images, "--sidecar")
            found.append(Sidecars(self.sidecar, self.existing))
        if self.embed:
            require_files(images, "--embed")
            found.append(Descriptions(self.embed, self.existing))
        return found
