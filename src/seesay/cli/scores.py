"""`seesay evaluate` and `seesay compare`."""

import functools
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from seesay.cli.console import open_captioner, print_error, print_json, print_line, print_note, progress, show_table
from seesay.cli.options import COMMON, Json
from seesay.cli.parameters import (
    DEFAULT_PRESET,
    CaptionColumn,
    CaptionerFlags,
    DecodingFlags,
    EncoderFlags,
    Features,
    Flat,
    ImageColumn,
    Metrics,
    Server,
    Stores,
    decoding_options,
)
from seesay.config.flags import flag_name, given_flags
from seesay.errors import ConfigError, DataError
from seesay.files import exists
from seesay.outputs import check_folder

if TYPE_CHECKING:
    from seesay.captioners.spec import ModelSpec
    from seesay.evaluation import Comparison, Evaluation


def evaluate(
    model: Annotated[str, COMMON],
    data: Annotated[Path | None, COMMON] = None,
    *,
    split: Annotated[str, COMMON] = "",
    out: Annotated[Path | None, COMMON] = None,
    human: Annotated[bool, COMMON] = False,
    human_caption: str = "",
    only_captioned: Annotated[bool, Parameter(negative="")] = False,
    metrics: Metrics = None,
    tokenization: Literal["ptb", "whitespace", "characters"] | None = None,
    clip_model: str = "",
    draws: int = 10_000,
    image_column: ImageColumn = "",
    caption_column: CaptionColumn = "",
    features: Features = Path("features"),
    store: Stores = None,
    tune_rerank: Annotated[bool, COMMON] = False,
    json: Json = False,
    captioner_flags: Annotated[CaptionerFlags, Server] = CaptionerFlags(),  # noqa: B008
    flags: Annotated[DecodingFlags | None, Flat] = None,
    encoder_flags: Annotated[EncoderFlags | None, Flat] = None,
) -> int:
    """Score a model, a file of predictions, or human captions (--human DATA) on a split of a data set.

    The captions of an evaluation that is interrupted are kept; run the same command to resume.

    Args:
        model: run folder, exported folder, model of the hub, model of the server at --endpoint, or predictions: COCO
            results JSON, or the output of `seesay caption --out` (JSONL, CSV, TSV, Parquet); or knn, which copies the
            consensus caption of the most similar training images of DATA.
        data: captions and images.
        split: split to score, or all [default: test, or the only split, or all images if there are no splits].
        out: folder for scores, predictions and the report [default: RUN/predictions/SPLIT, or evaluations/NAME-SPLIT].
        human: score one reference caption per image against the others; pass only DATA.
        human_caption: number of that caption, from 1, or longest [default: 1].
        only_captioned: score only the images that have a caption in the predictions; recorded in the signature.
        metrics: any of BLEU, ROUGE-L, CIDEr, CIDEr-plain, METEOR, METEOR-jar, SPICE, CLIPScore [default: the first
            three and METEOR]. METEOR and SPICE are for English.
        tokenization: tokenization of captions for scoring [default: characters for runs with a character vocabulary,
            else ptb].
        clip_model: hub name or folder of the CLIPScore model.
        draws: number of bootstrap samples for the confidence intervals.
        tune_rerank: index the training images of a run and choose the settings of --rerank on its validation images,
            instead of scoring; DATA is the data set of its training.
    """
    from seesay.data import ColumnNames
    from seesay.evaluation import DEFAULT_SCORES, evaluate_human
    from seesay.evaluation import evaluate as score
    from seesay.evaluation.captioning import CAPTIONS_FILE, discard_captions
    from seesay.evaluation.clipscore import DEFAULT_CLIP
    from seesay.evaluation.result import EVALUATION

    kind = _kind_of(model, human=human, endpoint=bool(captioner_flags.endpoint))
    given = [*given_flags(flags), *(["store"] if store else []), *captioner_flags.given()]
    _check_unused(human, data is not None, human_caption, [name for name in given if not _reads(kind, name)])
    if only_captioned and kind != "predictions":
        raise ConfigError("--only-captioned is for existing captions; drop it")
    if tune_rerank and (kind in ("human", "knn") or out is not None or split or metrics):
        raise ConfigError(
            "--tune-rerank scores the validation images of a run and stores the settings there; pass RUN and DATA, and "
            "drop --human, --out, --split and --metrics"
        )
    if kind != "knn" and (unread := given_flags(encoder_flags)):
        raise ConfigError(f"{flag_name(next(iter(unread)))} is for knn; a model has its own encoder; drop it")
    if out is not None:
        check_folder(out, EVALUATION, inputs=[model, data])
    common: dict[str, Any] = {
        "split": split or None,
        "tokenization": tokenization,
        "metrics": tuple(metrics or DEFAULT_SCORES),
        "clip_model": clip_model or DEFAULT_CLIP,
        "draws": draws,
        "columns": ColumnNames(image_column, caption_column),
    }
    images: dict[str, Any] = {"features": features, "stores": store or ()}
    folder = functools.partial(_output_folder, out, model, f"human-{human_caption or 1}" if human else "")
    if kind == "human":
        result = evaluate_human(model, which=human_caption or "1", **common)
    elif data is None:
        raise DataError(f"pass the data set to score {model} on: seesay evaluate {model} DATA")
    elif tune_rerank:
        return _tune_rerank(model, data, captioner_flags.device, flags, images, json=json)
    elif kind == "knn":
        images |= {"device": captioner_flags.device}
        result = _evaluate_knn(data, flags, encoder_flags, common | images)
    elif kind == "captioner":
        result = _evaluate_captioner(captioner_flags.spec([model]), data, flags, folder, common | images)
    else:
        result = score(model, data, only_captioned=only_captioned, **common)
    target = folder(result.split)
    _save(result, target, Path(model) / "metrics.csv")
    if kind == "captioner":
        discard_captions(target / CAPTIONS_FILE)
    if json:
        print_json({**result.to_dict(), "folder": target})
    else:
        _print_scores(result)
        print_line(f"saved in {target}; report: {target / 'report.html'}")
    return 0 if result.complete and not (metrics and result.missing_scores) else 1


