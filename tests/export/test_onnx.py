"""Exported folders: content, errors, and atomic creation."""

import dataclasses
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import seesay.export.onnx
from seesay.captioners.onnx import Manifest, OnnxCaptioner
from seesay.captioners.onnx.manifest import MANIFEST_FILE, REQUIREMENTS
from seesay.captioners.trained import TrainedCaptioner
from seesay.checkpoint import load_run, save_run, save_weights
from seesay.errors import ConfigError, DataError, MissingDependencyError, SeesayError
from seesay.export import export_onnx
from seesay.export.folder import atomic_folder
from seesay.export.quantise import calibration_pixels, quantise_encoder
from tests import tiny

FILES = {"encoder.onnx", "decoder.onnx", "tokenizer.json", "export.json", "README.txt"}


def test_the_folder_describes_its_content(exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == FILES
    run, manifest = load_run(exported.parent), Manifest.load(exported)
    assert manifest.config.decoding == run.config.decoding
    assert (manifest.grid, manifest.max_length, manifest.source) == (run.info.grid, run.info.max_length, "run")
    assert manifest.preprocessing.to_dict() == run.info.features["preprocessing"] == manifest.encoder["preprocessing"]
    assert manifest.encoder_precision == "float32"
    readme = (exported / "README.txt").read_text()
    assert f"seesay caption --model {exported} " in readme
    assert f"(B, {tiny.SIZE}, {tiny.SIZE}, 3)" in readme
    install = f"pip install {' '.join(REQUIREMENTS)}\n"
    assert f"    {install}" in readme
    assert f"\n{install}" in (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


def test_both_graphs_are_valid_with_dynamic_batch_and_beam(exported: Path) -> None:
    for name in ("encoder", "decoder"):
        graph = onnx.load(exported / f"{name}.onnx")
        onnx.checker.check_model(graph, full_check=True)
        for graph_input in graph.graph.input:
            sizes = graph_input.type.tensor_type.shape.dim
            assert sizes[0].dim_param
            if graph_input.name == "tokens" or graph_input.name.startswith("row."):
                assert sizes[1].dim_param


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of images."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(6):
        tiny.image(number).save(folder / f"{number}.png")
    return str(folder)


@pytest.fixture(scope="module")
def int8_export(exported: Path, image_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same export with an 8-bit encoder."""
    folder = Path(shutil.copytree(exported, tmp_path_factory.mktemp("int8") / "onnx"))
    quantise_encoder(folder / "encoder.onnx", calibration_pixels([image_folder], Manifest.load(exported).preprocessing))
    return folder


@pytest.mark.slow
def test_a_run_is_exported_in_8_bits(exported: Path, image_folder: str, int8_export: Path) -> None:
    report = export_onnx(exported.parent, None, [image_folder])
    assert report.folder == exported.parent / "onnx-int8"
    assert report.difference > 1e-3
    assert Manifest.load(report.folder).encoder_precision == "int8"
    assert report.encoder_bytes == (int8_export / "encoder.onnx").stat().st_size


def test_only_the_encoder_is_quantised(exported: Path, int8_export: Path) -> None:
    exact, quantised = (onnx.load(folder / "encoder.onnx").graph for folder in (exported, int8_export))
    convolutions = [node for node in quantised.node if node.op_type == "Conv"]
    scaled = {name for node in quantised.node if node.op_type == "DequantizeLinear" for name in node.output}
    assert convolutions
    assert all(scaled.issuperset(node.input[:2]) for node in convolutions)
    after = [node for node in quantised.node if node.op_type == "MatMul"]
    assert len(after) == sum(node.op_type == "MatMul" for node in exact.node) > 0
    assert not any(scaled & set(node.input) for node in after)
    sizes = [(folder / "encoder.onnx").stat().st_size for folder in (exported, int8_export)]
    assert sizes[1] < sizes[0]


def test_scales_cover_the_outputs_of_activations_only(int8_export: Path) -> None:
    # Bug: scales covered a convolution's output before the activation function, which keeps only a part of it; features
    # of EfficientNet-Lite0, which are clipped to 0..6 in every block, lost most of their precision.
    nodes = onnx.load(int8_export / "encoder.onnx").graph.node
    producer = {name: node for node in nodes for name in node.output}

    def comes_from(node: onnx.NodeProto, *kinds: str) -> bool:
        for kind in kinds:
            if not node.input or node.input[0] not in producer:
                return False
            node = producer[node.input[0]]
            if node.op_type != kind:
                return False
        return True

    followers = [node for node in nodes if comes_from(node, "Conv")]
    assert {node.op_type for node in followers} == {"QuantizeLinear"}
    activations = [node for node in nodes if node.op_type in ("Relu", "Clip")]
    assert not [node for node in activations if comes_from(node, "DequantizeLinear", "QuantizeLinear", "Conv")]


def test_features_in_8_bits_are_close_to_float32(exported: Path, int8_export: Path) -> None:
    pixels = np.stack([np.asarray(tiny.image(number, tiny.SIZE, tiny.SIZE)) for number in range(20, 30)])
    exact, quantised = (OnnxCaptioner.load(folder, 1).graphs.encode(pixels) for folder in (exported, int8_export))
    expected, actual = exact.per_image["memory"], quantised.per_image["memory"]
    assert 0 < np.abs(actual - expected).mean() < 0.1 * expected.std()


def test_each_step_is_logged(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Bug: nothing was printed during an export, which takes a minute with a large encoder.
    for part in ("encoder", "decoder"):
        copy = partial(lambda name, *arguments: shutil.copy(exported / name, arguments[-1]), f"{part}.onnx")
        monkeypatch.setattr(seesay.export.onnx, f"write_{part}", copy)
    with caplog.at_level("INFO", "seesay"):
        export_onnx(exported.parent, tmp_path / "out")
    assert [record.getMessage() for record in caplog.records if record.name == "seesay"][-3:] == [
        "exporting the encoder test_resnet",
        "exporting the decoder attention",
        "comparing the scores of the graphs with those of the run",
    ]


def test_a_run_without_an_encoder_is_an_error(exported: Path, tmp_path: Path) -> None:
    run = load_run(exported.parent)
    captioner = TrainedCaptioner.load(exported.parent, "cpu")
    info = dataclasses.replace(run.info, features={"joined": []}, encoder_stored=False)
    save_run(tmp_path / "run", run.config, info, run.tokenizer)
    captioner.model.encoder = None
    save_weights(tmp_path / "run", captioner.model.state_dict())
    with pytest.raises(ConfigError, match="has no encoder"):
        export_onnx(tmp_path / "run")
    assert not (tmp_path / "run" / "onnx").exists()


def test_a_folder_that_is_no_export_is_not_replaced(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for target in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(DataError, match="another --out"):
            export_onnx(exported.parent, target)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_missing_library_is_reported_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r"seesay\[onnx\]"):
        export_onnx("no run at all")


def test_a_failure_keeps_the_earlier_export_and_no_temporary_files(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Any:
        Path(arguments[-1]).write_bytes(b"half")
        raise ConfigError("no")

    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    siblings = sorted(exported.parent.iterdir())
    monkeypatch.setattr(seesay.export.onnx, "write_encoder", fail)
    with pytest.raises(ConfigError):
        export_onnx(exported.parent, exported)
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    assert sorted(exported.parent.iterdir()) == siblings


def test_a_folder_replaces_an_earlier_export(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "export"
    for content in ('{"seesay": "first"}', '{"seesay": "second"}'):
        with atomic_folder(target) as part:
            assert list(part.iterdir()) == []
            (part / MANIFEST_FILE).write_text(content)
            assert not target.exists() or "second" in content
        assert [path.read_text() for path in target.iterdir()] == [content]
    assert [path.name for path in target.parent.iterdir()] == ["export"]


def test_scores_that_differ_from_the_runs_are_an_error(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seesay.export.onnx, "_difference", lambda *arguments: float("nan"))
    with pytest.raises(SeesayError, match="differ from the run's"):
        seesay.export.onnx._check(*[None] * 3)  # type: ignore[arg-type]
