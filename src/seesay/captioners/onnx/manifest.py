"""Contents and metadata of an exported folder.

encoder.onnx        images -> initial decoder state
decoder.onnx        one decoding step
tokenizer.json      vocabulary and cleaning rules
export.json         preprocessing, decoding options, source
README.txt          usage
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seesay.config import Config, resolve_config
from seesay.errors import CheckpointError
from seesay.images.loading import Preprocessing
from seesay.outputs import FolderKind

MANIFEST_FILE = "export.json"
ENCODER_FILE = "encoder.onnx"
DECODER_FILE = "decoder.onnx"
TOKENIZER_FILE = "tokenizer.json"
README_FILE = "README.txt"
_FORMAT = 1

REQUIREMENTS = ("cyclopts", "numpy", "onnxruntime", "pillow", "pydantic", "pyyaml", "rich", "safetensors", "tokenizers")
"""Packages that captioning with an export needs beside seesay, from Python or on the command line."""

EXPORT = FolderKind(
    "export",
    (ENCODER_FILE, DECODER_FILE, TOKENIZER_FILE, README_FILE, MANIFEST_FILE),
    signature=(MANIFEST_FILE, b'"seesay": "'),
)


@dataclass(frozen=True)
class Manifest:
    """Metadata of an exported captioner.

    Attributes:
        vocabulary_size: V.
        grid: (rows, columns) of the regions; None if they form no grid.
        max_length: default maximum number of words per caption.
        preprocessing: preprocessing of the encoder's input.
        decoding: the run's decoding options by name.
        decoder: name of the decoder.
        encoder: identity of the encoder (`Encoder.identity`).
        encoder_precision: float32 or int8.
        source: name of the run that was exported.
    """

    vocabulary_size: int
    grid: tuple[int, int] | None
    max_length: int
    preprocessing: Preprocessing
    decoding: dict[str, Any]
    decoder: str
    encoder: dict[str, Any]
    encoder_precision: str
    source: str

    @property
    def config(self) -> Config:
        """The default configuration with the run's decoding options.

        Raises:
            ConfigError: an unknown option or an invalid value.
        """
        return resolve_config(overrides=self._overrides())

    def to_json(self) -> str:
        """Return the content of `export.json`."""
        from seesay import __version__

        content = asdict(self) | {"preprocessing": self.preprocessing.to_dict()}
        return json.dumps({"format": _FORMAT, "seesay": __version__, **content}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Return the manifest of an exported folder.

        Raises:
            CheckpointError: the folder has no manifest, or it is damaged or of another version.
        """
        path = folder / MANIFEST_FILE
        if not path.is_file():
            raise CheckpointError(f"{folder} is not an exported captioner: it has no {MANIFEST_FILE}")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT:
                raise CheckpointError(f"{path} was written by another version of seesay; export the run again")
            content.pop("seesay")
            preprocessing, grid = Preprocessing.from_dict(content.pop("preprocessing")), content.pop("grid")
            manifest = cls(grid=tuple(grid) if grid else None, preprocessing=preprocessing, **content)
            resolve_config(overrides=manifest._overrides())
        except CheckpointError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path} is damaged ({reason}); export the run again") from error
        return manifest

    def _overrides(self) -> dict[str, Any]:
        return {f"decoding.{name}": value for name, value in self.decoding.items()}


def is_export(folder: str | Path) -> bool:
    """Return whether a folder holds an exported captioner."""
    return (Path(folder) / MANIFEST_FILE).is_file()
