"""Scores of systems, and systems against each other."""

from pathlib import Path
from typing import Annotated, Literal

from seesay.commands.parameters import NOT_GIVEN, DecodingFlags, Features, Flat, Metrics, Stores, decoding_options
from seesay.console import complain, console, progress, show_table
from seesay.errors import ConfigError, DataError


def evaluate(
    model: str,
    data: Path | None = None,
    *,
    split: str = "test",
    out: Path | None = None,
    human: bool = False,
    human_caption: str = "1",
    metrics: Metrics = None,
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
        options = decoding_options(load_run(model).config, flags) if is_run(model) else None
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


def compare(
    *systems: str,
    data: Path | None = None,
    split: str = "test",
    metrics: Metrics = None,
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
