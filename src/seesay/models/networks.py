"""timm networks by name, with weights from the hub or a safetensors file."""

import ast
import difflib
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from seesay.config import EncoderConfig
from seesay.errors import EncoderError
from seesay.files import check_readable
from seesay.images.loading import Preprocessing
from seesay.models.hub import hub_answers

_RUN_PREFIX = "encoder.network."


def timm_network(config: EncoderConfig) -> tuple[nn.Module, Preprocessing]:
    """Return a network without its classifier, and the preprocessing of its weights.

    Args:
        config: name, weights and image size.

    Raises:
        EncoderError: the network is unknown, or its weights are missing or do not fit.
    """
    fixed, source = _has_fixed_size(config.encoder), config.encoder_weights
    from_file = source not in ("pretrained", "none")
    weights, stated = _read(Path(source)) if from_file else ({}, {})
    size = config.image_size or int(stated.get("input_size", (0,))[-1])
    network = _create(config.encoder, source == "pretrained", {"img_size": size} if fixed and size else {})
    given = dict(cast("Any", network).pretrained_cfg)
    if from_file:
        _load(network, weights, Path(source), given["classifier"])
    settings = {**given, **stated}
    return network, Preprocessing(
        size=int(settings["input_size"][-1]),
        resize=config.resize,
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        interpolation=_interpolation(str(settings["interpolation"])),
    )


def _has_fixed_size(name: str) -> bool:
    """Return whether a network accepts images of one size only, for example due to its position embeddings.

    Raises:
        EncoderError: timm has no network or no weights of this name.
    """
    import timm

    if not timm.is_model(name):
        similar = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3) or ["inception_v3", "resnet50"]
        raise EncoderError(f"timm has no network {name!r}; similar names: {', '.join(similar)}")
    try:
        shipped = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        known = timm.list_pretrained(f"{name.split('.')[0]}.*")
        raise EncoderError(f"timm has no weights {name!r}; it has {', '.join(known) or 'none'}") from error
    return shipped is not None and bool(shipped.fixed_input_size)


def _create(name: str, hub: bool, options: Mapping[str, Any]) -> nn.Module:
    import timm

    if hub:
        options = {**options, **_without_hub(name)}
    try:
        return timm.create_model(name, pretrained=hub, num_classes=0, **options)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if hub:
            raise EncoderError(
                f"the weights of {name} could not be fetched from the hub ({reason}); "
                "pass --encoder-weights FILE.safetensors, or none"
            ) from error
        raise EncoderError(f"{name} cannot be built with {dict(options)}: {reason}") from error


def _without_hub(name: str) -> dict[str, Any]:
    """Return the options with which timm loads weights from the hub's cache if the hub does not respond.

    Raises:
        EncoderError: the hub does not respond, and the cache does not contain the weights.
    """
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    known = timm.get_pretrained_cfg(name)
    if known is None or not known.hf_hub_id or hub_answers():
        return {}
    repository, _, revision = known.hf_hub_id.partition("@")
    for file in filter(None, (known.hf_hub_filename, "model.safetensors", "pytorch_model.bin")):
        cached = try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(cached, str):
            return {} if known.custom_load else {"pretrained_cfg_overlay": {"file": cached}}
    raise EncoderError(
        f"the weights of {name} are not in the cache and {constants.ENDPOINT} does not answer; connect to the network, "
        "pass --encoder-weights FILE.safetensors, or none for random weights"
    )


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and preprocessing settings of a safetensors file, or of a run's trained encoder."""
    if not path.is_dir():
        return _read_file(path)
    if not (path / "model.safetensors").is_file():
        raise EncoderError(f"{path} is not a complete safetensors file: it is a folder, and not that of a run")
    stored, _ = _read_file(path / "model.safetensors")
    weights = {
        name.removeprefix(_RUN_PREFIX): tensor for name, tensor in stored.items() if name.startswith(_RUN_PREFIX)
    }
    if not weights:
        raise EncoderError(f"the run {path} contains no encoder weights; runs with --encoder-training full do")
    try:
        shown = json.loads((path / "captioner.json").read_text(encoding="utf-8"))["features"]["preprocessing"]
        stated = {name: shown[name] for name in ("mean", "std", "interpolation")}
        return weights, {**stated, "input_size": (3, shown["size"], shown["size"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(f"{path} is not a complete run folder: its captioner.json lacks the encoder") from error


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a safetensors file and the preprocessing settings of its metadata."""
    try:
        check_readable(path)
        weights = safetensors.torch.load_file(path)
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise EncoderError(f"no encoder weights at {path}") from error
    except PermissionError as error:
        raise EncoderError(f"{path} cannot be read ({error.strerror}); allow this user to read it") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise EncoderError(f"{path} is not a complete safetensors file: {error}") from error
    stated: dict[str, Any] = {
        key: _three_numbers(path, key, metadata[key]) for key in ("mean", "std", "input_size") if key in metadata
    }
    if "interpolation" in metadata:
        stated["interpolation"] = metadata["interpolation"]
    return weights, stated


def _three_numbers(path: Path, key: str, text: str) -> tuple[float, ...]:
    try:
        numbers = ast.literal_eval(text)
        if len(numbers) == 3:
            return tuple(float(number) for number in numbers)
    except (ValueError, TypeError, SyntaxError):
        pass
    raise EncoderError(f"the metadata of {path} has {key} = {text!r}; it must be three numbers")


def _load(network: nn.Module, weights: dict[str, Tensor], path: Path, classifier: str | tuple[str, ...] | None) -> None:
    """Load weights strictly, except those of the classifier, which `network` lacks.

    Raises:
        EncoderError: tensors are missing, unexpected, or of another shape.
    """
    heads = (classifier,) if isinstance(classifier, str) else classifier or ()
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(tuple(f"{x}." for x in heads))}
    own = network.state_dict()
    _resample_positions(network, own, weights)
    misfits = [name for name in weights if name in own and own[name].shape != weights[name].shape]
    for name in misfits:
        del weights[name]
    result = network.load_state_dict(weights, strict=False)
    faults = {
        "missing": [name for name in result.missing_keys if name not in misfits],
        "unexpected": result.unexpected_keys,
        "of another shape": misfits,
    }
    found = [f"{len(names)} tensors {fault} (such as {names[0]})" for fault, names in faults.items() if names]
    if found:
        raise EncoderError(f"{path} does not fit {type(network).__name__}: {', '.join(found)}")


def _resample_positions(network: nn.Module, own: Mapping[str, Tensor], weights: dict[str, Tensor]) -> None:
    """Resample a transformer's position embeddings to its image size, as timm does with hub weights."""
    from timm.layers import resample_abs_pos_embed  # type: ignore[attr-defined]

    given, wanted = weights.get("pos_embed"), own.get("pos_embed")
    if given is None or wanted is None or given.ndim != 3 or wanted.shape == given.shape:
        return
    prefix = 0 if getattr(network, "no_embed_class", False) else int(getattr(network, "num_prefix_tokens", 1))
    regions = given.shape[1] - prefix
    if regions < 1 or math.isqrt(regions) ** 2 != regions:
        return  # of another network; `_load` reports it
    side = math.isqrt(wanted.shape[1] - prefix)
    weights["pos_embed"] = resample_abs_pos_embed(given.float(), [side, side], num_prefix_tokens=prefix)


def _interpolation(name: str) -> Literal["bilinear", "bicubic"]:
    return "bicubic" if name.startswith("bicubic") else "bilinear"


def weights_digest(network: nn.Module) -> str:
    """Return the SHA-256 (first 16 hex digits) over a network's weights, names and order included."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
