"""`seesay train` and `seesay extract`."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from seesay import config as configuration
from seesay.cli.console import print_error, print_json, print_line, progress, status, step_progress
from seesay.cli.options import COMMON, Json
from seesay.cli.parameters import (
    DEFAULT_PRESET,
    ConfigFile,
    ExtractFlags,
    Features,
    Flat,
    Preset,
    Stores,
    TrainFlags,
)
from seesay.cli.push import report
from seesay.config.flags import given_flags
from seesay.errors import ConfigError
from seesay.outputs import check_inputs, check_name

if TYPE_CHECKING:
    from seesay.features import FeatureDtype


def train(
    data: Annotated[Path, COMMON],
    *,
    preset: Preset = DEFAULT_PRESET,
    out: Annotated[Path | None, COMMON] = None,
    config: ConfigFile = None,
    features: Features = Path("features"),
    store: Stores = None,
    scst: Annotated[bool, COMMON] = False,
    resume: Annotated[bool, COMMON] = False,
    overwrite: Annotated[bool, COMMON] = False,
    push_to_hub: str = "",
    json: Json = False,
    flags: Annotated[TrainFlags | None, Flat] = None,
) -> None:
    """Train a captioner, after extracting missing features; with --model NAME, fine-tune a pretrained one.

    Args:
        data: captions and images in any format that `seesay data check` reads.
        out: run folder [default: runs/PRESET, or runs/NAME of a pretrained model, -lora appended with adapters; with
            --scst, the folder of the initial run with -scst appended].
        scst: self-critical training: the preset scst on top of --config, or of the settings of the run in
            --init-from [default: runs/PRESET].
        resume: resume the run in --out with its own settings.
        overwrite: delete the run in --out.
        push_to_hub: then upload the run to this repository of the Hugging Face hub, as `seesay push` does.
    """
    status.show("loading torch")
    from seesay.checkpoint import read_run
    from seesay.training.distributed import rank
    from seesay.training.train import train as fit

    if push_to_hub and rank() == 0:
        from seesay.hub.push import check_access
        from seesay.hub.push import push as push_run

        check_access(push_to_hub)  # before hours of training
    overrides = given_flags(flags)
    preset, name = _choose_preset(preset, config, overrides)
    first = Path(overrides.get("init_from") or Path("runs") / name)
    out = out or (first.with_name(f"{first.name}-scst") if scst else Path("runs") / name)
    if resume:
        if config is not None:
            raise ConfigError("--resume uses the settings of the run itself; drop --config")
        settings = configuration.replace(read_run(out).config, **overrides)
    elif scst:
        config = config or _initial_config(first)
        overrides = {**_second_stage_rate(first), **overrides}
        settings = configuration.resolve_config(preset, config, {**overrides, "init_from": str(first)}, overlay="scst")
    else:
        settings = configuration.resolve_config(preset, config, overrides)
    status.show(f"reading {data}")
    with progress("encoding", "images") as advance, step_progress() as step:
        result = fit(
            settings,
            data,
            out,
            features=features,
            stores=store or (),
            overwrite=overwrite,
            progress=advance,
            step_progress=step,
        )
    if rank() == 0:
        if not json:
            print_line(f"run folder {result.folder}; try: seesay evaluate {result.folder} {data}")
        pushed = push_run(result.folder, push_to_hub) if push_to_hub else None
        if json:
            print_json({**asdict(result), "pushed": pushed and asdict(pushed)})
        elif pushed:
            report(push_to_hub, pushed)


def _choose_preset(preset: str, config: Path | None, overrides: Mapping[str, Any]) -> tuple[str, str]:
    """Return the preset, that of fine-tuning if a pretrained model is named, and the default name of the run."""
    finetuning = configuration.resolve_config("", config, overrides).finetuning
    if not finetuning.model:
        return preset, preset
    suffix = "-lora" if finetuning.lora else ""
    name = Path(finetuning.model.partition("@")[0]).name + suffix
    return (f"finetune{suffix}" if preset == DEFAULT_PRESET else preset), name


def _second_stage_rate(first: Path) -> dict[str, float]:
    """Return the learning rate of the second stage of a pretrained model, a tenth of the first; else nothing."""
    from seesay.checkpoint import is_pretrained_run, read_run

    return {"learning_rate": read_run(first).config.training.learning_rate / 10} if is_pretrained_run(first) else {}


def _initial_config(first: Path) -> Path:
    """Return the configuration file of the run from which SCST starts.

    Raises:
        ConfigError: there is no such run.
    """
    from seesay.checkpoint import CONFIG_FILE, is_run

    if not is_run(first):
        raise ConfigError(
            f"--scst starts from a trained run, but {first} is not a run; train it without --scst first, "
            "or pass another run with --init-from RUN"
        )
    return first / CONFIG_FILE


def extract(
    data: Annotated[Path, COMMON],
    *,
    preset: Preset = DEFAULT_PRESET,
    config: ConfigFile = None,
    features: Features = Path("features"),
    mirror: Annotated[bool, COMMON] = False,
    import_from: Annotated[Path | None, COMMON] = None,
    out: Annotated[Path | None, COMMON] = None,
    device: Annotated[str, COMMON] = "auto",
    json: Json = False,
    flags: Annotated[ExtractFlags | None, Flat] = None,
) -> int:
    """Encode every image once and store its features.

    Args:
        data: captions and images.
        mirror: encode mirrored training images, for --hflip-prob; images whose captions contain left or right are
            skipped.
        import_from: import existing features: a folder of .npy files, an .npz or HDF5 file, or a store to convert to
            another --feature-dtype.
        out: file of the store [default: a file in --features named after data and encoder].
        device: auto, cpu, cuda or mps.
    """
    status.show("loading torch")
    import torch

    from seesay.data.annotations import load_dataset
    from seesay.data.augmentation import flippable_images
    from seesay.devices import choose_device
    from seesay.features import extract_features, store_path
    from seesay.models.encoders import build_encoder

    if mirror and import_from is not None:
        raise ConfigError("--mirror encodes images, but --import-from imports features; drop one of them")
    if out is not None:  # `extract_features` checks that an existing file is a store
        check_name(out)
        check_inputs(out, [data, config, import_from])
    settings = configuration.resolve_config(preset, config, given_flags(flags))
    annotations = load_dataset(data, settings.data)
    split = {item.id: item.image for item in annotations if item.split is not None}
    images = flippable_images(annotations) if mirror else split
    if import_from is not None:
        count, target = _import_features(import_from, images, data, features, out, settings.encoder.feature_dtype)
        if json:
            print_json({"path": target, "images": count, "requested": len(images)})
        else:
            print_line(f"{count} of {len(images)} images imported into {target}")
        return 0 if count == len(images) else 1
    torch.manual_seed(settings.training.seed)  # as in training, so that random weights are the same
    encoder = build_encoder(settings.encoder)
    target = out or store_path(features, data, encoder, mirrored=mirror)
    with progress("encoding", "images") as advance:
        report = extract_features(
            images, encoder, target, device=choose_device(device), progress=advance, mirrored=mirror
        )
    for line in report.unreadable:
        print_error(line)
    if json:
        print_json({**asdict(report), "rate": report.rate})
        return 1 if report.unreadable else 0
    counted = f"{report.images} {'mirrored ' if mirror else ''}images"
    pooled = f"{report.pooled} pooled from their grid features, " if report.pooled else ""
    print_line(
        f"{counted} in {target}; {pooled}{report.extracted} encoded in {report.seconds:.0f} s: "
        f"{report.rate:.1f} images/s (encoder alone: {report.encoder_rate:.1f})"
    )
    return 1 if report.unreadable else 0


def _import_features(
    source: Path, images: Mapping[str, str], data: Path, folder: Path, out: Path | None, dtype: "FeatureDtype"
) -> tuple[int, Path]:
    """Import existing features into a store; return the number of imported images and the store."""
    from seesay.features import FeatureStore, convert_store, import_features, store_name

    if source.suffix == ".safetensors":
        # The name that extraction uses, so that training with this dtype finds the store.
        target = out or folder / store_name(source.stem.removesuffix("-int8"), dtype)
        convert_store(source, target, dtype)
        imported = FeatureStore(target)
        count = sum(image_id in imported for image_id in images)
    else:
        target = out or folder / store_name(f"{data.resolve().stem}-{source.stem}", dtype)
        count = import_features(source, images, target, dtype)
    return count, target
