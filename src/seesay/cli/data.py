"""`seesay data`: check, make, download and convert data sets."""

from pathlib import Path
from typing import Annotated

from cyclopts import App

from seesay import __version__
from seesay import config as configuration
from seesay.cli.console import download_progress, print_error, print_json, print_line, progress
from seesay.cli.options import COMMON, Json
from seesay.cli.parameters import CaptionColumn, DataFlags, Flat, ImageColumn
from seesay.config.flags import given_flags
from seesay.files import require_suffix
from seesay.outputs import check_file

data = App(name="data", help="Check, make, download and convert captioned images.")


@data.command(name="check")
def data_check(
    data: Annotated[Path, COMMON],
    *,
    open_images: Annotated[bool, COMMON] = True,
    json: Json = False,
    flags: Annotated[DataFlags | None, Flat] = None,
) -> int:
    """Report the contents and the problems of a data set; exit code 0 if it can be trained on.

    Example: seesay data check data/mine

    Args:
        data: captions and images.
        open_images: read every image, to find damage and duplicates.
    """
    from seesay.data import USUAL_NAMES, check_data, load_annotations

    settings = configuration.resolve_config(overrides=given_flags(flags))
    annotations = load_annotations(data, settings.data.format, columns=USUAL_NAMES.over(settings.data))
    with progress("reading", "images") as advance:
        report = check_data(annotations, settings.text, settings.data, open_images=open_images, progress=advance)
    if json:
        print_json({"seesay": __version__, **report.to_dict()})
    else:
        for line in report.lines():
            print_line(line)
    return 0 if report.trainable else 1


@data.command(name="scenes")
def data_scenes(
    folder: Annotated[Path, COMMON],
    *,
    train: Annotated[int, COMMON] = 3000,
    val: Annotated[int, COMMON] = 200,
    test: Annotated[int, COMMON] = 200,
    seed: Annotated[int, COMMON] = 0,
    size: Annotated[int, COMMON] = 96,
) -> None:
    """Make a synthetic data set of simple scenes with captions and boxes.

    Example: seesay data scenes data/scenes

    Args:
        folder: output folder.
        train: number of images of the train split.
        val: number of images of the val split.
        test: number of images of the test split.
        seed: equal seeds give identical files.
        size: height and width of the images, in pixels.
    """
    from seesay.data import make_scenes

    scenes = make_scenes(folder, train, val, test, seed, size)
    print_line(f"{len(scenes)} scenes in {folder}")


@data.command(name="download")
def data_download(
    name: Annotated[str, COMMON],
    folder: Annotated[Path | None, COMMON] = None,
    *,
    mirror: Annotated[str | None, COMMON] = None,
    keep_archives: Annotated[bool, COMMON] = False,
) -> None:
    """Download a public data set: flickr8k, coco2014 or coco2017.

    Example: seesay data download flickr8k

    Args:
        name: name of the data set.
        folder: output folder [default: data/NAME].
        mirror: base URL of a mirror with the same paths.
        keep_archives: keep the zip files after unpacking.
    """
    from seesay.data import download_dataset

    with download_progress() as advance:
        target = download_dataset(
            name,
            folder or Path("data") / name,
            base_url=mirror,
            keep_archives=keep_archives,
            progress=advance,
        )
    print_line(f"{name} is in {target}; inspect it with: seesay data check {target}")


@data.command(name="convert")
def data_convert(
    data: Annotated[Path, COMMON],
    out: Annotated[Path, COMMON],
    *,
    format: Annotated[str, COMMON] = "auto",
    image_column: ImageColumn = "",
    caption_column: CaptionColumn = "",
    overwrite: Annotated[bool, COMMON] = False,
) -> None:
    """Convert captions of any readable format to seesay's format, one JSON line per image.

    Example: seesay data convert data/mine all.jsonl

    Args:
        data: captions and images.
        out: the .jsonl file.
        format: reader of the captions.
        overwrite: replace a file of this format with other annotations.
    """
    from seesay.data import ColumnNames, load_annotations, write_annotations
    from seesay.data.annotations import ANNOTATIONS

    check_file(out, ANNOTATIONS, flag="OUT", inputs=[data])
    require_suffix(out, {".jsonl": "JSON lines"}, "OUT")
    annotations = load_annotations(data, format, columns=ColumnNames(image_column, caption_column))
    write_annotations(annotations, out, overwrite=overwrite)
    for problem in annotations.problems:
        print_error(problem)
    print_line(f"{len(annotations)} images written to {out}")
