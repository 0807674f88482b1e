"""Captioners: one interface over trained runs, ensembles and exported folders; `load_captioner` opens any of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seesay.errors import ConfigError

if TYPE_CHECKING:
    from seesay.captioners.base import Captioner

__all__ = ["load_captioner"]


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
    from seesay.captioners.onnx import OnnxCaptioner, is_export

    folders = [Path(model)] if isinstance(model, (str, Path)) else [Path(each) for each in model]
    if not any(map(is_export, folders)):
        from seesay.captioners.ensemble import load_runs  # imports torch

        return load_runs(folders, device)
    if len(folders) > 1:
        raise ConfigError("an exported captioner cannot be ensembled; pass one model, or the runs themselves")
    if device not in ("auto", "cpu"):
        raise ConfigError(f"an exported captioner runs on the CPU; drop device {device}, or pass the run")
    return OnnxCaptioner.load(folders[0])