Kind = Literal["human", "knn", "captioner", "predictions"]
"""What is scored."""

_KNN_FLAGS = ("rerank_neighbours", "store", "device")
"""Flags of models that `knn` reads too."""


def _kind_of(model: str, *, human: bool, endpoint: bool) -> Kind:
    from seesay.evaluation.predictions import is_captioner

    if human:
        return "human"
    if model == "knn" and not exists("knn"):
        return "knn"
    return "captioner" if endpoint or is_captioner(model) else "predictions"


def _reads(kind: Kind, name: str) -> bool:
    """Return whether a flag of captioners is read."""
    return kind == "captioner" or (kind == "knn" and name in _KNN_FLAGS)


def _evaluate_captioner(
    spec: "ModelSpec", data: Path, flags: Any, folder: Callable[[str], Path], arguments: dict[str, Any]
) -> "Evaluation":
    """Return the evaluation of a captioner; its captions are kept in the folder until they are scored."""
    from seesay.evaluation import evaluate as score
    from seesay.evaluation.captioning import CAPTIONS_FILE, reads_stored_features
    from seesay.evaluation.result import EVALUATION

    def unfinished(split: str) -> Path:
        check_folder(folder(split), EVALUATION)  # before captions that may cost money
        return folder(split) / CAPTIONS_FILE

    with open_captioner(spec) as captioner:
        options = decoding_options(captioner.defaults, flags)
        with progress("encoding" if reads_stored_features(captioner) else "captioning", "images") as advance:
            return score(captioner, data, options=options, progress=advance, unfinished=unfinished, **arguments)


def _evaluate_knn(data: Path, flags: Any, encoder_flags: Any, arguments: dict[str, Any]) -> "Evaluation":
    """Return the evaluation of the consensus captions of the most similar training images."""
    from seesay.config import resolve_config
    from seesay.evaluation.knn import evaluate_knn

    encoder = resolve_config(DEFAULT_PRESET, overrides=given_flags(encoder_flags)).encoder
    if chosen := given_flags(flags).get("rerank_neighbours", 0):
        arguments = {**arguments, "neighbours": chosen}
    with progress("encoding", "images") as advance:
        return evaluate_knn(data, encoder, progress=advance, **arguments)


def _tune_rerank(model: str, data: Path, device: str, flags: Any, images: dict[str, Any], *, json: bool) -> int:
    """Index the training images of a run, choose the settings of reranking, and print them."""
    from seesay.captioners.trained import TrainedCaptioner
    from seesay.evaluation.rerank_tuning import best_trials, tune_rerank

    with TrainedCaptioner.load(model, device) as captioner, progress("encoding", "images") as advance:
        options = decoding_options(captioner.defaults, flags)
        trials = tune_rerank(captioner, data, options, progress=advance, **images)
        index = captioner.retrieval
    if json:
        kinds = {trial.kind: asdict(trial) for trial in reversed(trials)}
        print_json({"trials": [asdict(trial) for trial in trials], "chosen": kinds})
        return 0
    header = ("reranking", "candidates", "neighbours", "weight", "CIDEr")
    rows = [
        (trial.kind, str(each.candidates), str(each.neighbours or "–"), f"{each.weight:g}", f"{trial.cider:.2f}")
        for trial in best_trials(trials)
        for each in (trial.settings,)
    ]
    show_table(f"{model}: best weights on the validation images", header, rows)
    if index is not None:
        least = f"{index.info.min_similarity:.3f} ({index.info.calibration})"
        print_line(f"{len(index.ids)} training images indexed; the model's caption is kept below similarity {least}")
    for kind in ("consensus", "mbr"):
        print_line(f"chosen for --rerank {kind}: {next(trial for trial in trials if trial.kind == kind).describe()}")
    return 0


