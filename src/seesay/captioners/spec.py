"""`ModelSpec`: which models generate captions, and where they run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seesay.errors import ConfigError

if TYPE_CHECKING:
    from seesay.captioners.base import Captioner


@dataclass(frozen=True)
class ModelSpec:
    """Everything that is needed to load a captioner, here or in another process.

    Attributes:
        models: a run folder, an exported folder, or several runs that share a vocabulary.
        device: auto, cpu, cuda or mps; an exported folder runs on the CPU.
    """

    models: tuple[str, ...]
    device: str = "auto"

    def load(self) -> "Captioner":
        """Return the captioner; see `load_captioner`."""
        from seesay.captioners.onnx import OnnxCaptioner, is_export

        folders = [Path(each) for each in self.models]
        if not any(map(is_export, folders)):
            from seesay.captioners.ensemble import load_runs  # imports torch

            return load_runs(folders, self.device)
        if len(folders) > 1:
            raise ConfigError("an exported captioner cannot be ensembled; pass one model, or the runs themselves")
        if self.device not in ("auto", "cpu"):
            raise ConfigError(f"an exported captioner runs on the CPU; drop device {self.device}, or pass the run")
        return OnnxCaptioner.load(folders[0])


def load_captioner(model: str | Path | Sequence[str | Path], device: str = "auto") -> "Captioner":
    """Return the captioner of a run folder or of an exported folder, or the ensemble of several run folders.

    An exported folder needs neither torch nor a run.

    Args:
        model: the folder, or several runs that share a vocabulary.
        device: auto, cpu, cuda or mps; an exported folder runs on the CPU.

    Raises:
        ConfigError: several models include an exported folder, an exported folder should run on another device than
            the CPU, or the vocabularies differ.
        CheckpointError: a folder has neither a run nor an export, or it is damaged.
        MissingDependencyError: a library that the model needs is not installed.
    """
    models = (model,) if isinstance(model, (str, Path)) else model
    return ModelSpec(tuple(map(str, models)), device).load()
