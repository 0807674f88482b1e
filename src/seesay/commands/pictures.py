"""Captions of pictures, and where the model looked."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter, Token, UnknownOptionError

from seesay.commands.parameters import (
    NOT_GIVEN,
    CaptionColumn,
    DecodingFlags,
    Flat,
    ImageColumn,
    Model,
    Models,
    decoding_options,
)
from seesay.config import DecodingOptions
from seesay.console import choose_run, complain, few, progress, say
from seesay.durations import readable_time
from seesay.errors import ConfigError, DataError, ImageError
from seesay.files import exists, require_suffix
from seesay.flags import given

if TYPE_CHECKING:
    from seesay.bulk import BulkReport, Destination, Found
    from seesay.caption import PictureCaptioner
    from seesay.data.records import Box

SHOWN_FAILURES = 10
"""Pictures whose failure is printed; all are listed in a file."""


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
    flags: Annotated[DecodingFlags, Flat] = NOT_GIVEN["DecodingFlags"],
) -> int:
    """Caption pictures: files, folders, globs, URLs, lists, tables or tars; exit code 1 if some could not be.

    Args:
        sources: what to caption; - reads names from the standard input.
        out: file to add to, by its suffix .jsonl, .csv, .tsv or .parquet (a folder); what it holds is skipped.
        sidecar: suffix of a text file beside each picture, such as .txt or .caption.
        embed: write the description inside each picture's file; the picture itself stays the same.
        existing: what becomes of a text that is beside or inside a picture already.
        before: text before each caption beside or inside a picture.
        after: text after it.
        errors: list of images without a caption, and why [default: OUT.errors.jsonl, or without --out
            captions-XXXXXXXX.errors.jsonl in the current folder, its name made of the sources and flags].
        strict: refuse to add to an --out that another model or other options made, instead of warning.
        column: column of pictures in tables [default: the first of a usual name].
        format: how captions are printed where they are not written.
        batch_size: pictures the network sees at once.
        threads: that open pictures; 0 = one a processor core.
        engine: local, or Ray Data on this machine or a cluster (into a folder of Parquet files).
        ray_address: of a running Ray cluster [default: one of this machine's own, for the time of the job].
        ray_workers: models at work; 0 = one a GPU, or one for every four cores.
        device: auto, cpu, cuda or mps.
    """
    from seesay import bulk

    if not sources:
        raise DataError("name at least one picture, folder, glob or URL to caption")
    _refuse_contradictions(batch_size, threads, engine, ray_address, ray_workers)
    written = out is not None or sidecar or embed or strict or engine == "ray"
    destination = bulk.Destination(out, sidecar, embed, existing, before, after, errors, strict) if written else None
    if destination is not None:
        destination.check_inputs(sources)
    found = bulk.find_pictures(sources, column)
    if remark := found.remark():
        complain(remark)
    if destination is not None and destination.failures is None:
        destination = replace(destination, errors=bulk.list_of_job(sources, found.pictures, column, sidecar, embed))
    runs = [choose_run(name) for name in model or [""]]
    if destination is None:
        captioner = _load_captioner(runs, device)
        options = decoding_options(captioner.config, flags)
        return _print_captions(captioner, found, options, format, batch_size, threads)
    told = few(complain, SHOWN_FAILURES, f"further ones are only listed in {destination.failures}")
    with progress("captioning", "pictures") as advance:
        shared: dict[str, Any] = {"broken": found.broken, "progress": advance, "complain": told}
        shared["batch_size"] = batch_size
        if engine == "ray":
            from seesay.bulk.ray_engine import Cluster, caption_on_ray
            from seesay.checkpoint import load_run

            options = decoding_options(load_run(runs[0]).config, flags)
            cluster = Cluster(ray_address, ray_workers)
            done = caption_on_ray(runs, found.pictures, destination, options, cluster, device=device, **shared)
        else:
            captioner = _load_captioner(runs, device)
            options = decoding_options(captioner.config, flags)
            done = bulk.caption_collection(captioner, found.pictures, destination, options, threads=threads, **shared)
    return _summarise(done, destination)


def _refuse_contradictions(batch_size: int, threads: int, engine: str, ray_address: str, ray_workers: int) -> None:
    if batch_size < 1 or threads < 0 or ray_workers < 0:
        raise ConfigError("--batch-size must be at least 1, --threads and --ray-workers at least 0")
    if engine == "local" and (ray_address or ray_workers):
        raise ConfigError("--ray-address and --ray-workers are about --engine ray; add it or leave them")


def _print_captions(
    captioner: "PictureCaptioner", found: "Found", options: DecodingOptions, format: str, batch_size: int, threads: int
) -> int:
    """Prints the captions of pictures; returns the exit code."""
    from seesay import bulk
    from seesay.prefetch import usable_cores

    for reason in found.broken.values():
        complain(reason)
    failed = bool(found.broken)
    several = len(found.pictures) > 1
    workers = threads or usable_cores()
    for picture, said in captioner.caption_each(found.pictures, options, batch_size=batch_size, workers=workers):
        if isinstance(said, ImageError):
            failed = True
            complain(str(said))
        elif format == "jsonl":
            print(bulk.json_line(str(picture), said, options.num_captions > 1), flush=True)
        else:
            for each in (said, *said.alternatives):
                print(f"{picture}\t{each.text}" if several else each.text, flush=True)
    return 1 if failed else 0


def _summarise(done: "BulkReport", destination: "Destination") -> int:
    """Prints what a job did; returns the exit code."""
    where = destination.out or "beside or inside the pictures"
    listed = f" (reasons in {destination.failures})" if done.failed else ""
    line = f"{done.captioned} captioned, {done.skipped} already there, {done.failed} failed{listed}: {where}"
    say(line)
    if done.captioned:
        rate = f"{done.rate:.1f} pictures/s, {readable_time(done.seconds)}"
        tasks = "".join(f"; worker {name} did {number} tasks" for name, number in sorted(done.workers.items()))
        say(rate + tasks)
    return 1 if done.failed else 0


def _load_captioner(folders: Sequence[Path], device: str) -> "PictureCaptioner":
    """Returns the captioner of run folders, or of one exported folder, for which torch is not needed.

    Raises:
        ConfigError: an export among several models, or on another device than the processor.
    """
    from seesay.onnx_runtime import OnnxCaptioner, is_export

    if not any(map(is_export, folders)):
        from seesay.captioner import Captioner

        return Captioner.load(folders, device)
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
    flags: Annotated[DecodingFlags, Flat] = NOT_GIVEN["DecodingFlags"],
) -> None:
    """Show where the model looks at each word of a picture's caption: a page to point at, and a strip for papers.

    Args:
        photo: the picture.
        out: page to write, with a PNG beside it, or a .png alone [default: PHOTO.explain.html in this folder].
        save_arrays: write the attention as .npz too.
        beam_tree: draw the candidates of the search and their scores at each word instead.
        held_out: data set of which a random unseen picture is taken, with its human captions.
        seed: makes that choice repeatable.
        boxes: file of COCO instances, to see whether the model looks at what it names.
    """
    if beam_tree and save_arrays:
        raise ConfigError("--save-arrays writes attention, which --beam-tree does not show; leave one of them")
    if out is not None:
        require_suffix(out, {".png": "image"} if beam_tree else {".html": "page", ".png": "image"}, "--out")
    if not beam_tree and given(flags).get("num_captions", 1) > 1:
        raise ConfigError("explain shows one caption; leave --num-captions, or draw their search with --beam-tree")

    from seesay.captioner import Captioner
    from seesay.data import ColumnNames
    from seesay.data.objects import read_instances
    from seesay.explanation import check_explanation, explain_search, held_out_picture, save_explanation
    from seesay.explanation import explain as explain_picture
    from seesay.files import write_atomically
    from seesay.outputs import PNG_IMAGE, check_file

    captioner = Captioner.load(choose_run(model))
    references: tuple[str, ...] = ()
    objects: tuple[Box, ...] = ()
    if held_out is not None:
        item = held_out_picture(captioner, held_out, seed, ColumnNames(image_column, caption_column))
        photo, references, objects = item.image, item.captions, item.boxes
    elif not photo:
        raise DataError("name a picture, or a data set with --held-out DATA")
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
        explanation = explain_picture(captioner, photo, options, references, objects)
        said, files = explanation.caption, save_explanation(explanation, target, save_arrays)
    print(f"{photo}\nmodel   {said.text}")
    for reference in references:
        print(f"human   {reference}")
    print(f"written {' '.join(map(str, files))}")
