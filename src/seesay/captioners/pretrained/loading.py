"""Loading of pretrained captioners."""

import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from seesay.captioners.identity import identify_folder
from seesay.captioners.pretrained.adapters import attach_adapters, merge_adapters
from seesay.captioners.pretrained.captioner import LoadedModel, PretrainedCaptioner
from seesay.captioners.pretrained.download import ModelFiles, find_files, require_transformers
from seesay.captioners.pretrained.families import FAMILIES, Family
from seesay.captioners.settings import ModelSettings
from seesay.checkpoint import ADAPTER_FOLDER, PRETRAINED_FOLDER, is_run, read_run
from seesay.devices import choose_device, supports_bfloat16
from seesay.errors import CheckpointError, ConfigError, MissingDependencyError

_QUANTISED = ("int8", "int4")


def load_pretrained(spec: ModelSettings, files: ModelFiles | None = None) -> PretrainedCaptioner:
    """Return the captioner of a model of the Hugging Face hub or of a local folder in its format.

    Args:
        spec: the model, and how it runs.
        files: its files; None: find them.

    Raises:
        ConfigError: there is no such model, its architecture is not supported or needs remote code, or the device, the
            precision or the prompt does not fit.
        CheckpointError: the folder is incomplete or damaged.
        DownloadError: the hub does not answer, or refuses access.
        MissingDependencyError: a library that the model needs is not installed.
    """
    require_transformers(spec.models[0])
    if len(spec.models) > 1:
        raise ConfigError("pretrained captioners cannot be ensembled; pass one --model")
    device, precision = choose_device(spec.device), spec.precision
    if precision == "auto":
        precision = "bfloat16" if device.startswith("cuda") and supports_bfloat16(device) else "float32"
    if is_run(spec.models[0]):
        return _load_finetuned(spec, device, precision)
    loaded, family = load_model(spec, files or find_files(spec.models[0]), device, precision)
    return PretrainedCaptioner(loaded, family, spec)


def load_model(spec: ModelSettings, files: ModelFiles, device: str, precision: str) -> tuple[LoadedModel, Family]:
    """Return a model in evaluation mode and its family.

    Args:
        spec: the settings, whose prompt is checked before the weights are loaded.
        files: the files of the model.
        device: cpu, cuda or mps.
        precision: float32, bfloat16, float16, int8 or int4.

    Raises:
        SeesayError: as `load_pretrained`.
    """
    if not sys.stderr.isatty():
        import transformers

        transformers.utils.logging.disable_progress_bar()
    kind = _family(files)
    kind.template(spec)  # a prompt that does not fit is refused at once
    processor = _processor(files, kind)
    model = _load(files, "AutoModelForImageTextToText", _weight_arguments(precision, device))
    if precision not in _QUANTISED:
        model = model.to(device)
    model.eval()
    _set_padding(model, processor.tokenizer)
    return LoadedModel(model, processor, files.identity, precision), kind(model, processor)


def _load_finetuned(spec: ModelSettings, device: str, precision: str) -> PretrainedCaptioner:
    """Return the captioner of a run of a fine-tuned model; its adapters are merged unless the weights are quantised.

    Raises:
        CheckpointError: it is another run, it has no weights yet, or the pretrained model has changed.
    """
    run = read_run(spec.models[0])
    source = run.info.pretrained
    if source is None:
        raise CheckpointError(f"{run.folder} is a run of a network of seesay's own; load it with load_captioner")
    spec = replace(spec, prompt=spec.prompt or ("" if spec.language else run.config.finetuning.prompt))
    part = run.folder / (ADAPTER_FOLDER if source["lora"] else PRETRAINED_FOLDER)
    if not any(part.glob("*.safetensors")):
        raise CheckpointError(
            f"the run {run.folder} has no weights in {part.name}/ yet: its first epoch is not finished; "
            "resume it with seesay train --out"
        )
    files = base_files(source) if source["lora"] else ModelFiles(part, identify_folder(run.folder))
    loaded, family = load_model(spec, files, device, precision)
    if source["lora"]:
        adapt = attach_adapters if precision in _QUANTISED else merge_adapters
        model = adapt(loaded.model, part).eval()
        loaded, family = replace(loaded, model=model), type(family)(model, loaded.processor)
    return PretrainedCaptioner(replace(loaded, identity=identify_folder(run.folder)), family, spec, run)


