"""The command line: one function a command, each of which parses, calls one function, and prints."""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from cyclopts import App, Parameter
from rich.table import Table

import seesay
from seesay import config as configuration
from seesay.console import choose_run, complain, console, download_progress, log_handler, progress, show_table
from seesay.errors import ConfigError, DataError, ImageError, SeesayError
from seesay.flags import flags_of, given

if TYPE_CHECKING:
    TrainFlags: TypeAlias = Any  # made below, out of the type checker's sight
    ExtractFlags: TypeAlias = Any
    DecodingFlags: TypeAlias = Any
    DataFlags: TypeAlias = Any
else:
    TrainFlags = flags_of("TrainFlags", "data", "text", "encoder", "model", "training", "decoding")
    ExtractFlags = flags_of("ExtractFlags", "data", "encoder")
    DecodingFlags = flags_of("DecodingFlags", "decoding")
    DataFlags = flags_of("DataFlags", "data", "text")

NOT_GIVEN: dict[str, Any] = {kind.__name__: kind() for kind in (TrainFlags, ExtractFlags, DecodingFlags, DataFlags)}

app = App(
    name="seesay",
    version=seesay.__version__,
    help="Train, evaluate, look inside and run image captioners.",
    suppress_keyboard_interrupt=False,  # `main` says how to go on
)
data_app = App(name="data", help="Check, make, download and convert captioned pictures.")
presets_app = App(name="presets", help="The systems that ship with seesay: list them, or show one.")
app.command(data_app)
app.command(presets_app)

Preset = Annotated[str, Parameter(help="a system of `seesay presets`")]
ConfigFile = Annotated[Path | None, Parameter(name="--config", help="YAML file of settings, as runs save it")]
Features = Annotated[Path, Parameter(help="folder of feature stores")]
Stores = Annotated[list[Path] | None, Parameter(name="--store", help="given feature stores, joined along F")]
Model = Annotated[str, Parameter(help="run folder; empty = the latest under runs/")]
Models = Annotated[
    list[str] | None,
    Parameter(name="--model", help="run folder, or several of one vocabulary that speak as one; none = the latest"),
]
Flat = Parameter(name="*")


@app.command
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
    from seesay.captioner import Captioner

    if not sources:
        raise DataError("name at least one picture, folder, glob or URL to caption")
    pictures = bulk.find_pictures(sources)
    captioner = Captioner.load([choose_run(name) for name in model or [""]], device)
    options = _decoding(captioner.run.config, flags)
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
            print(json.dumps(bulk.as_json(str(picture), found), ensure_ascii=False), flush=True)
        else:
            for each in (found, *found.alternatives):
                print(f"{picture}\t{each.text}" if len(pictures) > 1 else each.text, flush=True)
    return 1 if unreadable else 0


@app.command
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
    options = _decoding(captioner.run.config, flags)
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


