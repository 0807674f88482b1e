"""Scores of systems, and systems against each other."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from seesay.commands.parameters import (
    CaptionColumn,
    DecodingFlags,
    Features,
    Flat,
    ImageColumn,
    Metrics,
    Stores,
    decoding_options,
)
from seesay.config.flags import given_flags
from seesay.console import print_error, progress, say, show_table
from seesay.errors import ConfigError, DataError
from seesay.outputs import check_folder

if TYPE_CHECKING:
    from seesay.evaluation import Evaluation


def evaluate(
    model: str,
    data: Path | None = None,
    *,
    split: str = "",
    out: Path | None = None,
    human: bool = False,
    human_caption: str = "",
    metrics: Metrics = None,
    tokenization: Literal["ptb", "whitespace", "characters"] | None = None,
    clip_model: str = "",
    draws: int = 10_000,
    image_column: ImageColumn = "",
    caption_column: CaptionColumn = "",
    features: Features = Path("features"),
    store: Stores = None,
    flags: Annotated[DecodingFlags | None, Flat] = None,
) -> int:
    """Score a run, a file of predictions, or people (--human DATA), on a split of a data set.

    Args:
        model: run folder, or predictions: COCO results JSON, or what `seesay caption --out` writes (JSONL, CSV, TSV,
            Parquet).
        data: captions and images.
        split: which images; all takes every one [default: test, or the only one, or all where there are none].
        out: folder for scores, predictions and the report [default: RUN/predictions/SPLIT, or evaluations/NAME-SPLIT].
        human: score one human caption of each image against the others; then name only DATA.
        human_caption: which: its number from 1, or longest [default: 1].
        metrics: of BLEU, ROUGE-L, CIDEr, CIDEr-plain, METEOR, METEOR-jar, SPICE, CLIPScore [default: the first
            three and METEOR]. METEOR and SPICE are for English.
        tokenization: how captions are tokenized for scoring [default: characters for a run with a vocabulary of
            characters, else ptb].
        clip_model: hub name or folder of the weights of CLIPScore.
        draws: bootstrap draws of the intervals.
    """
    from seesay.checkpoint import is_run, load_run
    from seesay.clipscore import DEFAULT_CLIP
    from seesay.data import ColumnNames
    from seesay.evaluation import DEFAULT_SCORES, evaluate_human, save_evaluation
    from seesay.evaluation import evaluate as score
    from seesay.evaluation.report import write_evaluation_report
    from seesay.evaluation.result import EVALUATION, REPORT_FILE

    common: dict[str, Any] = {
        "split": split or None,
        "tokenization": tokenization,
        "metrics": tuple(metrics or DEFAULT_SCORES),
        "clip_model": clip_model or DEFAULT_CLIP,
        "draws": draws,
        "columns": ColumnNames(image_column, caption_column),
    }
    run = not human and is_run(model)
    idle = [] if run else [*given_flags(flags), *(["store"] if store else [])]
    _refuse_idle(human, data is not None, human_caption, idle)
    if out is not None:
        check_folder(out, EVALUATION, inputs=[model, data])
    if human:
        result = evaluate_human(model, which=human_caption or "1", **common)
    elif data is None:
        raise DataError(f"name the data set that {model} is scored on: seesay evaluate {model} DATA")
    else:
        options = decoding_options(load_run(model).config, flags) if run else None
        with progress("encoding", "images") as advance:
            result = score(
                model, data, options=options, features=features, stores=store or (), progress=advance, **common
            )
    _show(result)
    target = out or _default_folder(model, f"human-{human_caption or 1}" if human else "", result.split, run)
    save_evaluation(result, target)
    write_evaluation_report(result, target / REPORT_FILE, Path(model) / "metrics.csv")
    say(f"saved in {target}")
    return 0 if result.complete and not (metrics and result.missing_scores) else 1


def _refuse_idle(human: bool, data: bool, human_caption: str, idle: list[str]) -> None:
    """Refuses what would be passed over: `idle` are flags of runs that were given for something else."""
    if human and data:
        raise ConfigError("--human scores the data's own captions; name only DATA")
    if human_caption and not human:
        raise ConfigError("--human-caption says which human caption is scored; add --human or leave it")
    if idle:
        raise ConfigError(f"--{idle[0].replace('_', '-')} is for runs; these captions are there already")


def _default_folder(model: str, human: str, split: str, run: bool) -> Path:
    split = split.partition("(")[0]
    return Path(model) / "predictions" / split if run else Path("evaluations") / f"{human or Path(model).stem}-{split}"


def _show(result: "Evaluation") -> None:
    """Prints what was found: scores before anything is written, so that a full disk loses none of them."""
    from seesay.evaluation.report import diversity_rows, score_rows

    for problem in result.problems:
        print_error(problem)
    title = f"{result.system} on {result.split}: {len(result.predictions)} images"
    show_table(title, ("score x 100", "value", "95 % interval"), score_rows(result))
    show_table("", ("statistic", "value"), diversity_rows(result))
    if result.diagnosis:
        print_error(result.diagnosis)
    say(result.signature)


def compare(
    *systems: str,
    data: Path | None = None,
    split: str = "",
    tokenization: Literal["ptb", "whitespace", "characters"] | None = None,
    metrics: Metrics = None,
    draws: int = 10_000,
    out: Path | None = None,
    image_column: ImageColumn = "",
    caption_column: CaptionColumn = "",
) -> int:
    """Compare systems on the same images with the first one: which differences are real, and where they lie.

    Args:
        systems: evaluated runs, folders of evaluations, or files of predictions (with --data).
        data: captions that files of predictions are scored against.
        split: which images [default: those that were evaluated].
        tokenization: of files of predictions [default: that of the evaluations beside them, else ptb].
        metrics: as of `seesay evaluate`.
        draws: bootstrap draws of the intervals and p-values.
        out: folder for comparison.json and comparison.html.
    """
    from seesay.data import ColumnNames
    from seesay.evaluation import DEFAULT_SCORES
    from seesay.evaluation.comparison import COMPARISON, difference_rows, save_comparison
    from seesay.evaluation.comparison import compare as compare_systems

    if out is not None:
        check_folder(out, COMPARISON, inputs=[*systems, data])
    wanted = tuple(metrics or DEFAULT_SCORES)
    found = compare_systems(
        systems,
        data=data,
        split=split or None,
        tokenization=tokenization,
        metrics=wanted,
        draws=draws,
        columns=ColumnNames(image_column, caption_column),
    )
    for reason in (*found.warnings, *found.missing.values()):
        print_error(reason)
    first, *others = found.systems
    header = ("score x 100", "first", "second", "difference", "95 % interval", "p", "significant")
    for system, each, (gains, losses) in zip(others, found.differences, found.extremes, strict=True):
        show_table(f"first {first.name}, second {system.name}", header, difference_rows(each))
        for kind, ids in (("gains", gains), ("loses", losses)):
            say(f"{system.name} {kind} most in {found.ranked_by} on:")
            for image_id in ids:
                say(f"  {image_id}")
                for one in (first, system):
                    line = f"    {one.name}: {one.predictions[image_id]}"
                    say(line)
    for system in found.systems:
        say(f"{system.name}: {system.signature}")
    say(found.recipe)
    if out is not None:
        save_comparison(found, out)
        say(f"written {out / 'comparison.html'} and comparison.json")
    return 1 if metrics and found.missing else 0
