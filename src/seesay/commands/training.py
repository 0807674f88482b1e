"""Training, and the features that it reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from seesay import config as configuration
from seesay.commands.parameters import (
    DEFAULT_PRESET,
    NOT_GIVEN,
    ConfigFile,
    ExtractFlags,
    Features,
    Flat,
    Preset,
    Stores,
    TrainFlags,
)
from seesay.console import print_error, progress, say, step_progress
from seesay.errors import ConfigError
from seesay.flags import provided_flags
from seesay.outputs import check_inputs, check_name

if TYPE_CHECKING:
    from seesay.features import FeatureDtype


def train(
    data: Path,
    *,
    preset: Preset = DEFAULT_PRESET,
    out: Path | None = None,
    config: ConfigFile = None,
    features: Features = Path("features"),
    store: Stores = None,
    resume: bool = False,
    overwrite: bool = False,
    flags: Annotated[TrainFlags, Flat] = NOT_GIVEN["TrainFlags"],
) -> None:
    """Train a captioner; features are extracted first where there are none.

    A run that was stopped goes on by the same command.

    Args:
        data: captions and images in any form `seesay data check` can read.
        out: run folder [default: runs/PRESET, of a second stage the first's with -scst after it].
        resume: go on with the run in --out by its own settings.
        overwrite: throw away the run in --out.
    """
    from seesay.checkpoint import load_run
    from seesay.training.distributed import rank
    from seesay.training.fit import train as fit
    from seesay.training.stages import second_stage, settings_of_first

    overrides = provided_flags(flags)
    if overrides.get("scst"):
        first, second = second_stage(preset, overrides)
        out = out or second
        if not resume:
            overrides["init_from"] = str(first)
            config = config or settings_of_first(first)
    out = out or Path("runs") / preset
    if resume:
        if config is not None:
            raise ConfigError("--resume goes on by the settings of the run itself; leave --config out")
        settings = configuration.replace(load_run(out).config, **overrides)
    else:
        settings = configuration.resolve_config(preset, config, overrides)
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
        say(f"run folder {result.folder}; try: seesay evaluate {result.folder} {data}")


def extract(
    data: Path,
    *,
    preset: Preset = DEFAULT_PRESET,
    config: ConfigFile = None,
    features: Features = Path("features"),
    mirror: bool = False,
    import_from: Path | None = None,
    out: Path | None = None,
    device: str = "auto",
    flags: Annotated[ExtractFlags, Flat] = NOT_GIVEN["ExtractFlags"],
) -> int:
    """Run the encoder over every image once and keep its features.

    Args:
        data: captions and images.
        mirror: of the training images mirrored, for --hflip-prob; those whose captions say left or right stay out.
        import_from: take features that exist already: a folder of .npy files, an .npz or an HDF5 file, or a store
            whose features are to be kept in another --feature-dtype.
        out: the store's file [default: a name of its own in --features].
        device: auto, cpu, cuda or mps.
    """
    import torch

    from seesay.data.annotations import load_dataset
    from seesay.data.augmentation import flippable_images
    from seesay.devices import choose_device
    from seesay.features import extract_features, store_path
    from seesay.models.encoders import build_encoder

    if mirror and import_from is not None:
        raise ConfigError("--mirror encodes images, and --import-from takes features as they are; leave one of them")
    if out is not None:  # a file there that is no store is refused by the extraction
        check_name(out)
        check_inputs(out, [data, config, import_from])
    settings = configuration.resolve_config(preset, config, provided_flags(flags))
    annotations = load_dataset(data, settings.data)
    split = {item.id: item.image for item in annotations if item.split is not None}
    images = flippable_images(annotations) if mirror else split
    if import_from is not None:
        return _import_features(import_from, images, data, features, out, settings.encoder.feature_dtype)
    torch.manual_seed(settings.training.seed)  # as in training, so that random weights are the same
    encoder = build_encoder(settings.encoder)
    target = out or store_path(features, data, encoder, mirrored=mirror)
    with progress("encoding", "images") as advance:
        report = extract_features(
            images, encoder, target, device=choose_device(device), progress=advance, mirrored=mirror
        )
    for line in report.unreadable:
        print_error(line)
    counted = f"{report.images} {'mirrored ' if mirror else ''}images"
    pooled = f"{report.pooled} pooled from the store of their grids, " if report.pooled else ""
    say(
        f"{counted} in {target}; {pooled}{report.extracted} encoded now in {report.seconds:.0f} s: "
        f"{report.rate:.1f} images/s, the encoder alone {report.encoder_rate:.1f}"
    )
    return 1 if report.unreadable else 0


def _import_features(
    source: Path, images: Mapping[str, str], data: Path, folder: Path, out: Path | None, dtype: "FeatureDtype"
) -> int:
    """Makes a store of features that are there, and tells of it; returns the exit code."""
    from seesay.features import FeatureStore, convert_store, import_features, store_name

    if source.suffix == ".safetensors":
        # The name that the extraction itself would have given: a training in this dtype finds the store.
        target = out or folder / store_name(source.stem.removesuffix("-int8"), dtype)
        convert_store(source, target, dtype)
        made = FeatureStore(target)
        count = sum(image_id in made for image_id in images)
    else:
        target = out or folder / store_name(f"{data.resolve().stem}-{source.stem}", dtype)
        count = import_features(source, images, target, dtype)
    say(f"{count} of {len(images)} images imported into {target}")
    return 0 if count == len(images) else 1
