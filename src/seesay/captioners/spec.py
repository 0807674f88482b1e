"""`ModelSpec`, which loads the captioner of its settings, and `load_captioner`."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seesay.captioners.settings import ModelSettings, check_keywords
from seesay.errors import ConfigError, core_dependencies
from seesay.files import exists

if TYPE_CHECKING:
    from seesay.captioners.base import Captioner
    from seesay.captioners.pretrained.download import ModelFiles


class ModelSpec(ModelSettings):
    """Settings of a model that can be loaded."""

    @core_dependencies("this model")
    def load(self) -> "Captioner":
        """Return the captioner; see `load_captioner`."""
        from seesay.captioners.onnx import OnnxCaptioner, is_export

        if self.endpoint:
            from seesay.captioners.endpoint import EndpointCaptioner

            return EndpointCaptioner.connect(self)
        found = {model: self._find_files(model) for model in self.models if is_hub_name(model)}
        if runs := {model: str(files.folder) for model, files in found.items() if files.is_run}:
            return replace(self, models=tuple(runs.get(model, model) for model in self.models)).load()
        folders = [Path(each) for each in self.models]
        if len(folders) == 1 and not is_export(folders[0]) and is_pretrained(self.models[0]):
            from seesay.captioners.pretrained import load_pretrained

            return load_pretrained(self, found.get(self.models[0]))
        if len(folders) > 1 and any(is_pretrained(each) for each in self.models if Path(each).exists()):
            raise ConfigError("pretrained captioners cannot be ensembled; pass one --model")
        if self.prompt or self.language:
            raise ConfigError("a trained captioner takes no prompt and no language; drop --prompt and --language")
        if not any(map(is_export, folders)):
            from seesay.checkpoint import read_run

            for folder in folders:
                read_run(folder)  # so that a wrong name is reported without torch, too
            from seesay.captioners.ensemble import load_runs  # imports torch

            return load_runs(folders, self.device)
        if len(folders) > 1:
            raise ConfigError("an exported captioner cannot be ensembled; pass one model, or the runs themselves")
        if self.device not in ("auto", "cpu"):
            raise ConfigError(f"an exported captioner runs on the CPU; drop device {self.device}, or pass the run")
        return OnnxCaptioner.load(folders[0])

    def _find_files(self, model: str) -> "ModelFiles":
        """Return the files of a model of the hub, after checking the device."""
        from seesay.captioners.pretrained.download import find_files
        from seesay.devices import choose_device

        choose_device(self.device)
        return find_files(model, only_runs=len(self.models) > 1)


def is_hub_name(model: str) -> bool:
    """Return whether a name is that of a model of the hub, not of a file or folder."""
    return not exists(model) and is_pretrained(model)


def is_pretrained(model: str) -> bool:
    """Return whether a model is one of the hub, a folder in its format, or a run that fine-tuned one."""
    from seesay.checkpoint import is_pretrained_run

    folder = Path(model)
    if folder.exists():
        return (folder / "config.json").is_file() or is_pretrained_run(folder)
    # A name of the hub is OWNER/NAME; a path into an existing folder is a mistyped run.
    return model.count("/") == 1 and not model.startswith((".", "~", "/", "runs/")) and not folder.parent.is_dir()


def load_captioner(
    model: str | Path | Sequence[str | Path] | None = None, device: str = "auto", **settings: Any
) -> "Captioner":
    """Return the captioner of a model.

    Args:
        model: a run folder, an exported folder, several runs that share a vocabulary, a run or a pretrained model of
            the Hugging Face hub (`name` or `name@revision`), a local folder in its format, or the name of a server's
            model; see `ModelSpec`. None: the small pretrained model that `seesay caption` uses by default, which is
            downloaded once.
        device: auto, cpu, cuda or mps; an exported folder runs on the CPU and needs neither torch nor a run.
        settings: further fields of `ModelSpec`.

    Raises:
        ConfigError: several models include an exported folder, an exported folder should run on another device than
            the CPU, the vocabularies differ, the model does not use a setting, or a setting is unknown.
        CheckpointError: a folder has neither a run nor an export, or it is damaged.
        MissingDependencyError: a library that the model needs is not installed.
    """
    check_keywords(settings, [field.name for field in fields(ModelSpec) if field.name not in ("models", "device")])
    if model is None:
        from seesay.captioners.recommended import default_model  # imports safetensors

        model = default_model().name
    models = (model,) if isinstance(model, (str, Path)) else model
    return ModelSpec(tuple(map(str, models)), device, **settings).load()
