"""Training curves of metrics.csv."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageColor

from seesay.errors import DataError, SeesayError
from seesay.explanation import curves, draw_training_curves, training_curves

HEADER = "step,epoch,train_loss,val_loss,val_cider,learning_rate,captions_per_second"


def table(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "metrics.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def positions(png: bytes, colour: str) -> NDArray[np.int64]:
    """Returns the (y, x) of every pixel of exactly that colour."""
    array = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    return np.argwhere((array == ImageColor.getrgb(colour)).all(axis=2))


def test_losses_and_cider_are_drawn_on_two_panels(tmp_path: Path) -> None:
    png = draw_training_curves(table(tmp_path, "1,1,3.0,4.0,0.2,1e-3,900", "2,2,2.5,3.8,0.3,1e-3,900"))
    width = Image.open(io.BytesIO(png)).width
    assert (positions(png, curves.SCORE)[:, 1] > width / 2).all()
    for colour in (curves.TRAIN, curves.VALIDATION):
        assert len(positions(png, colour)) > 100
        assert (positions(png, colour)[:, 1] < width / 2).all()


def test_a_decreasing_loss_decreases_and_the_larger_one_is_above(tmp_path: Path) -> None:
    png = draw_training_curves(table(tmp_path, "1,1,3,5,,,", "2,2,2,4,,,", "3,3,1,3,,,"))
    width = Image.open(io.BytesIO(png)).width
    train, validation = (
        points[points[:, 1] < width * 0.6]  # beside the legend
        for points in (positions(png, curves.TRAIN), positions(png, curves.VALIDATION))
    )
    for points in (train, validation):
        assert points[points[:, 1].argmin(), 0] < points[points[:, 1].argmax(), 0]
    assert validation[:, 0].mean() < train[:, 0].mean()


def test_one_epoch_is_drawn(tmp_path: Path) -> None:
    out = tmp_path / "loss.png"
    training_curves(table(tmp_path, "10,1,3.2,3.4,0.1,0.001,800"), out)
    for colour in (curves.TRAIN, curves.VALIDATION, curves.SCORE):
        assert len(positions(out.read_bytes(), colour)) > 20


def test_without_cider_there_is_one_panel(tmp_path: Path) -> None:
    with_score = draw_training_curves(table(tmp_path, "1,1,3,4,0.5,,"))
    without = draw_training_curves(table(tmp_path, "1,1,3,4,,,"))
    assert Image.open(io.BytesIO(without)).width < 0.6 * Image.open(io.BytesIO(with_score)).width
    assert len(positions(without, curves.SCORE)) == 0


def test_several_values_of_an_epoch_are_averaged_in_the_order_of_epochs(tmp_path: Path) -> None:
    last = "30,3,1.1,2,0.2,,"
    several = (last, "10,1,3,,,,", "30,2,1.5,3,0.4,,", "20,1,2,,,,", "20,1,,4,0.3,,")
    unsorted = draw_training_curves(table(tmp_path, *several))
    assert unsorted == draw_training_curves(table(tmp_path, "20,1,2.5,4,0.3,,", "30,2,1.5,3,0.4,,", last))
    assert unsorted != draw_training_curves(table(tmp_path, "20,1,2.6,4,0.3,,", "30,2,1.5,3,0.4,,", last))


def test_the_training_loss_of_an_epoch_ignores_the_logged_steps(tmp_path: Path) -> None:
    """Bug: the mean of the logged steps and the epoch's mean was drawn."""
    steps = table(tmp_path, "10,1,9,,,,", "20,1,7,,,,", "24,1,3,4,0.2,,", "30,2,8,,,,", "48,2,2,3,0.3,,")
    drawn = draw_training_curves(steps)
    assert drawn == draw_training_curves(table(tmp_path, "24,1,3,4,0.2,,", "48,2,2,3,0.3,,"))


def test_other_columns_missing_columns_and_short_rows(tmp_path: Path) -> None:
    plain = draw_training_curves(table(tmp_path, "1,1,3,4,,,"))
    other = table(tmp_path, "green,4,1,3", "green,,2", header="mood,val_loss,epoch,train_loss")
    assert draw_training_curves(other) == plain


def test_a_diverged_loss_is_skipped(tmp_path: Path) -> None:
    diverged = draw_training_curves(table(tmp_path, "1,1,3,4,nan,,", "1,1,nan,,0.5,,", "2,2,nan,inf,,,"))
    assert diverged == draw_training_curves(table(tmp_path, "1,1,3,4,0.5,,"))


def test_the_best_score_is_marked_at_its_epoch(tmp_path: Path) -> None:
    heights = []
    for first, last in (("0.2", "0.4"), ("0.4", "0.2")):
        png = draw_training_curves(table(tmp_path, f"1,1,3,4,{first},,", f"2,2,3,4,{last},,"))
        array = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)
        panel = array[:, array.shape[1] // 2 :]
        green = panel[..., 1] > panel[..., 0] + 20
        columns = np.flatnonzero(green.any(axis=0))
        heights.append([np.flatnonzero(green[:, x].any(axis=1)).size for x in (columns[:12], columns[-12:])])
    (low_first, high_last), (high_first, low_last) = heights
    # The best dot has a ring around it, which is taller than a dot.
    assert high_last > low_first + 5
    assert high_first > low_last + 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("step,train_loss\n1,2\n", "no column 'epoch'"),
        ("", "no column 'epoch'"),
        (HEADER + "\n", "no loss yet"),
        (HEADER + "\n1,1,,,0.5,,\n", "no loss yet"),
        (HEADER + "\n1,1,2.0,,,,\n2,2,oops,,,,\n", "line 3: 'oops' is not a number"),
    ],
)
def test_an_invalid_table_is_refused_with_the_reason(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        training_curves(path, tmp_path / "loss.png")
    assert str(path) in str(caught.value)
    assert not (tmp_path / "loss.png").exists()


def test_a_missing_or_binary_table_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        draw_training_curves(tmp_path / "metrics.csv")
    (tmp_path / "metrics.csv").write_bytes(b"\xff\xfe\x00epoch")
    with pytest.raises(DataError, match="cannot read"):
        draw_training_curves(tmp_path / "metrics.csv")


def test_the_plot_is_replaced_and_no_other_file_is_left(tmp_path: Path) -> None:
    out = tmp_path / "run" / "loss.png"
    training_curves(table(tmp_path, "1,1,3,4,,,"), out)
    before = out.read_bytes()
    training_curves(table(tmp_path, "1,1,3,4,,,", "2,2,2,3,,,"), out)
    assert out.read_bytes() != before
    assert [path.name for path in out.parent.iterdir()] == ["loss.png"]


def test_a_plot_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SeesayError, match="cannot write"):
        training_curves(table(tmp_path, "1,1,3,4,,,"), tmp_path)


def test_drawing_has_no_global_state_and_importing_is_lazy(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from seesay.explanation import draw_training_curves\n"
        "assert 'matplotlib' not in sys.modules and 'torch' not in sys.modules\n"
        "draw_training_curves(Path(sys.argv[1])); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(table(tmp_path, "1,1,3,4,,,"))], check=True)
