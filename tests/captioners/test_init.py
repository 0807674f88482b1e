"""`load_captioner` opens runs, ensembles and exported folders."""

import subprocess
import sys
from pathlib import Path

import pytest

from seesay import __version__, load_captioner
from seesay.captioners.ensemble import EnsembleCaptioner
from seesay.captioners.onnx import OnnxCaptioner
from seesay.captioners.trained import TrainedCaptioner
from seesay.errors import CheckpointError, ConfigError


def test_a_folder_gives_the_captioner_of_its_kind(cached_run: Path, exported: Path, images: list[str]) -> None:
    run, ensemble, export = (load_captioner(each, "cpu") for each in (exported.parent, [cached_run] * 2, str(exported)))
    assert type(run) is TrainedCaptioner
    assert type(ensemble) is EnsembleCaptioner
    assert type(export) is OnnxCaptioner
    assert run.caption(images[0]).text == export.caption(images[0]).text


def test_exports_are_neither_ensembled_nor_moved_to_a_gpu(cached_run: Path, exported: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be ensembled"):
        load_captioner([cached_run, exported])
    with pytest.raises(ConfigError, match="runs on the CPU"):
        load_captioner(exported, "cuda")


def test_a_folder_without_a_model_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_captioner(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_package_is_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "seesay", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(__version__)
