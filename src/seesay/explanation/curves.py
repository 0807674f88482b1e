"""Training curves: losses and CIDEr by epoch, from a run's `metrics.csv`."""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from seesay.errors import DataError
from seesay.files import write_atomically
from seesay.outputs import PNG_IMAGE, check_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN, VALIDATION, SCORE = "#0072b2", "#d55e00", "#00785a"  # distinguishable for colour-blind readers
INK, FAINT = "#202124", "#d0d4da"
DOTS_PER_INCH = 150

COLUMNS = ("train_loss", "val_loss", "val_cider")

Curve = tuple[list[float], list[float]]


def training_curves(metrics_csv: Path, out: Path) -> None:
    """Writes a PNG of the training and validation loss and, if available, the validation CIDEr.

    Args:
        metrics_csv: the metrics of a run; see `draw_training_curves`.
        out: output file, written atomically; its folder is created.

    Raises:
        DataError: the table is missing, damaged or has no loss yet, or `out` is a file not written by seesay.
        SeesayError: the image cannot be written.
    """
    check_file(out, PNG_IMAGE)
    write_atomically(Path(out), draw_training_curves(metrics_csv))


def draw_training_curves(metrics_csv: Path) -> bytes:
    """Returns the PNG of `training_curves`.

    Reads the columns `epoch`, `train_loss`, `val_loss` and `val_cider`; cells may be empty. If an epoch has a row with
    a validation, the training loss of that row is the epoch's mean, and rows of single steps are ignored. Otherwise the
    values of an epoch are averaged.

    Raises:
        DataError: the table is missing, damaged or has no loss yet.
    """
    # Figure and canvas are used directly because pyplot selects a backend for the process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = _read_curves(Path(metrics_csv))
    train, validation, score = curves["train_loss"], curves["val_loss"], curves["val_cider"]
    if not train[0] and not validation[0]:
        raise DataError(f"{metrics_csv} has no loss yet; draw it after the first epoch")
    panels = 2 if score[0] else 1
    figure = Figure(figsize=(5.2 * panels, 3.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False, sharex=True)[0]
    _draw_panel(axes[0], "Loss", (("training", train, TRAIN), ("validation", validation, VALIDATION)))
    axes[0].legend(frameon=False, labelcolor=INK)
    if panels == 2:
        _draw_panel(axes[1], "CIDEr on the validation split", (("CIDEr", score, SCORE),))
        _mark_best(axes[1], score)
    png = io.BytesIO()
    # No library version in the metadata, so that the same table gives the same bytes.
    figure.savefig(png, format="png", dpi=DOTS_PER_INCH, metadata={"Software": "seesay"})
    return png.getvalue()


def _draw_panel(axes: "Axes", title: str, curves: Iterable[tuple[str, Curve, str]]) -> None:
    """Draws curves with markers, so that a single epoch is visible."""
    from matplotlib.ticker import MaxNLocator

    for label, (epochs, values), colour in curves:
        if epochs:
            dots = 4 if len(epochs) <= 60 else 0
            axes.plot(epochs, values, color=colour, label=label, marker="o", markersize=dots, linewidth=1.8)
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.set_xlabel("epoch", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.tick_params(color=FAINT, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)


def _mark_best(axes: "Axes", score: Curve) -> None:
    """Marks the best score."""
    epoch, best = max(zip(*score, strict=True), key=lambda point: point[1])
    axes.plot([epoch], [best], marker="o", markersize=9, markerfacecolor="none", color=SCORE)
    axes.annotate(
        f"best {best:.1f}",
        (epoch, best),
        (0, 9),
        textcoords="offset points",
        ha="center",
        color=INK,
        fontsize=9,
    )
    axes.margins(y=0.18)  # space for the annotation


def _read_curves(path: Path) -> Mapping[str, Curve]:
    """Returns the epochs and values of each column, in order, without values that are not finite."""
    found: dict[str, defaultdict[float, list[float]]] = {name: defaultdict(list) for name in COLUMNS}
    ended: dict[float, float] = {}
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines)
            if "epoch" not in (reader.fieldnames or ()):
                raise DataError(f"{path} has no column 'epoch'; pass the metrics.csv of a run folder")
            for row in reader:
                cells = {name: _number(row.get(name), path, reader.line_num) for name in ("epoch", *found)}
                epoch, loss = cells.pop("epoch"), cells["train_loss"]
                if epoch is not None and loss is not None and cells["val_loss"] is not None:
                    ended[epoch] = loss
                for name, value in cells.items():
                    if epoch is not None and value is not None:
                        found[name][epoch].append(value)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path} ({error}); pass the metrics.csv of a run folder") from error
    found["train_loss"].update({epoch: [loss] for epoch, loss in ended.items()})
    means = {name: {epoch: math.fsum(v) / len(v) for epoch, v in sorted(at.items())} for name, at in found.items()}
    return {name: (list(mean), list(mean.values())) for name, mean in means.items()}


def _number(cell: str | None, path: Path, line: int) -> float | None:
    """Returns the finite number in a cell, or None."""
    if cell is None or not cell.strip():
        return None
    try:
        value = float(cell)
    except ValueError as error:
        raise DataError(f"{path}, line {line}: {cell!r} is not a number; fix or remove that line") from error
    return value if math.isfinite(value) else None
