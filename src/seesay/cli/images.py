"""`seesay caption` and `seesay explain`."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter, Token, UnknownOptionError

from seesay.captioners.alt_text import Style
from seesay.captioners.guard import summarize_rejections
from seesay.captioners.spec import ModelSpec
from seesay.cli.caption_flags import EngineFlags, ImageFlags, OutputFlags, check_job
from seesay.cli.console import (
    choose_run,
    limit_calls,
    open_captioner,
    print_error,
    print_json,
    print_line,
    print_note,
    progress,
    status,
)
from seesay.cli.options import COMMON, Json
from seesay.cli.parameters import (
    CaptionColumn,
    CaptionerFlags,
    DecodingFlags,
    Flat,
    ImageColumn,
    Model,
    Models,
    Server,
    decoding_options,
)
from seesay.config import DecodingOptions
from seesay.config.flags import given_flags
from seesay.errors import CaptionError, ConfigError, DataError, ImageError
from seesay.files import exists, require_suffix
from seesay.formatting import format_duration
from seesay.images.prefetch import usable_cores

if TYPE_CHECKING:
    from seesay.bulk import BulkReport, Destination, ImageList
    from seesay.captioners.caption import Caption
    from seesay.captioners.trained import TrainedCaptioner
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
Source = Annotated[str, Parameter(allow_leading_hyphen=True, validator=_check_source, show=True)]


_IMAGES = Group("Images", sort_key=20)
_OUTPUT = Group("Output", sort_key=30)


def caption(
    *sources: Source,
    model: Models = None,
    format: Annotated[Literal["text", "jsonl"], COMMON] = "text",
    json: Json = False,
    style: Annotated[Style, COMMON] = "plain",
    guard: bool = True,
    yes: Annotated[bool, Parameter(negative="")] = False,
    images: Annotated[ImageFlags, Flat, Parameter(group=_IMAGES)] = ImageFlags(),  # noqa: B008
    outputs: Annotated[OutputFlags, Flat, Parameter(group=_OUTPUT)] = OutputFlags(),  # noqa: B008
    engine: Annotated[EngineFlags, Flat, Parameter(group=_OUTPUT)] = EngineFlags(),  # noqa: B008
    captioner_flags: Annotated[CaptionerFlags, Server] = CaptionerFlags(),  # noqa: B008
    flags: Annotated[DecodingFlags | None, Flat] = None,
) -> int:
    """Caption images: files, folders, globs, URLs, lists, tables or tars.

    The exit code is 1 if some images failed.

    Args:
        sources: images to caption; - reads names from standard input.
        format: format of printed captions.
        style: captions as generated, or as alt text of at most 125 characters, empty for blank images.
        guard: generate unusable captions (empty, refusals, loops, ...) once more, then list the image as failed.
        yes: download the default model without asking, if no model is named and there is no run.
    """
    check_job(sources, images, engine)
    destination = outputs.destination(sources, required=engine.engine == "ray")
    captioner_flags.check()
    found = images.find(sources, captioner_flags)
    if json and destination is None and len(found.images) > 1:
        raise ConfigError(f"--json prints the caption of one image, not of {len(found.images)}; use --format jsonl")
    spec = replace(captioner_flags.spec(model or (), yes=yes), columns=found.columns)
    form: dict[str, Any] = {"guard": guard, "style": style, "batch_size": images.batch_size}
    if destination is None:
        with open_captioner(spec) as captioner:
            options = decoding_options(captioner.defaults, flags)
            captions = captioner.caption_each(found.images, options, workers=images.threads or usable_cores(), **form)
            several = options.num_return_sequences > 1
            return _print_captions(captions, found, "json" if json else format, several=several)
    destination = outputs.with_failures(destination, sources, found, images.column)
    job = _Job(spec, found, destination, lambda defaults: decoding_options(defaults, flags), form)
    done = job.run_on_ray(engine) if engine.engine == "ray" else job.run(images.threads)
    return _summarise(done, destination, json=json)


@dataclass(frozen=True)
class _Job:
    """A job with outputs.

    Attributes:
        spec: the model.
        found: the images.
        destination: the outputs.
        choose: returns the decoding options, with the model's defaults as its argument.
        form: arguments of both engines for captions and batches.
    """

    spec: ModelSpec
    found: "ImageList"
    destination: "Destination"
    choose: Callable[[DecodingOptions], DecodingOptions]
    form: Mapping[str, Any]

    def run(self, threads: int) -> "BulkReport":
        """Run the job in this process."""
        from seesay.bulk import caption_collection

        with self._reporting() as shared, open_captioner(self.spec) as captioner:
            options = self.choose(captioner.defaults)
            return caption_collection(
                captioner, self.found.images, self.destination, options, threads=threads, **shared
            )

    def run_on_ray(self, engine: EngineFlags) -> "BulkReport":
        """Run the job on Ray."""
        from seesay.bulk.ray_engine import Cluster, caption_on_ray, describe_models

        with self._reporting() as shared:
            recipe = describe_models(self.spec, self.choose)
            cluster = Cluster(engine.ray_address, engine.ray_workers)
            done = caption_on_ray(self.spec, self.found.images, self.destination, recipe, cluster, **shared)
        if done.usage:  # that of one captioner is printed by `open_captioner`
            print_note(done.usage)
        return done

    @contextmanager
    def _reporting(self) -> Iterator[dict[str, Any]]:
        """Yield the arguments of both engines, with a progress bar and a limited number of printed failures."""
        last = f"all failures are listed in {self.destination.failures}"
        print_failure = limit_calls(print_error, SHOWN_FAILURES, last)
        with progress("captioning", "images") as advance:
            yield {**self.form, "broken": self.found.broken, "progress": advance, "print_error": print_failure}


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
            print_line(bulk.json_line(str(image), result, several))
        elif format == "json":
            print_json(loads(bulk.json_line(str(image), result, several)))
        else:
            for each in (result, *result.alternatives):
                print_line(f"{image}\t{each.text}" if len(found.images) > 1 else each.text)
    if rejected and len(found.images) > 1:
        print_error(summarize_rejections(rejected))
    return 1 if failed else 0


def _summarise(done: "BulkReport", destination: "Destination", *, json: bool) -> int:
    """Print the summary of a job; return the exit code."""
    if json:
        listed_in = destination.failures if done.failed else None
        print_json({**asdict(done), "rate": done.rate, "out": destination.out, "failures": listed_in})
        return 1 if done.failed else 0
    beside = [f"{destination.sidecar} files"] if destination.sidecar else []
    target = destination.out or " and ".join([*beside, *(["image metadata"] if destination.embed else [])])
    blank = f" ({done.blank} blank)" if done.blank else ""
    failed = f"{done.failed - sum(done.rejected.values())} failed"
    rejected = f", {summarize_rejections(done.rejected)}" if done.rejected else ""
    listed = f" (reasons in {destination.failures})" if done.failed else ""
    print_line(f"{done.captioned} captioned{blank}, {done.skipped} already there, {failed}{rejected}{listed}: {target}")
    if done.rewritten:
        print_line(f"{done.rewritten} texts beside or inside images written from captions in {destination.out}")
    if done.captioned:
        rate = f"{done.rate:.1f} images/s, {format_duration(done.seconds)}"
        tasks = "".join(f"; worker {name} did {number} tasks" for name, number in sorted(done.workers.items()))
        print_line(rate + tasks)
    return 1 if done.failed else 0


def explain(
    photo: Annotated[str, COMMON] = "",
    *,
    model: Model = "",
    out: Annotated[Path | None, COMMON] = None,
    save_arrays: Annotated[bool, COMMON] = False,
    beam_tree: Annotated[bool, COMMON] = False,
    held_out: Annotated[Path | None, COMMON] = None,
    seed: Annotated[int | None, COMMON] = None,
    boxes: Annotated[Path | None, COMMON] = None,
    json: Json = False,
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
    _check_explain_flags(out, save_arrays, beam_tree, flags)

    from seesay.captioners import load_captioner
    from seesay.captioners.trained import TrainedCaptioner
    from seesay.data import ColumnNames
    from seesay.data.objects import read_instances
    from seesay.explanation.explain import check_explanation, held_out_image, save_explanation
    from seesay.explanation.explain import explain as explain_image

    run = choose_run(model)
    status.show(f"loading {run}")
    captioner = load_captioner(run)
    status.show("captioning")
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
        assert isinstance(captioner, TrainedCaptioner)
        best, files = _write_beam_tree(captioner, photo, options, target, inputs), [target]
    else:
        check_explanation(target, save_arrays, inputs)
        explanation = explain_image(captioner, photo, options, references, objects)
        best, files = explanation.caption, save_explanation(explanation, target, save_arrays)
    if json:
        print_json({"image": photo, "caption": best.text, "references": references, "files": files})
        return
    print_line(f"{photo}\nmodel   {best.text}")
    for reference in references:
        print_line(f"human   {reference}")
    print_line(f"written {' '.join(map(str, files))}")


def _check_explain_flags(out: Path | None, save_arrays: bool, beam_tree: bool, flags: DecodingFlags | None) -> None:
    if beam_tree and save_arrays:
        raise ConfigError("--save-arrays writes attention, which --beam-tree does not compute; drop one of them")
    if out is not None:
        require_suffix(out, {".png": "image"} if beam_tree else {".html": "page", ".png": "image"}, "--out")
    if not beam_tree and given_flags(flags).get("num_return_sequences", 1) > 1:
        raise ConfigError("explain shows one caption; drop --num-return-sequences, or plot the search with --beam-tree")


def _write_beam_tree(
    captioner: "TrainedCaptioner", image: str, options: DecodingOptions, target: Path, inputs: Sequence[Any]
) -> "Caption":
    """Plot the candidates of the search, unless an input would be replaced; return the caption."""
    from seesay.explanation.explain import explain_search
    from seesay.files import write_atomically
    from seesay.outputs import PNG_IMAGE, check_file

    check_file(target, PNG_IMAGE, inputs=inputs)
    best, png = explain_search(captioner, image, options)
    write_atomically(target, png)
    return best
