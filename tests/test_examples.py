"""The notebooks, clients and cluster scripts in examples/."""

import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml

from seesay.config import ModelConfig
from seesay.data.annotations import Annotations
from seesay.models import registry
from seesay.models.captioning import CaptionModel, build_model
from seesay.models.packing import pack_captions
from tests.serving.conftest import Start, captioner, shared, start  # noqa: F401 (fixtures)
from tests.serving.servers import Running, encoded

EXAMPLES = Path(__file__).parents[1] / "examples"
CLUSTER = EXAMPLES / "cluster"
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))
BASH = shutil.which("bash")
SMALL = {"SEESAY_EXAMPLE_SCENES": "24", "SEESAY_EXAMPLE_EPOCHS": "1"}


def cells(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))["cells"]
    return found


def example(name: str) -> Any:
    """The `main` of an example."""
    return runpy.run_path(str(EXAMPLES / name))["main"]


def test_there_are_three_notebooks() -> None:
    assert NOTEBOOKS == ["own_folder.ipynb", "tensorflow_tutorial.ipynb", "tutorial.ipynb"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_code_of_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On few scenes for one epoch, without the start of a kernel; see the slow test for the notebook itself."""
    monkeypatch.chdir(tmp_path)
    for variable, value in SMALL.items():
        monkeypatch.setenv(variable, value)
    names: dict[str, Any] = {"__name__": "notebook"}
    for number, cell in enumerate(cells(name)):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}, cell {number}", "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_in_jupyter(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel")
    nbformat = pytest.importorskip("nbformat")
    for variable, value in SMALL.items():
        monkeypatch.setenv(variable, value)
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_without_outputs(name: str) -> None:
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells(name))


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Two images and a file that is no image."""
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(encoded(number))
    (tmp_path / "broken.png").write_bytes(b"no image")
    return [str(tmp_path / name) for name in ("0.png", "broken.png", "1.png")]


def test_the_client_prints_captions_and_reports_failures(
    shared: Running,  # noqa: F811
    photos: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert example("client.py")([*photos, "--url", shared.url, "--strategy", "beam"]) == 1
    printed = capsys.readouterr()
    lines = [line.split("\t") for line in printed.out.splitlines()]
    assert [name for name, _ in lines] == [photos[0], photos[2]]
    assert all(text for _, text in lines)
    assert printed.err.startswith(photos[1])
    assert "{" not in printed.err  # Bug: the error of an image was printed as a dict


CLIENTS = ("client.py", "openai_client.py")


def failing(name: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[list[str], list[str]]:
    """Return the lines of a client on stdout and stderr, whose exit code is 1."""
    if name == "openai_client.py":
        pytest.importorskip("openai")
    assert example(name)(arguments) == 1
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.out.splitlines(), printed.err.splitlines()


@pytest.mark.parametrize("name", CLIENTS)
def test_the_clients_caption_the_readable_images(
    name: str,
    shared: Running,  # noqa: F811
    photos: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Bug: a missing file or an image that the service refuses ended in a traceback, and the other images were lost.
    url = shared.url if name == "client.py" else f"{shared.url}/v1"
    lines, errors = failing(name, [str(tmp_path / "none.png"), *photos, "--url", url], capsys)
    assert [line.split("\t")[0] for line in lines] == [photos[0], photos[2]]
    assert sorted(line.partition(": ")[0] for line in errors) == sorted([str(tmp_path / "none.png"), photos[1]])
    lines, errors = failing(name, [photos[1], str(tmp_path), photos[1], "--url", url], capsys)
    assert lines == []
    assert [line.partition(": ")[0] for line in errors] == [photos[1], str(tmp_path), photos[1]]


@pytest.mark.parametrize("name", CLIENTS)
def test_the_clients_report_a_server_that_fails_in_a_line(
    name: str,
    start: Start,  # noqa: F811
    photos: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Bug: a server that is down and a wrong key ended in a traceback.
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the attempts of OpenAI's client
    with socket.create_server(("127.0.0.1", 0)) as free:
        down = f"http://127.0.0.1:{free.getsockname()[1]}"
    locked = start(api_key="sesame").url
    for url, reason in ((down, "onnect"), (locked, "missing or wrong key")):
        lines, errors = failing(name, [*photos, "--url", url if name == "client.py" else f"{url}/v1"], capsys)
        assert lines == []
        assert len(errors) == 1
        assert errors[0].startswith(url)
        assert reason in errors[0]


def test_the_client_waits_while_the_service_is_busy(
    photos: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Bug: status 503 with Retry-After ended in a traceback.
    def respond(request: httpx.Request) -> httpx.Response:
        if len(waits) < busy:
            error = {"code": "busy", "message": "the queue is full"}
            return httpx.Response(503, json={"error": error}, headers={"Retry-After": "2"})
        return httpx.Response(200, json={"results": [{"captions": [{"text": "a dog"}], "error": None}]})

    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setattr("httpx.Client", partial(httpx.Client, transport=httpx.MockTransport(respond)))
    busy = 2
    assert example("client.py")([photos[0]]) == 0
    assert waits == [2, 2]
    assert capsys.readouterr().out == f"{photos[0]}\ta dog\n"
    busy = 100
    _, errors = failing("client.py", [photos[0]], capsys)
    assert errors == ["http://127.0.0.1:8000: status 503: the queue is full"]


def test_the_client_reports_a_request_that_is_refused(
    shared: Running,  # noqa: F811
    photos: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert example("client.py")([photos[0], "--url", shared.url, "--strategy", "best"]) == 1
    assert "strategy" in capsys.readouterr().err


def test_the_client_of_openai_prints_captions(
    shared: Running,  # noqa: F811
    photos: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("openai")
    assert example("openai_client.py")([photos[0], "--url", f"{shared.url}/v1"]) == 0
    name, text = capsys.readouterr().out.rstrip("\n").split("\t")
    assert (name, bool(text)) == (photos[0], True)


@pytest.fixture(scope="module")
def mistakes() -> Iterator[dict[str, Any]]:
    """The names of mistakes.py, whose decoders are registered for these tests only."""
    registry.decoder_names()  # registers those of seesay
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_DECODERS", dict(registry._DECODERS))
        yield runpy.run_path(str(EXAMPLES / "mistakes.py"))


def model_of(decoder: str) -> CaptionModel:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "projection_size": 8,
        "embedding_size": 6,
        "hidden_size": 7,
        "attention_size": 5,
        "output_size": 0,
    }
    return build_model(ModelConfig(decoder=decoder, **sizes), vocabulary_size=12, feature_size=9).eval()


CAPTIONS = torch.tensor([[[1, 5, 6, 7, 2], [1, 8, 2, 0, 0]], [[1, 5, 9, 2, 0], [0, 0, 0, 0, 0]]])
FEATURES = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(1))


def logits(decoder: str, features: torch.Tensor = FEATURES, captions: torch.Tensor = CAPTIONS) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model_of(decoder)(features, None, pack_captions(captions))
    return found


def test_a_decoder_without_state_ignores_all_but_the_last_word_and_the_attention(mistakes: dict[str, Any]) -> None:
    """With one region the attention is constant, so that two captions with equal last words agree."""
    one, other = CAPTIONS[:1, :1], CAPTIONS[:1, :1].clone()
    other[0, 0, 1:3] = torch.tensor([9, 6])
    region = FEATURES[:1, :1]
    for decoder, equal in (("no-state", True), ("attention", False)):
        first, second = logits(decoder, region, one), logits(decoder, region, other)
        assert torch.allclose(first[3], second[3]) is equal


def test_an_unconnected_decoder_ignores_the_image(mistakes: dict[str, Any]) -> None:
    assert torch.equal(logits("no-image"), logits("no-image", -FEATURES))
    assert not torch.equal(logits("attention"), logits("attention", -FEATURES))


def test_padding_changes_the_time_or_the_loss_only(mistakes: dict[str, Any]) -> None:
    captions = pack_captions(CAPTIONS)
    for decoder in ("padded", "padding-in-loss"):
        assert torch.allclose(logits(decoder), logits("attention"), atol=1e-6)
        with torch.inference_mode():
            penalty = model_of(decoder).forward_with_penalty(FEATURES, None, captions).penalty()
        assert (float(penalty) == 0) is (decoder == "padded")
    assert len(mistakes["pad"](captions).targets) == captions.rows * (mistakes["LONGEST"] - 1)


def test_the_split_by_caption_keeps_every_caption_once(mistakes: dict[str, Any], annotations: Annotations) -> None:
    changed = mistakes["split_by_caption"](annotations)
    assert changed.split("test").items == annotations.split("test").items
    assert {item.id for item in changed.split("train")} & {item.id for item in changed.split("val")}
    before, after = (
        sorted((item.id, text) for split in ("train", "val") for item in data.split(split) for text in item.captions)
        for data in (annotations, changed)
    )
    assert before == after


def fake(folder: Path, name: str) -> None:
    """Write a program that prints its name and arguments, one per line."""
    program = folder / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!{BASH}\nprintf '%s\\n' {name} \"$@\"\n")
    program.chmod(0o755)


def run(script: str, folder: Path, *arguments: str, **variables: str) -> list[str]:
    """The lines that a cluster script prints if the programs in `folder` replace those of the cluster."""
    environment = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **variables}
    done = subprocess.run(
        [str(BASH), str(CLUSTER / script), *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


needs_bash = pytest.mark.skipif(BASH is None, reason="needs bash")


@needs_bash
@pytest.mark.parametrize("script", sorted(path.name for path in CLUSTER.iterdir() if path.suffix != ".yaml"))
def test_a_cluster_script_is_valid_and_states_its_usage(script: str) -> None:
    subprocess.run([str(BASH), "-n", str(CLUSTER / script)], check=True)
    done = subprocess.run([str(BASH), str(CLUSTER / script)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "usage:" in done.stderr


@needs_bash
def test_the_slurm_script_starts_one_training_per_task(tmp_path: Path) -> None:
    from seesay.cli.main import app

    fake(tmp_path / "bin", "srun")
    words = run("train.slurm", tmp_path / "bin", "data/my images", "runs/mine", "--epochs", "3")
    assert words == ["srun", "seesay", "train", "data/my images", "--out", "runs/mine", "--epochs", "3"]
    _, bound, _ = app.parse_args(words[2:], exit_on_error=False, print_error=False)
    assert str(bound.arguments["out"]) == "runs/mine"
    text = (CLUSTER / "train.slurm").read_text()
    assert "--ntasks-per-node=4" in text  # required by Lightning
    assert "--gpus-per-node=4" in text


@needs_bash
def test_the_torchrun_script_needs_an_endpoint_on_several_machines(tmp_path: Path) -> None:
    fake(tmp_path / "bin", "torchrun")
    alone = run("train_torchrun.sh", tmp_path / "bin", "data", "runs/a")
    assert alone[1:4] == ["--standalone", "--nproc-per-node", "2"]
    several = run("train_torchrun.sh", tmp_path / "bin", "data", "runs/a", NODES="3", PROCESSES="8", ENDPOINT="a:29500")
    assert several[1:9] == [
        *("--nnodes", "3", "--rdzv-backend", "c10d", "--rdzv-endpoint", "a:29500"),
        *("--nproc-per-node", "8"),
    ]
    for words in (alone, several):
        assert words[-6:] == ["-m", "seesay", "train", "data", "--out", "runs/a"]


@needs_bash
@pytest.mark.slow
def test_the_torchrun_script_trains_in_two_processes(colours: Path, tmp_path: Path) -> None:
    """Needs torchrun beside the Python of the tests."""
    from seesay.config.loading import save_config
    from tests import tiny

    config = tmp_path / "tiny.yaml"
    save_config(tiny.in_loop(epochs=1), config)
    variables = {name: os.environ[name] for name in ("HOME", "PYTHONPATH") if name in os.environ}
    programs = Path(sys.executable).parent
    run("train_torchrun.sh", programs, str(colours), str(tmp_path / "run"), "--config", str(config), **variables)
    assert (tmp_path / "run/model.safetensors").is_file()
    assert json.loads((tmp_path / "run/captioner.json").read_text())["progress"]["finished"]


@needs_bash
def test_the_ray_script_joins_a_cluster_if_there_is_one(tmp_path: Path) -> None:
    fake(tmp_path / "bin", "seesay")
    job = ["caption", "photos", "--model", "runs/a", "--out", "out.parquet", "--engine", "ray"]
    assert run("caption_ray.sh", tmp_path / "bin", "photos", "runs/a", "out.parquet")[1:] == job
    joined = run("caption_ray.sh", tmp_path / "bin", "photos", "runs/a", "out.parquet", RAY_ADDRESS="head:6379")
    assert joined[1:] == [*job, "--ray-address", "head:6379"]


def test_the_ray_cluster_has_what_ray_requires() -> None:
    cluster = yaml.safe_load((CLUSTER / "ray.yaml").read_text(encoding="utf-8"))
    assert cluster["provider"]["type"] == "local"
    assert cluster["provider"]["worker_ips"]
    assert any("ray start --head" in command for command in cluster["head_start_ray_commands"])
    assert any("RAY_HEAD_IP" in command for command in cluster["worker_start_ray_commands"])


@needs_bash
@pytest.mark.slow
def test_the_ray_script_captions_on_a_local_cluster(cached_run: Path, photos: list[str], tmp_path: Path) -> None:
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'seesay[ray]'")
    import pyarrow.parquet as pq

    programs = Path(sys.executable).parent
    variables = {name: os.environ[name] for name in ("HOME", "PYTHONPATH") if name in os.environ}
    out = tmp_path / "captions.parquet"
    (tmp_path / "broken.png").unlink()
    run("caption_ray.sh", programs, str(tmp_path), str(cached_run), str(out), "--ray-workers", "1", **variables)
    assert len(pq.read_table(out)) == len(photos) - 1
