"""Captions of pictures, and where the model looked."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from seesay.commands.parameters import NOT_GIVEN, DecodingFlags, Flat, Model, Models, decoding_options
from seesay.console import choose_run, complain, console, progress
from seesay.errors import ConfigError, DataError, ImageError
from seesay.flags import given

if TYPE_CHECKING:
    from seesay.caption import PictureCaptioner


def caption(
    *sources: str,
    model: Models = None,
    out: Path | None = None,
    format: Literal["text", "jsonl"] = "text",
    device: str = "auto",
    flags: Annotated[DecodingFlags, Flat] = NOT_GIVEN["DecodingFlags"],
) -> int:
    """Caption pictures: files, folders, globs or URLs; several captions each with --num-captions.

    Args:
        sources: what to caption.
        out: JSONL file to append to; pictures it holds already are skipped.
        format: how captions are printed where there is no --out.
        device: auto, cpu, cuda or mps.
    """
    from seesay import bulk

    if not sources:
        raise DataError("name at least one picture, folder, glob or URL to caption")
    pictures = bulk.find_pictures(sources)
    captioner = _load_captioner(model or [""], device)
    options = decoding_options(captioner.config, flags)
    unreadable = 0
    if out is not None:
        with progress("captioning", "pictures") as advance:
            seen = iter(range(1, len(pictures) + 1))

            def note(picture: str, found: object) -> None:
                if isinstance(found, ImageError):
                    complain(str(found))
                advance(next(seen), len(pictures))

            done = bulk.caption_to_jsonl(captioner, pictures, out, options, note)
        console.print(f"{done.captioned} captioned, {done.skipped} already there, {done.unreadable} unreadable: {out}")
        return 1 if done.unreadable else 0
    for picture, found in captioner.caption_each(pictures, options):
        if isinstance(found, ImageError):
            unreadable += 1
            complain(str(found))
        elif format == "jsonl":
            print(bulk.json_line(str(picture), found, options.num_captions > 1), flush=True)
        else:
            for each in (found, *found.alternatives):
                print(f"{picture}\t{each.text}" if len(pictures) > 1 else each.text, flush=True)
    return 1 if unreadable else 0


def _load_captioner(names: Sequence[str], device: str) -> "PictureCaptioner":
    """Returns the captioner of run folders, or of one exported folder, for which torch is not needed.

    Raises:
        ConfigError: an export among several models, or on another device than the processor.
    """
    from seesay.onnx_runtime import OnnxCaptioner, is_export

    folders = [choose_run(name) for name in names]
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
    flags: Annotated[DecodingFlags, Flat] = NOT_GIVEN["DecodingFlags"],
) -> None:
    """Show where the model looks at each word of a picture's caption.

    Args:
        photo: the picture.
        out: PNG to write [default: PHOTO.explain.png, or PHOTO.tree.png, in this folder].
        save_arrays: write the attention as .npz too.
        beam_tree: draw the candidates of the search and their scores at each word instead.
        held_out: data set of which a random unseen picture is taken, with its human captions.
        seed: makes that choice repeatable.
    """
    if beam_tree and save_arrays:
        raise ConfigError("--save-arrays writes attention, which --beam-tree does not show; leave one of them")
    if not beam_tree and given(flags).get("num_captions", 1) > 1:
        raise ConfigError("explain shows one caption; leave --num-captions, or draw their search with --beam-tree")

    from seesay.captioner import Captioner
    from seesay.explanation import explain as explain_picture
    from seesay.explanation import explain_search, held_out_picture, save_explanation
    from seesay.files import write_atomically

    captioner = Captioner.load(choose_run(model))
    references: tuple[str, ...] = ()
    if held_out is not None:
        item = held_out_picture(captioner, held_out, seed)
        photo, references = item.image, item.captions
    elif not photo:
        raise DataError("name a picture, or a data set with --held-out DATA")
    options = decoding_options(captioner.run.config, flags)
    target = out or Path(f"{Path(photo).stem}.{'tree' if beam_tree else 'explain'}.png")
    if beam_tree:
        said, png = explain_search(captioner, photo, options)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, png)
        files = [target]
    else:
        explanation = explain_picture(captioner, photo, options, references)
        said, files = explanation.caption, save_explanation(explanation, target, save_arrays)
    print(f"{photo}\nmodel   {said.text}")
    for reference in references:
        print(f"human   {reference}")
    print(f"written {' '.join(map(str, files))}")
