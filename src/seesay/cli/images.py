"""`seesay caption` and `seesay explain`."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter, Token, UnknownOptionError

from seesay.captioners.alt_text import Style
from seesay.captioners.guard import summarize_rejections
from seesay.captioners.prompts import check_variables
from seesay.cli.console import choose_run, limit_calls, open_captioner, print_error, print_line, progress
from seesay.cli.models import choose_models
from seesay.cli.parameters import (
    CaptionColumn,
    CaptionerFlags,
    DecodingFlags,
    Flat,
    ImageColumn,
    Model,
    Models,
    decoding_options,
)
from seesay.config.flags import given_flags
from seesay.errors import CaptionError, ConfigError, DataError, ImageError
from seesay.files import exists, require_suffix
from seesay.formatting import format_duration
from seesay.images.prefetch import usable_cores

if TYPE_CHECKING:
    from seesay.bulk import BulkReport, Destination, ImageList
    from seesay.captioners.caption import Caption
    from seesay.data.records import Box
    from seesay.images.loading import ImageInput

SHOWN_FAILURES = 10
"""Maximum number of failures that are printed; a file lists all."""


def _check_source(kind: Any, source: str) -> None:
    """Check that a source is not a mistyped flag; `-` and existing files may start with a hyphen.

    Raises:
        UnknownOptionError: it is; the message suggests a similar flag.
    """
    if source.startswith("-") and source != "-" and not exists(source):
        app = App()
        app.default(caption)
        known = app.assemble_argument_collection()
        raise UnknownOptionError(token=Token(value=source, source="cli"), argument_collection=known)


# Without this, cyclopts treats `-` as an unknown flag.
Source = Annotated[str, Parameter(allow_leading_hyphen=True, validator=_check_source)]


def caption(
    *sources: Source,
    model: Models = None,
    out: Path | None = None,
    sidecar: str = "",
    embed: Literal["", "xmp", "exif", "both"] = "",
    existing: Literal["skip", "overwrite", "append", "prefix", "suffix"] = "skip",
    before: str = "",
    after: str = "",
    errors: Path | None = None,
    strict: bool = False,
    column: str = "",
    format: Literal["text", "jsonl"] = "text",
    style: Style = "plain",
    guard: bool = True,
    yes: Annotated[bool, Parameter(negative="")] = False,
    batch_size: int = 32,
    threads: int = 0,
    engine: Literal["local", "ray"] = "local",
    ray_address: str = "",
    ray_workers: int = 0,
    captioner_flags: Annotated[CaptionerFlags, Flat] = CaptionerFlags(),  # noqa: B008
    flags: Annotated[DecodingFlags | None, Flat] = None,
) -> int:
    """Caption images: files, folders, globs, URLs, lists, tables or tars; exit code 1 if some images failed.

    Args:
        sources: images to caption; - reads names from standard input.
        out: file to append to, by its suffix .jsonl, .csv, .tsv or .parquet (a folder); its images are skipped.
        sidecar: suffix of a text file per image, such as .txt or .caption.
        embed: write the caption into the metadata of each image file; pixels are unchanged.
        existing: action for images that already have a sidecar or embedded text.
        before: text before each sidecar or embedded caption.
        after: text after each sidecar or embedded caption.
        errors: file that lists failed images with reasons [default: OUT.errors.jsonl; without --out
            captions-XXXXXXXX.errors.jsonl in the current folder, with a digest of the sources and flags].
        strict: fail instead of warning if --out was written by another model or with other options.
        column: image column of tables [default: the first column with a usual name].
        format: format of printed captions.
        style: captions as generated, or as alt text of at most 125 characters, empty for blank images.
        guard: generate unusable captions (empty, refusals, loops, ...) once more, then list the image as failed.
        yes: download the default model without asking, if no model is named and there is no run.
        batch_size: images per batch.
        threads: threads that load images; 0: one per CPU core.
        engine: local, or Ray Data on this machine or a cluster (writes a folder of Parquet files).
        ray_address: address of a running Ray cluster [default: start a local one for the job].
        ray_workers: number of workers, each with its own model; 0: one per GPU, or one per four cores.
    """
    from seesay import bulk

    if not sources:
        raise DataError("name at least one image, folder, glob or URL to caption")
    _validate_options(batch_size, threads, engine, ray_address, ray_workers)
    written = out is not None or sidecar or embed or strict or engine == "ray"
    destination = bulk.Destination(out, sidecar, embed, existing, before, after, errors, strict) if written else None
    if destination is not None:
        destination.check_inputs(sources)
    captioner_flags.check()
    found = bulk.find_images(sources, column, captioner_flags.prompt_variables())
    if captioner_flags.prompt:
        check_variables(captioner_flags.prompt, found.column_names)
    if remark := found.remark():
        print_error(remark)
    if destination is not None and destination.failures is None:
        destination = replace(
            destination, errors=bulk.default_failures_path(sources, found.images, column, sidecar, embed)
        )
    names = list(model or ()) if captioner_flags.endpoint else choose_models(model or (), yes=yes)
    spec = replace(captioner_flags.spec(names), columns=found.columns)
    form: dict[str, Any] = {"guard": guard, "style": style, "batch_size": batch_size}
    if destination is None:
        with open_captioner(spec) as captioner:
            options = decoding_options(captioner.defaults, flags)
            captions = captioner.caption_each(found.images, options, workers=threads or usable_cores(), **form)
            return _print_captions(captions, found, format, several=options.num_return_sequences > 1)
    print_failure = limit_calls(print_error, SHOWN_FAILURES, f"all failures are listed in {destination.failures}")
    with progress("captioning", "images") as advance:
        shared = {**form, "broken": found.broken, "progress": advance, "print_error": print_failure}
        if engine == "ray":
            from seesay.bulk.ray_engine import Cluster, caption_on_ray, describe_models

            recipe = describe_models(spec, lambda defaults: decoding_options(defaults, flags))
            cluster = Cluster(ray_address, ray_workers)
            done = caption_on_ray(spec, found.images, destination, recipe, cluster, **shared)
        else:
            with open_captioner(spec) as captioner:
                options = decoding_options(captioner.defaults, flags)
                done = bulk.caption_collection(captioner, found.images, destination, options, threads=threads, **shared)
    return _summarise(done, destination)


def _validate_options(batch_size: int, threads: int, engine: str, ray_address: str, ray_workers: int) -> None:
    if batch_size < 1 or threads < 0 or ray_workers < 0:
        raise ConfigError("--batch-size must be at least 1, --threads and --ray-workers at least 0")
    if engine == "local" and (ray_address or ray_workers):
        raise ConfigError("--ray-address and --ray-workers need --engine ray; add it or drop them")


def _print_captions(
    captions: "Iterable[tuple[ImageInput, Caption | ImageError]]", found: "ImageList", format: str, *, several: bool
) -> int:
    """Print the captions of images; return the exit code."""
    from seesay import bulk

    for reason in found.broken.values():
        print_error(reason)
    failed = bool(found.broken)
    rejected: Counter[str] = Counter()
    for image, result in captions:
        if isinstance(result, ImageError):
            failed = True
            print_error(str(result))
            if isinstance(result, CaptionError):
                rejected[result.reason] += 1
        elif format == "jsonl":
            print(bulk.json_line(str(image), result, several), flush=True)
        else:
            for each in (result, *result.alternatives):
                print(f"{image}\t{each.text}" if len(found.images) > 1 else each.text, flush=True)
    if rejected and len(found.images) > 1:
        print_error(summarize_rejections(rejected))
    return 1 if failed else 0


def _summarise(done: "BulkReport", destination: "Destination") -> int:
    """Print the summary of a job; return the exit code."""
    target = destination.out or "sidecars or image metadata"
    blank = f" ({done.blank} blank)" if done.blank else ""
    failed = f"{done.failed - sum(done.rejected.values())} failed"
    rejected = f", {summarize_rejections(done.rejected)}" if done.rejected else ""
    listed = f" (reasons in {destination.failures})" if done.failed else ""
    print_line(f"{done.captioned} captioned{blank}, {done.skipped} already there, {failed}{rejected}{listed}: {target}")
    if done.usage:
        print_error(done.usage)
    if done.captioned:
        rate = f"{done.rate:.1f} images/s, {format_duration(done.seconds)}"
        tasks = "".join(f"; worker {name} did {number} tasks" for name, number in sorted(done.workers.items()))
        print_line(rate + tasks)
    return 1 if done.failed else 0


def explain(
    photo: str = "",
    *,
    model: Model = "",
    out: Path | None = None,
    save_arrays: bool = False,
    beam_tree: bool = False,
    held_out: Path | None = None,
    seed: int | None = None,
    boxes: Path | None = None,
    image_column: ImageColumn = "",
    caption_column: CaptionColumn = "",
    flags: Annotated[DecodingFlags | None, Flat] = None,
) -> None:
    """Plot the attention over the image for each word of its caption: an interactive page and a strip of images.

    Args:
        photo: the image.
        out: page to write, with a PNG of the same name, or a .png only [default: PHOTO.explain.html in this folder].
        save_arrays: also write the attention as .npz.
        beam_tree: plot the candidates of the search and their scores per step instead.
        held_out: data set; a random image that was not trained on is explained and its reference captions are printed.
        seed: seed of that choice.
        boxes: COCO instances file, to compare the attention with the boxes of the named objects.
    """
    if beam_tree and save_arrays:
        raise ConfigError("--save-arrays writes attention, which --beam-tree does not compute; drop one of them")
    if out is not None:
        require_suffix(out, {".png": "image"} if beam_tree else {".html": "page", ".png": "image"}, "--out")
    if not beam_tree and given_flags(flags).get("num_return_sequences", 1) > 1:
        raise ConfigError("explain shows one caption; drop --num-return-sequences, or plot the search with --beam-tree")

    from seesay.captioners import load_captioner
    from seesay.captioners.trained import TrainedCaptioner
    from seesay.data import ColumnNames
    from seesay.data.objects import read_instances
    from seesay.explanation.explain import check_explanation, explain_search, held_out_image, save_explanation
    from seesay.explanation.explain import explain as explain_image
    from seesay.files import write_atomically
    from seesay.outputs import PNG_IMAGE, check_file

    captioner = load_captioner(choose_run(model))
    if (beam_tree or held_out is not None) and not isinstance(captioner, TrainedCaptioner):
        raise ConfigError(f"--beam-tree and --held-out need a trained run, which {captioner.name} is not; drop them")
    references: tuple[str, ...] = ()
    objects: tuple[Box, ...] = ()
    if held_out is not None:
        assert isinstance(captioner, TrainedCaptioner)
        item = held_out_image(captioner, held_out, seed, ColumnNames(image_column, caption_column))
        photo, references, objects = item.image, item.captions, item.boxes
    elif not photo:
        raise DataError("pass an image, or a data set with --held-out DATA")
    options = decoding_options(captioner.defaults, flags)
    if boxes is not None:
        objects = read_instances(boxes, photo)
    target = out or Path(f"{Path(photo).stem}.{'tree.png' if beam_tree else 'explain.html'}")
    inputs = (photo, held_out, boxes)
    if beam_tree:
        check_file(target, PNG_IMAGE, inputs=inputs)
        assert isinstance(captioner, TrainedCaptioner)
        best, png = explain_search(captioner, photo, options)
        write_atomically(target, png)
        files = [target]
    else:
        check_explanation(target, save_arrays, inputs)
        explanation = explain_image(captioner, photo, options, references, objects)
        best, files = explanation.caption, save_explanation(explanation, target, save_arrays)
    print(f"{photo}\nmodel   {best.text}")
    for reference in references:
        print(f"human   {reference}")
    print(f"written {' '.join(map(str, files))}")