def base_files(source: Mapping[str, Any]) -> ModelFiles:
    """Return the files of the pretrained model of a run.

    Args:
        source: `RunInfo.pretrained`.

    Raises:
        CheckpointError: the model is a folder that has changed.
        SeesayError: as `find_files`.
    """
    name, revision = source["model"], source["revision"]
    if not Path(name).is_dir():
        return find_files(f"{name}@{revision}")
    files = find_files(name)
    if files.identity.digest != revision:
        raise CheckpointError(
            f"{name} has changed since it was fine-tuned (digest {revision} then, {files.identity.digest} now); "
            "restore the folder"
        )
    return files


def _family(files: ModelFiles) -> type[Family]:
    """Return the family of a model.

    Raises:
        CheckpointError: its configuration is not readable.
        ConfigError: its architecture is not supported.
    """
    try:
        config = json.loads((files.folder / "config.json").read_text(encoding="utf-8"))
        model_type = config.get("model_type", "")
    except (ValueError, AttributeError):
        raise CheckpointError(f"{files.folder}/config.json is not readable; download the model again") from None
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    supported = ", ".join(sorted(FAMILIES))
    if "auto_map" in config:
        raise ConfigError(
            f"{files.identity.name} ({model_type}) needs code from the hub, which seesay does not run; "
            f"choose a model of these types: {supported}, or serve it and pass --endpoint"
        )
    raise ConfigError(
        f"{files.identity.name} has the type {model_type!r}, which is not supported; "
        f"choose a model of these types: {supported}"
    )


@dataclass(frozen=True)
class _SeparateProcessors:
    """A processor of images and a tokenizer, for models without a processor of both."""

    image_processor: Any
    tokenizer: Any

    def save_pretrained(self, folder: Path) -> None:
        """Write both."""
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def _processor(files: ModelFiles, family: type[Family]) -> Any:
    """Return what makes inputs of images and text."""
    if not family.has_processor:
        return _SeparateProcessors(_load(files, "AutoImageProcessor", {}), _load(files, "AutoTokenizer", {}))
    processor = _load(files, "AutoProcessor", {})
    if family.pads_prompts:
        processor.tokenizer.padding_side = "left"  # the captions follow the prompts
    return processor


def _weight_arguments(precision: str, device: str) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for a precision."""
    if precision not in _QUANTISED:
        return {"dtype": getattr(torch, precision)}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError("bitsandbytes", "quantised", f"precision {precision}")
    from transformers import BitsAndBytesConfig

    compute = torch.bfloat16 if supports_bfloat16(device) else torch.float32
    config = (
        BitsAndBytesConfig(load_in_8bit=True)
        if precision == "int8"
        else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=compute, bnb_4bit_quant_type="nf4")
    )
    return {"dtype": compute, "quantization_config": config, "device_map": {"": device}}


def _load(files: ModelFiles, kind: str, arguments: dict[str, Any]) -> Any:
    """Return what an automatic class of transformers loads from a folder.

    Raises:
        CheckpointError: the files are damaged, or do not describe what is loaded.
        MissingDependencyError: a library is not installed.
    """
    import transformers

    name = files.identity.name
    try:
        return getattr(transformers, kind).from_pretrained(
            files.folder, trust_remote_code=False, local_files_only=True, **arguments
        )
    except Exception as error:  # transformers raises almost any exception for damaged files
        is_model = kind == "AutoModelForImageTextToText"
        if importlib.util.find_spec("torchvision") is None and not is_model:
            raise MissingDependencyError("torchvision", "hub", f"the processor of {name}") from error
        if isinstance(error, ImportError):
            missing = error.name or _first_line(error)
            raise MissingDependencyError(missing, "hub", f"the model {name}") from error
        part = "weights" if is_model else "processor"
        raise CheckpointError(
            f"the {part} of {name} cannot be loaded from {files.folder} ({_first_line(error)}); "
            f"download the model again, or update transformers ({transformers.__version__})"
        ) from error


def _set_padding(model: Any, tokenizer: Any) -> None:
    """Set the padding token of models and tokenizers that have none to the end token."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    config = model.generation_config
    if config.eos_token_id is None:
        config.eos_token_id = tokenizer.eos_token_id
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
