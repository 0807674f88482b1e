"""`seesay data`: check, make, download and convert data sets."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from seesay import __version__
from seesay import config as configuration
from seesay.cli.console import download_progress, print_error, print_line, progress
from seesay.cli.parameters import CaptionColumn, DataFlags, Flat, ImageColumn
from seesay.config.flags import given_flags
from seesay.files import require_suffix, text_bytes, write_atomically
from seesay.outputs import JSON_REPORT, check_file

data = App(name="data", help="Check, make, download and convert captioned images.")


@data.command(name="check")
def data_check(
    data: Path,
    *,
    open_images: bool = True,
    json_out: Annotated[Path | None, Parameter(name="--json")] = None,
    flags: Annotated[DataFlags | None, Flat] = None,
) -> int:
    """Report the contents and the problems of a data set; exit code 0 if it can be trained on.

    Args:
        data: captions and images.
        open_images: read every image, to find damage and duplicates.
        json_out: also write the findings as JSON.
    """
    from seesay.data import USUAL_NAMES, check_data, load_annotations

    if json_out is not None:
        check_file(json_out, JSON_REPORT, flag="--json", inputs=[data])
    settings = configuration.resolve_config(overrides=given_flags(flags))
    annotations = load_annotations(data, settings.data.format, columns=USUAL_NAMES.over(settings.data))
    with progress("reading", "images") as advance:
        report = check_data(annotations, settings.text, settings.data, open_images=open_images, progress=advance)
    for line in report.lines():
        print_line(line)
    if json_out is not None:
        content = {"seesay": __version__, **report.to_dict()}
        write_atomically(json_out, text_bytes(json.dumps(content, indent=2, ensure_ascii=False) + "\n"))
    return 0 if report.trainable else 1


@data.command(name="scenes")
def data_scenes(
    folder: Path, *, train: int = 3000, val: int = 200, test: int = 200, seed: int = 0, size: int = 96
) -> None:
    """Make a synthetic data set of simple scenes with captions and boxes.

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
    name: str, folder: Path | None = None, *, mirror: str | None = None, keep_archives: bool = False
) -> None:
    """Download a public data set: flickr8k, coco2014 or coco2017.

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
    data: Path,
    out: Path,
    *,
    format: str = "auto",
    image_column: ImageColumn = "",
    caption_column: CaptionColumn = "",
    overwrite: bool = False,
) -> None:
    """Convert captions of any readable format to seesay's format, one JSON line per image.

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
