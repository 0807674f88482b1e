"""Captions of images, and where the model looked."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter, Token, UnknownOptionError

from seesay.commands.parameters import (
    CaptionColumn,
    DecodingFlags,
    Flat,
    ImageColumn,
    Model,
    Models,
    decoding_options,
)
from seesay.config import DecodingOptions
from seesay.config.flags import given_flags
from seesay.console import choose_run, limit_calls, print_error, progress, say
from seesay.errors import ConfigError, DataError, ImageError
from seesay.files import exists, require_suffix
from seesay.formatting import format_duration

if TYPE_CHECKING:
    from seesay.bulk import BulkReport, Destination, ImageList
    from seesay.caption import Captioner
    from seesay.data.records import Box

SHOWN_FAILURES = 10
"""Images whose failure is printed; all are listed in a file."""


def _refuse_unknown_flag(kind: Any, source: str) -> None:
    """Refuses a source that starts with a hyphen, as a mistyped flag does; `-` and names of files are sources.

    Raises:
        UnknownOptionError: with the most similar flag.
    """
    if source.startswith("-") and source != "-" and not exists(source):
        app = App()
        app.default(caption)
        known = app.assemble_argument_collection()
        raise UnknownOptionError(token=Token(value=source, source="cli"), argument_collection=known)


# Without this cyclopts takes `-` for an unknown flag.
Source = Annotated[str, Parameter(allow_leading_hyphen=True, validator=_refuse_unknown_flag)]


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
    batch_size: int = 32,
    threads: int = 0,
    engine: Literal["local", "ray"] = "local",
    ray_address: str = "",
    ray_workers: int = 0,
    device: str = "auto",
    flags: Annotated[DecodingFlags | None, Flat] = None,
) -> int:
    """Caption images: files, folders, globs, URLs, lists, tables or tars; exit code 1 if some could not be.

    Args:
        sources: what to caption; - reads names from the standard input.
        out: file to add to, by its suffix .jsonl, .csv, .tsv or .parquet (a folder); what it holds is skipped.
        sidecar: suffix of a text file beside each image, such as .txt or .caption.
        embed: write the description inside each image's file; the image itself stays the same.
        existing: what becomes of a text that is beside or inside an image already.
        before: text before each caption beside or inside an image.
        after: text after it.
        errors: list of images without a caption, and why [default: OUT.errors.jsonl, or without --out
            captions-XXXXXXXX.errors.jsonl in the current folder, its name made of the sources and flags].
        strict: refuse to add to an --out that another model or other options made, instead of warning.
        column: column of images in tables [default: the first of a usual name].
        format: how captions are printed where they are not written.
        batch_size: images the network sees at once.
        threads: that open images; 0 = one a processor core.
        engine: local, or Ray Data on this machine or a cluster (into a folder of Parquet files).
        ray_address: of a running Ray cluster [default: one of this machine's own, for the time of the job].
        ray_workers: models at work; 0 = one a GPU, or one for every four cores.
        device: auto, cpu, cuda or mps.
    """
    from seesay import bulk

    if not sources:
        raise DataError("name at least one image, folder, glob or URL to caption")
    _validate_options(batch_size, threads, engine, ray_address, ray_workers)
    written = out is not None or sidecar or embed or strict or engine == "ray"
    destination = bulk.Destination(out, sidecar, embed, existing, before, after, errors, strict) if written else None
    if destination is not None:
        destination.check_inputs(sources)
    found = bulk.find_images(sources, column)
    if remark := found.remark():
        print_error(remark)
    if destination is not None and destination.failures is None:
        destination = replace(
            destination, errors=bulk.default_failures_path(sources, found.images, column, sidecar, embed)
        )
    runs = [choose_run(name) for name in model or [""]]
    if destination is None:
        captioner = _load_captioner(runs, device)
        options = decoding_options(captioner.config, flags)
        return _print_captions(captioner, found, options, format, batch_size, threads)
    told = limit_calls(print_error, SHOWN_FAILURES, f"further ones are only listed in {destination.failures}")
    with progress("captioning", "images") as advance:
        shared: dict[str, Any] = {"broken": found.broken, "progress": advance, "print_error": told}
        shared["batch_size"] = batch_size
        if engine == "ray":
            from seesay.bulk.ray_engine import Cluster, caption_on_ray
            from seesay.checkpoint import load_run

            options = decoding_options(load_run(runs[0]).config, flags)
            cluster = Cluster(ray_address, ray_workers)
            done = caption_on_ray(runs, found.images, destination, options, cluster, device=device, **shared)
        else:
            captioner = _load_captioner(runs, device)
            options = decoding_options(captioner.config, flags)
            done = bulk.caption_collection(captioner, found.images, destination, options, threads=threads, **shared)
    return _summarise(done, destination)


def _validate_options(batch_size: int, threads: int, engine: str, ray_address: str, ray_workers: int) -> None:
    if batch_size < 1 or threads < 0 or ray_workers < 0:
        raise ConfigError("--batch-size must be at least 1, --threads and --ray-workers at least 0")
    if engine == "local" and (ray_address or ray_workers):
        raise ConfigError("--ray-address and --ray-workers are about --engine ray; add it or leave them")


def _print_captions(
    captioner: "Captioner", found: "ImageList", options: DecodingOptions, format: str, batch_size: int, threads: int
) -> int:
    """Prints the captions of images; returns the exit code."""
    from seesay import bulk
    from seesay.prefetch import usable_cores

    for reason in found.broken.values():
        print_error(reason)
    failed = bool(found.broken)
    several = len(found.images) > 1
    workers = threads or usable_cores()
    for image, said in captioner.caption_each(found.images, options, batch_size=batch_size, workers=workers):
        if isinstance(said, ImageError):
            failed = True
            print_error(str(said))
        elif format == "jsonl":
            print(bulk.json_line(str(image), said, options.num_return_sequences > 1), flush=True)
        else:
            for each in (said, *said.alternatives):
                print(f"{image}\t{each.text}" if several else each.text, flush=True)
    return 1 if failed else 0


def _summarise(done: "BulkReport", destination: "Destination") -> int:
    """Prints what a job did; returns the exit code."""
    where = destination.out or "beside or inside the images"
    listed = f" (reasons in {destination.failures})" if done.failed else ""
    line = f"{done.captioned} captioned, {done.skipped} already there, {done.failed} failed{listed}: {where}"
    say(line)
    if done.captioned:
        rate = f"{done.rate:.1f} images/s, {format_duration(done.seconds)}"
        tasks = "".join(f"; worker {name} did {number} tasks" for name, number in sorted(done.workers.items()))
        say(rate + tasks)
    return 1 if done.failed else 0


def _load_captioner(folders: Sequence[Path], device: str) -> "Captioner":
    """Returns the captioner of run folders, or of one exported folder, for which torch is not needed.

    Raises:
        ConfigError: an export among several models, or on another device than the processor.
    """
    from seesay.onnx_runtime import OnnxCaptioner, is_export

    if not any(map(is_export, folders)):
        from seesay.captioner import TrainedCaptioner

        return TrainedCaptioner.load(folders, device)
    if len(folders) > 1:
        raise ConfigError("an exported captioner speaks alone; name one --model, or the runs themselves")
    if device not in ("auto", "cpu"):
        raise ConfigError(f"an exported captioner runs on the processor; leave --device {device}, or name the run")
    return OnnxCaptioner.load(folders[0])


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
    """Show where the model looks at each word of an image's caption: a page to point at, and a strip for papers.

    Args:
        photo: the image.
        out: page to write, with a PNG beside it, or a .png alone [default: PHOTO.explain.html in this folder].
        save_arrays: write the attention as .npz too.
        beam_tree: draw the candidates of the search and their scores at each word instead.
        held_out: data set of which a random unseen image is taken, with its human captions.
        seed: makes that choice repeatable.
        boxes: file of COCO instances, to see whether the model looks at what it names.
    """
    if beam_tree and save_arrays:
        raise ConfigError("--save-arrays writes attention, which --beam-tree does not show; leave one of them")
    if out is not None:
        require_suffix(out, {".png": "image"} if beam_tree else {".html": "page", ".png": "image"}, "--out")
    if not beam_tree and given_flags(flags).get("num_return_sequences", 1) > 1:
        raise ConfigError(
            "explain shows one caption; leave --num-return-sequences, or draw their search with --beam-tree"
        )

    from seesay.captioner import TrainedCaptioner
    from seesay.data import ColumnNames
    from seesay.data.objects import read_instances
    from seesay.explanation import check_explanation, explain_search, held_out_image, save_explanation
    from seesay.explanation import explain as explain_image
    from seesay.files import write_atomically
    from seesay.outputs import PNG_IMAGE, check_file

    captioner = TrainedCaptioner.load(choose_run(model))
    references: tuple[str, ...] = ()
    objects: tuple[Box, ...] = ()
    if held_out is not None:
        item = held_out_image(captioner, held_out, seed, ColumnNames(image_column, caption_column))
        photo, references, objects = item.image, item.captions, item.boxes
    elif not photo:
        raise DataError("name an image, or a data set with --held-out DATA")
    options = decoding_options(captioner.run.config, flags)
    if boxes is not None:
        objects = read_instances(boxes, photo)
    target = out or Path(f"{Path(photo).stem}.{'tree.png' if beam_tree else 'explain.html'}")
    inputs = (photo, held_out, boxes)
    if beam_tree:
        check_file(target, PNG_IMAGE, inputs=inputs)
        said, png = explain_search(captioner, photo, options)
        write_atomically(target, png)
        files = [target]
    else:
        check_explanation(target, save_arrays, inputs)
        explanation = explain_image(captioner, photo, options, references, objects)
        said, files = explanation.caption, save_explanation(explanation, target, save_arrays)
    print(f"{photo}\nmodel   {said.text}")
    for reference in references:
        print(f"human   {reference}")
    print(f"written {' '.join(map(str, files))}")