@app.command
def train(
    data: Path,
    *,
    preset: Preset = "attention-gru",
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
        data: captions and pictures in any form `seesay data check` can read.
        out: run folder [default: runs/PRESET, of a second stage the first's with -scst after it].
        resume: go on with the run in --out by its own settings.
        overwrite: throw away the run in --out.
    """
    from seesay.checkpoint import load_run
    from seesay.training.fit import train as fit
    from seesay.training.stages import second_stage, settings_of_first

    overrides = given(flags)
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
    with progress("encoding", "pictures") as advance:
        result = fit(
            settings,
            data,
            out,
            features=features,
            stores=store or (),
            overwrite=overwrite,
            progress=advance,
        )
    console.print(f"run folder {result.folder}; try: seesay evaluate {result.folder} {data}", highlight=False)


@app.command
def extract(
    data: Path,
    *,
    preset: Preset = "attention-gru",
    config: ConfigFile = None,
    features: Features = Path("features"),
    import_from: Path | None = None,
    out: Path | None = None,
    device: str = "auto",
    flags: Annotated[ExtractFlags, Flat] = NOT_GIVEN["ExtractFlags"],
) -> int:
    """Run the encoder over every picture once and keep its features.

    Args:
        data: captions and pictures.
        import_from: take features that exist already: a folder of .npy files, an .npz or an HDF5 file.
        out: the store's file [default: a name of its own in --features].
        device: auto, cpu, cuda or mps.
    """
    from seesay.data.annotations import load_dataset
    from seesay.devices import choose_device
    from seesay.features import extract_features, import_features, store_path
    from seesay.models.encoders import build_encoder

    settings = configuration.resolve_config(preset, config, given(flags))
    annotations = load_dataset(data, settings.data)
    images = {item.id: item.image for item in annotations if item.split is not None}
    if import_from is not None:
        target = out or features / f"{data.resolve().stem}-{import_from.stem}.safetensors"
        count = import_features(import_from, images, target)
        console.print(f"{count} of {len(images)} pictures imported into {target}", highlight=False)
        return 0 if count == len(images) else 1
    encoder = build_encoder(settings.encoder)
    target = out or store_path(features, data, encoder)
    with progress("encoding", "pictures") as advance:
        report = extract_features(images, encoder, target, device=choose_device(device), progress=advance)
    for line in report.unreadable:
        complain(line)
    console.print(
        f"{report.images} pictures in {target}; {report.extracted} encoded now in {report.seconds:.0f} s: "
        f"{report.rate:.1f} pictures/s, the encoder alone {report.encoder_rate:.1f}",
        highlight=False,
    )
    return 1 if report.unreadable else 0


@app.command
def evaluate(
    model: str,
    data: Path | None = None,
    *,
    split: str = "test",
    out: Path | None = None,
    human: bool = False,
    human_caption: str = "1",
    metrics: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    tokenization: Literal["ptb", "whitespace", "characters"] = "ptb",
    features: Features = Path("features"),
    store: Stores = None,
    flags: Annotated[DecodingFlags, Flat] = NOT_GIVEN["DecodingFlags"],
) -> int:
    """Score a run, a file of predictions, or people (--human DATA), on a split of a data set.

    Args:
        model: run folder, or predictions as COCO results JSON, JSONL or CSV.
        data: captions and pictures.
        split: which pictures.
        out: folder for scores, predictions and the report [default: RUN/predictions/SPLIT, for a run].
        human: score one human caption of each picture against the others; then name only DATA.
        human_caption: which: its number from 1, or longest.
        metrics: of BLEU, ROUGE-L, CIDEr, CIDEr-plain, METEOR, METEOR-jar, SPICE, CLIPScore [default: the first
            three and METEOR].
        tokenization: how captions are cut into words for scoring.
    """
    from seesay.checkpoint import is_run, load_run
    from seesay.evaluation import DEFAULT_SCORES, evaluate_human, save_evaluation
    from seesay.evaluation import evaluate as score
    from seesay.evaluation.report import diversity_rows, score_rows, write_evaluation_report

    wanted = tuple(metrics or DEFAULT_SCORES)
    if human:
        if data is not None:
            raise ConfigError("--human scores the data's own captions; name only DATA")
        result = evaluate_human(model, split=split, which=human_caption, tokenization=tokenization, metrics=wanted)
    elif data is None:
        raise DataError(f"name the data set that {model} is scored on: seesay evaluate {model} DATA")
    else:
        options = _decoding(load_run(model).config, flags) if is_run(model) else None
        with progress("encoding", "pictures") as advance:
            result = score(
                model,
                data,
                split=split,
                options=options,
                tokenization=tokenization,
                metrics=wanted,
                features=features,
                stores=store or (),
                progress=advance,
            )
    for problem in result.problems:
        complain(problem)
    target = out or (Path(model) / "predictions" / split if not human and is_run(model) else None)
    if target is not None:
        save_evaluation(result, target)
        write_evaluation_report(result, target / "report.html", Path(model) / "metrics.csv")
    title = f"{result.system} on {split}: {len(result.predictions)} pictures"
    show_table(title, ("score x 100", "value", "95 % interval"), score_rows(result))
    show_table("", ("beside the scores", "value"), diversity_rows(result))
    if result.verdict:
        complain(result.verdict)
    console.print(f"{result.signature}{f'; saved in {target}' if target else ''}", highlight=False, soft_wrap=True)
    asked_and_missing = metrics is not None and bool(result.missing_scores)
    return 1 if asked_and_missing or any("could not be read" in problem for problem in result.problems) else 0


@app.command
def compare(
    *systems: str,
    data: Path | None = None,
    split: str = "test",
    metrics: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    out: Path | None = None,
) -> None:
    """Compare systems on the same pictures with the first one: which differences are real, and where they lie.

    Args:
        systems: evaluated runs, folders of evaluations, or files of predictions (with --data).
        data: captions that files of predictions are scored against.
        split: which pictures.
        metrics: as of `seesay evaluate`.
        out: folder for comparison.json and comparison.html.
    """
    from seesay.evaluation import DEFAULT_SCORES
    from seesay.evaluation.comparison import compare as compare_systems
    from seesay.evaluation.comparison import difference_rows, save_comparison

    found = compare_systems(systems, data=data, split=split, metrics=tuple(metrics or DEFAULT_SCORES))
    first, *others = found.systems
    header = ("score x 100", "first", "second", "difference", "95 % interval", "p", "real")
    for system, each, (gains, losses) in zip(others, found.differences, found.apart, strict=True):
        show_table(f"first {first.name}, second {system.name}", header, difference_rows(each))
        for kind, ids in (("gains", gains), ("loses", losses)):
            console.print(f"{system.name} {kind} most in {found.ranked_by} on:", highlight=False)
            for image_id in ids:
                console.print(f"  {image_id}", highlight=False, markup=False)
                for each_system in (first, system):
                    line = f"    {each_system.name}: {each_system.predictions[image_id]}"
                    console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(first.scores.signature, highlight=False, soft_wrap=True)
    if out is not None:
        save_comparison(found, out)
        console.print(f"written {out / 'comparison.html'} and comparison.json", highlight=False)


@app.command
def demo(*, out: Path = Path("demo"), seed: int = 0) -> None:
    """Make the scenes data set, train on it, evaluate, caption unseen scenes and write a report to look at.

    Args:
        out: folder for everything.
        seed: of data and training.
    """
    from seesay.demo import run_demo

    result = run_demo(out, seed=seed)
    for line in result.lines():
        console.print(line, highlight=False, soft_wrap=True)


@app.command
def doctor() -> None:
    """Say what this installation has: versions, device, optional libraries."""
    from seesay.doctor import diagnose

    table = Table("part", "state")
    for part, state in diagnose():
        table.add_row(part, state)
    console.print(table)


@data_app.command(name="check")
def data_check(
    data: Path,
    *,
    open_pictures: bool = True,
    json_out: Annotated[Path | None, Parameter(name="--json")] = None,
    flags: Annotated[DataFlags, Flat] = NOT_GIVEN["DataFlags"],
) -> int:
    """Say what a data set holds and what is wrong with it; exit 0 if one can train on it.

    Args:
        data: captions and pictures.
        open_pictures: read every picture, to find damage and duplicates.
        json_out: write the findings as JSON too.
    """
    from seesay.data import check_data, load_annotations

    settings = configuration.resolve_config(overrides=given(flags))
    annotations = load_annotations(data, settings.data.format)
    with progress("reading", "pictures") as advance:
        report = check_data(annotations, settings.text, open_pictures=open_pictures, progress=advance)
    for line in report.lines():
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if json_out is not None:
        json_out.write_text(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if report.trainable else 1


@data_app.command(name="scenes")
def data_scenes(
    folder: Path, *, train: int = 3000, val: int = 200, test: int = 200, seed: int = 0, size: int = 96
) -> None:
    """Draw a data set of simple scenes with captions and boxes.

    Args:
        folder: where to.
        train: pictures of the train split.
        val: pictures of the val split.
        test: pictures of the test split.
        seed: the same seed gives the same bytes.
        size: side of a picture in pixels.
    """
    from seesay.data import make_scenes

    made = make_scenes(folder, train, val, test, seed, size)
    console.print(f"{len(made)} scenes in {folder}", highlight=False)


@data_app.command(name="download")
def data_download(
    name: str, folder: Path | None = None, *, mirror: str | None = None, keep_archives: bool = False
) -> None:
    """Fetch a public data set: flickr8k, coco2014 or coco2017.

    Args:
        name: which.
        folder: where to [default: data/NAME].
        mirror: address that has the same paths.
        keep_archives: keep the zips after unpacking.
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
    console.print(f"{name} is in {target}; look at it with: seesay data check {target}", highlight=False)


@data_app.command(name="convert")
def data_convert(data: Path, out: Path, *, format: str = "auto") -> None:
    """Write any readable captions in seesay's own form, one JSON line a picture.

    Args:
        data: captions and pictures.
        out: the .jsonl file.
        format: reader of the captions.
    """
    from seesay.data import load_annotations, write_annotations

    annotations = load_annotations(data, format)
    write_annotations(annotations, out)
    for problem in annotations.problems:
        complain(problem)
    console.print(f"{len(annotations)} pictures written to {out}", highlight=False)


@presets_app.default
@presets_app.command(name="list")
def presets_list() -> None:
    """List the presets."""
    table = Table("preset", "what it is")
    for name in configuration.preset_names():
        table.add_row(name, configuration.preset_description(name))
    console.print(table)


@presets_app.command(name="show")
def presets_show(name: str) -> None:
    """Print every setting of a preset as YAML, ready for --config.

    Args:
        name: the preset.
    """
    import yaml

    print(yaml.safe_dump(configuration.to_dict(configuration.resolve_config(name)), sort_keys=False), end="")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code; errors of ours become one line."""
    logger = logging.getLogger("seesay")
    logger.handlers[:] = [log_handler()]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        code = app(arguments, result_action="return_value")
    except SeesayError as error:
        complain(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        complain("stopped; the same command goes on where it stopped")
        return 130
    except BrokenPipeError:
        return 141
    except OSError as error:  # a disk that is full, a folder that may not be written
        complain(f"error: {error}")
        return 2
    return code if isinstance(code, int) else 0


def _decoding(config: configuration.Config, flags: Any) -> configuration.DecodingOptions:
    """Returns a run's decoding options with the flags that were given; another strategy leaves the run's own behind."""
    values = given(flags)
    strategy = values.get("strategy", config.decoding.strategy)
    unread = configuration.unread_fields(strategy)
    for name in values:
        if name in unread:
            raise ConfigError(
                f"--{name.replace('_', '-')} is read by --strategy {unread[name]} only; the strategy is {strategy}"
            )
    defaults = {name: getattr(configuration.DecodingOptions(), name) for name in unread}
    return configuration.replace(config, **defaults, **values).decoding


def _entry() -> None:
    sys.exit(main())


if __name__ == "__main__":
    _entry()
