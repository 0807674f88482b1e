"""Low-rank adapters (LoRA, Hu et al. 2021) of pretrained captioners, with the library peft."""

import importlib.util
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from seesay.captioners.identity import ModelIdentity
from seesay.captioners.pretrained.families import Family
from seesay.config import FinetuningConfig
from seesay.errors import CheckpointError, ConfigError, MissingDependencyError

ALL_LINEAR = "all-linear"
"""Name that stands for every linear layer but the output."""
_SHOWN = 12  # names of layers in a message


def add_adapters(family: Family, finetuning: FinetuningConfig, base: ModelIdentity, train_encoder: bool) -> Any:
    """Add trainable adapters to the model of a family, and freeze everything else.

    Args:
        family: the family with its model, which is changed in place.
        finetuning: rank, scale, dropout and layers of the adapters.
        base: what identifies the model; recorded with the adapters.
        train_encoder: adapt layers of the image encoder too.

    Returns:
        The `PeftModel` around the model, which saves the adapters.

    Raises:
        ConfigError: the model has no layer of such a name.
        MissingDependencyError: peft is not installed.
    """
    require_peft("LoRA")
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    tied = {id(layer.weight) for layer in family.model.modules() if isinstance(layer, nn.Embedding)}
    output = family.model.get_output_embeddings()
    layers = {
        name: layer
        for name, layer in family.model.named_modules()
        # Merging adapters of the output layer would change the word embeddings that share its weights.
        if isinstance(layer, (nn.Linear, Conv1D)) and layer is not output and id(layer.weight) not in tied
    }
    encoders = [] if train_encoder else family.image_encoders()
    names = list(finetuning.lora_targets or family.lora_names() or [ALL_LINEAR])
    if names == [ALL_LINEAR]:
        names = _all_names(layers, encoders)
    pattern = _pattern(names, encoders)
    adapted = [layer for name, layer in layers.items() if re.fullmatch(pattern, name)]
    if not adapted:
        known = _all_names(layers, encoders)
        raise ConfigError(
            f"finetuning.lora_targets {' '.join(names)}: {base.name} has no such linear layers; "
            f"it has {', '.join(known[:_SHOWN])}"
        )
    config = LoraConfig(
        r=finetuning.lora_rank,
        lora_alpha=finetuning.lora_alpha,
        lora_dropout=finetuning.lora_dropout,
        target_modules=pattern,
        exclude_modules=_unadapted(family.model, layers, pattern),
        fan_in_fan_out=isinstance(adapted[0], Conv1D),
        base_model_name_or_path=base.name,
        revision=base.digest,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers of the two kinds, which peft handles
        wrapped = get_peft_model(family.model, config)
    wrapped.peft_config["default"].base_model_name_or_path = base.name  # peft writes the path of the cache
    return wrapped


def _unadapted(model: Any, layers: Mapping[str, Any], pattern: str) -> list[str] | None:
    """Return the full names of modules that match the pattern but are not adapted, such as the output layer."""
    found = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name) and name not in layers]
    return found or None


def _all_names(layers: Mapping[str, Any], encoders: Sequence[str]) -> list[str]:
    """Return the names of the linear layers outside the image encoders, sorted."""
    found = set()
    for name in layers:
        if any(name.startswith(f"{encoder}.") for encoder in encoders):
            continue
        *_, parent, last = ("", *name.split("."))
        found.add(f"{parent}.{last}" if last.isdecimal() else last)  # layers of a sequence have numbers as names
    return sorted(found)


def _pattern(names: Sequence[str], encoders: Sequence[str]) -> str:
    """Return the expression of the full names of layers with one of the names, outside the image encoders."""
    outside = "".join(rf"(?!{re.escape(encoder)}\.)" for encoder in encoders)
    return rf"{outside}(?:.*\.)?(?:{'|'.join(map(re.escape, names))})"


def save_adapters(wrapped: Any, folder: Path) -> None:
    """Write the adapters as peft does, without its template of a model card."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks the hub whether embeddings have changed, which they have not
        wrapped.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


def load_adapters(wrapped: Any, folder: Path) -> None:
    """Load saved adapters into those of a model.

    Raises:
        ConfigError: they have another rank or other layers.
        CheckpointError: they are damaged.
    """
    from peft import set_peft_model_state_dict

    path = folder / "adapter_model.safetensors"
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error})") from error
    own = [name for name, _ in wrapped.named_parameters() if "lora_" in name]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fits = len(own) == len(state) and not set_peft_model_state_dict(wrapped, state).unexpected_keys
    except RuntimeError:  # of sizes that differ
        fits = False
    if not fits:
        raise ConfigError(
            f"the adapters in {folder} have another rank or other layers; set finetuning.lora_rank and lora_targets as "
            "in their run"
        )


def merge_adapters(model: Any, folder: Path) -> Any:
    """Return a model with saved adapters merged into its weights.

    Raises:
        CheckpointError: the adapters are damaged, or of another model.
        MissingDependencyError: peft is not installed.
    """
    return _with_adapters(model, folder, lambda wrapped: wrapped.merge_and_unload())


def attach_adapters(model: Any, folder: Path) -> Any:
    """Return a model with saved adapters beside its weights, as quantised weights need them; see `merge_adapters`."""
    return _with_adapters(model, folder, lambda wrapped: wrapped.base_model.model)


def _with_adapters(model: Any, folder: Path, finish: Callable[[Any], Any]) -> Any:
    require_peft(f"the adapters in {folder}")
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # peft only warns of missing tensors
            warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
            warnings.simplefilter("ignore", FutureWarning)  # of attributes of transformers that peft reads
            return finish(PeftModel.from_pretrained(model, str(folder), local_files_only=True))
    except Exception as error:  # peft raises almost any exception for damaged files
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the adapters in {folder} cannot be loaded ({reason})") from error


def require_peft(what: str) -> None:
    """Check that peft is installed.

    Raises:
        MissingDependencyError: it is not.
    """
    if importlib.util.find_spec("peft") is None:
        raise MissingDependencyError("peft", "hub", what)


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write the files of a folder beside it, then replace them one by one, each atomically.

    Args:
        folder: the folder; files that are not written stay.
        write: writes the files into the folder that it is given.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        write(part)
        folder.mkdir(exist_ok=True)
        for path in sorted(part.iterdir(), key=lambda path: path.suffix == ".safetensors"):  # the weights last
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