def _check_unused(human: bool, data: bool, human_caption: str, unused: list[str]) -> None:
    """Check that no flag would be ignored; `unused` are flags for runs that were passed with something else."""
    if human and data:
        raise ConfigError("--human scores the captions of the data; pass only DATA")
    if human_caption and not human:
        raise ConfigError("--human-caption selects the human caption to score; add --human or drop it")
    if unused:
        raise ConfigError(f"{flag_name(unused[0])} is for models, not for existing captions; drop it")


def _output_folder(out: Path | None, model: str, human: str, split: str) -> Path:
    """Return the folder of an evaluation: `out`, or the default of the model, or of the human captions, and split."""
    from seesay.checkpoint import is_run
    from seesay.evaluation.eval_split import base_name

    if out is not None:
        return out
    split = base_name(split)
    if not human and is_run(model):
        return Path(model) / "predictions" / split
    # The name of a model may contain slashes and dots.
    name = human or (Path(model).stem if exists(model) else re.sub(r"[^\w.-]+", "-", model))
    return Path("evaluations") / f"{name}-{split}"


def _print_scores(result: "Evaluation") -> None:
    """Print the scores, before writing files, so that a full disk does not lose them."""
    from seesay.evaluation.report import diversity_rows

    for problem in result.problems:
        print_error(problem)
    title = f"{result.system} on {result.split}: {len(result.predictions)} images"
    show_table(title, ("score x 100", "value", "95 % interval"), result.score_rows())
    show_table("", ("statistic", "value"), diversity_rows(result))
    for line in filter(None, (result.diagnosis, result.rejections)):
        print_error(line)
    print_line(result.signature)


def _save(result: "Evaluation", folder: Path, curves: Path) -> None:
    """Write the files of an evaluation, with the training curves of its run if there are any."""
    from seesay.evaluation import save_evaluation
    from seesay.evaluation.report import write_evaluation_report
    from seesay.evaluation.result import REPORT_FILE, SCORES_FILE, read_signature

    scores = folder / SCORES_FILE
    if scores.is_file() and (before := read_signature(scores)) != result.signature:
        print_note(f"replacing the scores of {before} in {folder}; --out keeps both")
    save_evaluation(result, folder)
    write_evaluation_report(result, folder / REPORT_FILE, curves)


def compare(
    *systems: Annotated[str, COMMON],
    data: Annotated[Path | None, COMMON] = None,
    split: Annotated[str, COMMON] = "",
    tokenization: Literal["ptb", "whitespace", "characters"] | None = None,
    metrics: Metrics = None,
    draws: int = 10_000,
    out: Annotated[Path | None, COMMON] = None,
    json: Json = False,
    image_column: ImageColumn = "",
    caption_column: CaptionColumn = "",
) -> int:
    """Compare systems with the first one on the same images: significance and largest differences.

    Args:
        systems: evaluated runs, evaluation folders, or files of predictions (with --data).
        data: reference captions for files of predictions.
        split: split to compare [default: the evaluated one].
        tokenization: tokenization of files of predictions [default: that of the evaluation in their folder, else ptb].
        metrics: see `seesay evaluate`.
        draws: number of bootstrap samples for confidence intervals and p-values.
        out: folder for comparison.json and comparison.html.
    """
    from seesay.data import ColumnNames
    from seesay.evaluation import DEFAULT_SCORES
    from seesay.evaluation.comparison import COMPARISON, save_comparison
    from seesay.evaluation.comparison import compare as compare_systems

    if out is not None:
        check_folder(out, COMPARISON, inputs=[*systems, data])
    if len({Path(name).resolve() for name in systems}) < len(systems):
        print_error(
            "a system is compared with itself; to compare two decodings of a run, evaluate each with its own --out"
        )
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
    if json:
        print_json(found.to_dict())
    else:
        _print_comparison(found)
    if out is not None:
        save_comparison(found, out)
        if not json:
            print_line(f"written {out / 'comparison.html'} and comparison.json")
    return 1 if metrics and found.missing else 0


def _print_comparison(found: "Comparison") -> None:
    """Print the differences of each system to the first."""
    from seesay.evaluation.comparison import HEADER, difference_rows

    first, *others = found.systems
    for system, each, (gains, losses) in zip(others, found.differences, found.extremes, strict=True):
        show_table(f"first {first.name}, second {system.name}", HEADER, difference_rows(each))
        for kind, ids in (("gains", gains), ("loses", losses)):
            if ids:
                print_line(f"{system.name} {kind} most in {found.ranked_by} on:")
            for image_id in ids:
                print_line(f"  {image_id}")
                for one in (first, system):
                    line = f"    {one.name}: {one.predictions[image_id]}"
                    print_line(line)
    for system in found.systems:
        print_line(f"{system.name}: {system.signature}")
    print_line(found.recipe)
