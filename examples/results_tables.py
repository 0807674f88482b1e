"""Print tables like those of docs/results/ from trained runs and the evaluations that `seesay evaluate --out` saved.

`python examples/results_tables.py NAME=RUN:EVALUATION[,EVALUATION...] ...` prints a row per evaluation, then a row per
run, then one line of JSON, all read from those folders.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

SCORES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")


def decoding_of(saved: dict[str, Any]) -> str:
    """Return the decoding strategy of an evaluation."""
    options = saved["decoding"]
    return f"beam {options['beam_size']}" if options["strategy"] == "beam" else str(options["strategy"])


def parameters_of(run: Path) -> int:
    """Return the number of parameters of a run's model without its encoder."""
    with safe_open(run / "model.safetensors", "np") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys() if not name.startswith("encoder")]  # noqa: SIM118
    total = 0
    for shape in shapes:
        size = 1
        for side in shape:
            size *= side
        total += size
    return total


def score_row(name: str, saved: dict[str, Any]) -> list[str]:
    """Return the table cells of an evaluation."""
    scores = [f"{100 * saved['scores'][score]:.2f}" for score in SCORES]
    low, high = (100 * bound for bound in saved["intervals_95"]["CIDEr"])
    scores[-1] += f" ({low:.1f}–{high:.1f})"
    diversity = saved["diversity"]
    distinct = f"{diversity['distinct_1']:.3f}, {diversity['distinct_2']:.3f}".replace("0.", ".")
    return [
        name,
        decoding_of(saved),
        *scores,
        f"{100 * diversity['unique']:.1f} %",
        distinct,
        f"{100 * diversity['cut']:.1f} %",
    ]


def run_row(name: str, run: Path) -> list[str]:
    """Return the table cells of a run."""
    progress = json.loads((run / "captioner.json").read_text(encoding="utf-8"))["progress"]
    training = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["training"]
    stopped = progress.get("stopped_by", "time limit")
    return [
        name,
        f"{parameters_of(run):,}",
        f"{progress['epochs']} of {training['epochs']}",
        str(progress["best_epoch"]),
        f"{progress['best']:.1f}",
        stopped,
        str(training["seed"]),
        f"{progress['seconds'] / 60:.0f}",
    ]


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN:EVALUATION,...")
    evaluations, runs = [], []
    for argument in parser.parse_args().runs:
        name, _, rest = argument.partition("=")
        run, _, folders = rest.partition(":")
        runs.append(run_row(name, Path(run)))
        for folder in filter(None, folders.split(",")):
            saved = json.loads((Path(folder) / "scores.json").read_text(encoding="utf-8"))
            evaluations.append(score_row(name, saved))
    heads = ["system", "decoding", *SCORES[:-1], "CIDEr (95 % interval)", "unique", "distinct-1, -2", "cut endings"]
    print(table(heads, evaluations), end="\n\n")
    heads = ["system", "parameters", "epochs", "best epoch", "validation CIDEr", "stopped by", "seed", "minutes"]
    print(table(heads, runs), end="\n\n")
    print(json.dumps({"evaluations": evaluations, "runs": runs}))


if __name__ == "__main__":
    main()
