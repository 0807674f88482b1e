"""Exported folders: what is in them, when they are refused, and that they are whole."""

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import seesay.export.onnx
from seesay.captioner import TrainedCaptioner
from seesay.checkpoint import load_run, save_run, save_weights
from seesay.errors import ConfigError, DataError, MissingDependencyError, SeesayError
from seesay.export import export_onnx
from seesay.export.folder import whole_folder
from seesay.export.quantise import calibration_pixels, quantise_encoder
from seesay.onnx_runtime import Manifest, OnnxCaptioner
from seesay.onnx_runtime.manifest import MANIFEST_FILE
from tests import tiny

FILES = {"encoder.onnx", "decoder.onnx", "tokenizer.json", "export.json", "README.txt"}


def test_the_folder_says_what_it_is(exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == FILES
    run, manifest = load_run(exported.parent), Manifest.load(exported)
    assert manifest.config.decoding == run.config.decoding
    assert (manifest.grid, manifest.max_length, manifest.source) == (run.info.grid, run.info.max_length, "run")
    assert manifest.preprocessing.to_dict() == run.info.features["preprocessing"] == manifest.encoder["preprocessing"]
    assert manifest.encoder_precision == "float32"
    readme = (exported / "README.txt").read_text()
    assert f"seesay caption --model {exported} " in readme
    assert f"(B, {tiny.SIZE}, {tiny.SIZE}, 3)" in readme


def test_both_graphs_are_valid_and_free_in_batch_and_beam(exported: Path) -> None:
    for name in ("encoder", "decoder"):
        graph = onnx.load(exported / f"{name}.onnx")
        onnx.checker.check_model(graph, full_check=True)
        for given in graph.graph.input:
            sizes = given.type.tensor_type.shape.dim
            assert sizes[0].dim_param
            if given.name == "tokens" or given.name.startswith("row."):
                assert sizes[1].dim_param


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of images."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(6):
        tiny.image(number).save(folder / f"{number}.png")
    return str(folder)


@pytest.fixture(scope="module")
def eight_bits(exported: Path, drawn: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same export with an encoder of 8 bits."""
    folder = Path(shutil.copytree(exported, tmp_path_factory.mktemp("int8") / "onnx"))
    quantise_encoder(folder / "encoder.onnx", calibration_pixels([drawn], Manifest.load(exported).preprocessing))
    return folder


@pytest.mark.slow
def test_a_run_is_exported_with_eight_bits(exported: Path, drawn: str, eight_bits: Path) -> None:
    report = export_onnx(exported.parent, None, [drawn])
    assert report.folder == exported.parent / "onnx-int8"
    assert report.difference > 1e-3
    assert Manifest.load(report.folder).encoder_precision == "int8"
    assert report.encoder_bytes == (eight_bits / "encoder.onnx").stat().st_size


def test_only_the_network_is_in_eight_bits(exported: Path, eight_bits: Path) -> None:
    plain, small = (onnx.load(folder / "encoder.onnx").graph for folder in (exported, eight_bits))
    convolutions = [node for node in small.node if node.op_type == "Conv"]
    scaled = {name for node in small.node if node.op_type == "DequantizeLinear" for name in node.output}
    assert convolutions
    assert all(scaled.issuperset(node.input[:2]) for node in convolutions)
    after = [node for node in small.node if node.op_type == "MatMul"]
    assert len(after) == sum(node.op_type == "MatMul" for node in plain.node) > 0
    assert not any(scaled & set(node.input) for node in after)
    sizes = [(folder / "encoder.onnx").stat().st_size for folder in (exported, eight_bits)]
    assert sizes[1] < sizes[0]


def test_what_an_activation_cuts_off_takes_no_part_of_the_eight_bits(eight_bits: Path) -> None:
    # Bug: the scales were those of a convolution's whole output, of which an activation keeps a fraction; of
    # EfficientNet-Lite0's features, which are clipped to 0..6 again and again, little was left.
    nodes = onnx.load(eight_bits / "encoder.onnx").graph.node
    maker = {name: node for node in nodes for name in node.output}

    def comes_from(node: onnx.NodeProto, *kinds: str) -> bool:
        for kind in kinds:
            if not node.input or node.input[0] not in maker:
                return False
            node = maker[node.input[0]]
            if node.op_type != kind:
                return False
        return True

    quantised = [node for node in nodes if comes_from(node, "Conv")]
    assert {node.op_type for node in quantised} == {"QuantizeLinear"}
    activations = [node for node in nodes if node.op_type in ("Relu", "Clip")]
    assert not [node for node in activations if comes_from(node, "DequantizeLinear", "QuantizeLinear", "Conv")]


def test_eight_bits_look_almost_the_same(exported: Path, eight_bits: Path) -> None:
    pixels = np.stack([np.asarray(tiny.image(number, tiny.SIZE, tiny.SIZE)) for number in range(20, 30)])
    exact, rough = (OnnxCaptioner.load(folder, 1).graphs.encode(pixels) for folder in (exported, eight_bits))
    wanted, found = exact.per_image["memory"], rough.per_image["memory"]
    assert 0 < np.abs(found - wanted).mean() < 0.1 * wanted.std()


def test_a_run_without_an_encoder_is_refused(exported: Path, tmp_path: Path) -> None:
    run = load_run(exported.parent)
    captioner = TrainedCaptioner.load(exported.parent, "cpu")
    info = dataclasses.replace(run.info, features={"joined": []}, encoder_stored=False)
    save_run(tmp_path / "run", run.config, info, run.tokenizer)
    captioner.model.encoder = None
    save_weights(tmp_path / "run", captioner.model.state_dict())
    with pytest.raises(ConfigError, match="no encoder of its own"):
        export_onnx(tmp_path / "run")
    assert not (tmp_path / "run" / "onnx").exists()


def test_what_is_no_export_is_not_replaced(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(DataError, match="name another --out"):
            export_onnx(exported.parent, place)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_missing_library_is_told_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r"seesay\[onnx\]"):
        export_onnx("no run at all")


def test_a_failure_keeps_the_earlier_export_and_leaves_nothing_else(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Any:
        Path(arguments[-1]).write_bytes(b"half")
        raise ConfigError("no")

    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    around = sorted(exported.parent.iterdir())
    monkeypatch.setattr(seesay.export.onnx, "write_encoder", fail)
    with pytest.raises(ConfigError):
        export_onnx(exported.parent, exported)
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    assert sorted(exported.parent.iterdir()) == around


def test_a_folder_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "export"
    for content in ('{"seesay": "first"}', '{"seesay": "second"}'):
        with whole_folder(target) as part:
            assert list(part.iterdir()) == []
            (part / MANIFEST_FILE).write_text(content)
            assert not target.exists() or "second" in content
        assert [path.read_text() for path in target.iterdir()] == [content]
    assert [path.name for path in target.parent.iterdir()] == ["export"]


def test_other_scores_than_the_runs_are_refused(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seesay.export.onnx, "_difference", lambda *arguments: float("nan"))
    with pytest.raises(SeesayError, match="other scores than the run"):
        seesay.export.onnx._check(*[None] * 3)  # type: ignore[arg-type]
