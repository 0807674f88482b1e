"""timm networks by name, with weights from the hub or a safetensors file."""

import ast
import difflib
import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from seesay.config import EncoderConfig
from seesay.config.encoder_aliases import similar_aliases
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
        EncoderError: the network is unknown, its weights are missing or do not fit, or the image size is unsuitable.
    """
    fixed, source = _has_fixed_size(config.encoder), config.encoder_weights
    from_file = source not in ("pretrained", "none")
    weights, stated = _read(Path(source)) if from_file else ({}, {})
    size = config.image_size or int(stated.get("input_size", (0,))[-1])
    if fixed and config.image_size:
        _check_image_size(config.encoder, config.image_size)
    network = _create(config.encoder, source == "pretrained", {"img_size": size} if fixed and size else {})
    _replace_pooling_head(network)
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
        EncoderError: timm has no network, or no weights, of this name.
    """
    import timm

    if not timm.is_model(name):
        similar = [*similar_aliases(name), *difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)]
        raise EncoderError(
            f"no encoder {name!r}: neither an alias (seesay doctor --encoders) nor a network of timm; "
            f"similar names: {', '.join(similar[:4] or ['siglip2-base', 'resnet50'])}"
        )
    try:
        shipped = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        known = timm.list_pretrained(f"{name.split('.')[0]}.*")
        raise EncoderError(f"timm has no weights {name!r}; it has {', '.join(known) or 'none'}") from error
    return shipped is not None and bool(shipped.fixed_input_size)


def _check_image_size(name: str, size: int) -> None:
    """Check that patches of a transformer fill an image, which timm would crop.

    Raises:
        EncoderError: the size is not a multiple of the patch size.
    """
    import timm

    try:
        with torch.device("meta"):  # without weights: before anything is downloaded
            network = timm.create_model(name, pretrained=False, num_classes=0)
    except (RuntimeError, NotImplementedError):  # a network that computes with its weights when it is created
        return
    embedding = getattr(network, "patch_embed", None)
    patch, padded = getattr(embedding, "patch_size", None), getattr(embedding, "dynamic_img_pad", False)
    if not isinstance(patch, tuple) or padded or size % patch[0] == 0:
        return
    lower = size // patch[0] * patch[0]
    sizes = " or ".join(str(near) for near in (lower, lower + patch[0]) if near)
    raise EncoderError(f"image_size is {size}, which is not a multiple of {name}'s patch size {patch[0]}; use {sizes}")


def _replace_pooling_head(network: nn.Module) -> None:
    """Remove the attention-pooling head of a transformer, and make a norm that follows pooling its final norm.

    The head (SigLIP) is not used for grids. Networks that pool by the mean have their norm behind the pooling, and an
    identity in its place: their tokens would not be normalised. For EVA-02 without fine-tuning it is the norm of the
    tokens in pre-training, which timm loads under the name `fc_norm`.
    """
    transformer = cast("Any", network)
    if getattr(network, "attn_pool", None) is not None:
        transformer.attn_pool = None
    norm, pooled_norm = getattr(network, "norm", None), getattr(network, "fc_norm", None)
    if isinstance(norm, nn.Identity) and isinstance(pooled_norm, nn.Module):
        transformer.norm, transformer.fc_norm = pooled_norm, norm


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
    from huggingface_hub import constants

    known = timm.get_pretrained_cfg(name)
    if known is None or not known.hf_hub_id or hub_answers():
        return {}
    if cached := cached_weights(name):
        return {} if known.custom_load else {"pretrained_cfg_overlay": {"file": str(cached)}}
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} does not answer"
    raise EncoderError(
        f"the weights of {name} are not in the cache and {reason}; connect to the network once, pass "
        "--encoder-weights FILE.safetensors, or none for random weights (seesay doctor --encoders lists the cache)"
    )


def cached_weights(name: str) -> Path | None:
    """Return the file of the weights of a timm network in the hub's cache, or None."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    known = timm.get_pretrained_cfg(name)
    if known is None or not known.hf_hub_id:
        return None
    repository, _, revision = known.hf_hub_id.partition("@")
    for file in filter(None, (known.hf_hub_filename, "model.safetensors", "pytorch_model.bin")):
        cached = try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    return None


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
    """Load weights strictly, except those of classifier and pooling head, which `network` lacks.

    Raises:
        EncoderError: tensors are missing, unexpected, or of another shape.
    """
    heads = (classifier,) if isinstance(classifier, str) else classifier or ()
    own = network.state_dict()
    if "norm.weight" not in weights and "norm.weight" in own:  # see `_replace_pooling_head`
        weights = {re.sub(r"^fc_norm\.", "norm.", name): tensor for name, tensor in weights.items()}
    unused = tuple(f"{head}." for head in (*heads, "attn_pool"))
    weights = {name: tensor for name, tensor in weights.items() if name in own or not name.startswith(unused)}
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

    given, expected = weights.get("pos_embed"), own.get("pos_embed")
    if given is None or expected is None or given.ndim != 3 or expected.shape == given.shape:
        return
    prefix = 0 if getattr(network, "no_embed_class", False) else int(getattr(network, "num_prefix_tokens", 1))
    regions = given.shape[1] - prefix
    if regions < 1 or math.isqrt(regions) ** 2 != regions:
        return  # the weights of another network, which `_load` reports
    side = math.isqrt(expected.shape[1] - prefix)
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
