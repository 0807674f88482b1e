"""The job on Ray: a local cluster of two workers, one of which is killed after its first task."""

import json
import os
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from seesay.bulk import Destination, caption_collection, ray_engine
from seesay.bulk.failures import Failures
from seesay.bulk.ray_engine import Cluster, caption_on_ray, describe_models
from seesay.bulk.recipe import Recipe
from seesay.captioners.spec import ModelSpec
from seesay.captioners.trained import TrainedCaptioner
from seesay.config import DecodingOptions
from seesay.errors import ConfigError, MissingDependencyError
from tests import tiny
from tests.bulk import outputs
from tests.captioners.scripted import ScriptedCaptioner

pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of Ray

TASKS = 10


@pytest.fixture(scope="module")
def links(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of 80 images, every tenth broken."""
    folder = tmp_path_factory.mktemp("links")
    for number in range(10):
        tiny.image(number, 24, 20).save(folder / f"source{number}.jpg")
    for number in range(80):
        path = folder / f"link{number:02d}.jpg"
        path.write_bytes(b"broken") if number % 10 == 3 else path.symlink_to(folder / f"source{number % 10}.jpg")
    return sorted(map(str, folder.glob("link*")))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_two_workers_share_the_tasks_and_a_killed_one_loses_nothing(
    cached_run: Path, links: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'seesay[ray]'")
    captioner, spec = TrainedCaptioner.load(cached_run, "cpu"), ModelSpec((str(cached_run),), "cpu")
    local, out = Destination(tmp_path / "local.parquet"), Destination(tmp_path / "ray.parquet")
    caption_collection(captioner, links, local, batch_size=4)
    assert local.out is not None
    assert out.out is not None
    killed: list[str] = []
    add = ray_engine._Tally.add

    def kill_the_first(tally: Any, result: Mapping[str, Any]) -> None:
        if not killed:
            killed.append(result["worker"])
            os.kill(int(result["worker"].rpartition(":")[2]), signal.SIGKILL)
        add(tally, result)

    monkeypatch.setattr(ray_engine._Tally, "add", kill_the_first)
    on_termination = signal.getsignal(signal.SIGTERM)
    counts: list[int] = []
    report = caption_on_ray(
        spec,
        links[:72],
        out,
        describe_models(spec, lambda defaults: defaults),
        Cluster(workers=2, task_batches=2),
        batch_size=4,
        progress=lambda done, _: counts.append(done),
    )
    assert (report.captioned, report.skipped, report.failed) == (65, 0, 7)
    assert signal.getsignal(signal.SIGTERM) is on_termination
    # A third worker replaces the killed one if tasks are left.
    assert len(report.workers) in (2, 3)
    assert killed[0] in report.workers
    assert sum(report.workers.values()) == 9
    assert report.workers[killed[0]] < 9
    assert counts[0] == 0
    assert sorted(counts) == counts
    assert counts[-1] == 72
    rows = outputs.parts(out.out)
    assert sorted(row["image"] for row in rows) == [name for index, name in enumerate(links[:72]) if index % 10 != 3]
    expected = {row["image"]: row["caption"] for row in outputs.parts(local.out)}
    assert all(expected[row["image"]] == row["caption"] for row in rows)
    workers = Counter(pq.read_schema(part).metadata[b"seesay.worker"].decode() for part in out.out.glob("*.parquet"))
    assert set(workers) == set(report.workers)

    monkeypatch.setattr(ray_engine._Tally, "add", add)
    monkeypatch.setattr(ray_engine, "_run", _run_here)  # one task is left: needs no second cluster
    recipe = describe_models(spec, lambda defaults: defaults)
    again = caption_on_ray(spec, links, out, recipe, Cluster(workers=2), batch_size=4)
    assert (again.captioned, again.skipped, again.failed) == (7, 65, 8)
    assert {row["image"]: row["caption"] for row in outputs.parts(out.out)} == expected
    assert len(outputs.parts(out.out)) == 72
    assert len(outputs.lines(tmp_path / "ray.errors.jsonl")) == 8


def test_a_retried_task_returns_the_result_of_its_existing_part(
    cached_run: Path, links: list[str], tmp_path: Path
) -> None:
    # Bug: if a worker died after writing its part, another one captioned the task again and rewrote the part.
    options = TrainedCaptioner.load(cached_run, "cpu").options()
    worker = ray_engine._Worker(
        ray_engine._WorkerConfig(ModelSpec((str(cached_run),), "cpu"), str(tmp_path), options, 4, str(Path.cwd()))
    )
    task = {"images": json.dumps(links[:8])}
    first = worker(task)
    (part,) = tmp_path.glob("*.parquet")
    before = part.stat().st_mtime_ns
    assert first["captioned"] == 7
    assert len(json.loads(first["failed"])) == 1
    worker.captioner = None  # type: ignore[assignment]
    assert worker(task) == first
    assert part.stat().st_mtime_ns == before


def test_a_task_counts_rejected_captions_and_blank_images(tmp_path: Path) -> None:
    for name in "ab":
        tiny.image(0).save(tmp_path / f"{name}.png")
    Image.new("RGB", (40, 30), "white").save(tmp_path / "c.png")
    images = sorted(map(str, tmp_path.glob("*.png")))
    worker: Any = object.__new__(ray_engine._Worker)
    worker.captioner = ScriptedCaptioner({"a": ["a photo of a dog"], "b": [""], "c": ["white"]})
    worker.config = SimpleNamespace(
        out=str(tmp_path), options=DecodingOptions(), batch_size=2, threads=1, guard=True, style="alt-text"
    )
    result = worker({"images": json.dumps(images)})
    assert json.loads(result["failed"]) == {images[1]: f"{images[1]}: no usable caption: empty"}
    assert [row["caption"] for row in outputs.parts(tmp_path)] == ["A dog.", ""]
    tally = ray_engine._Tally(3, 0, Failures(None), None, None)
    for _ in range(2):
        tally.add(result)
    assert (tally.captioned, tally.failed, tally.blank, tally.rejected) == (4, 2, 2, {"empty": 2})


def job(run: Path, destination: Destination) -> tuple[ModelSpec, list[str], Destination, Recipe]:
    spec = ModelSpec((str(run),))
    return spec, ["a.jpg"], destination, describe_models(spec, lambda defaults: defaults)


def _run_here(tasks: list[list[str]], config: Any, cluster: Cluster) -> Any:
    worker = ray_engine._Worker(config)
    return (row for row in (worker({"images": json.dumps(task)}) for task in tasks))


@pytest.mark.parametrize(
    "destination", [Destination(Path("c.jsonl")), Destination(sidecar=".txt"), Destination(Path("c.parquet"), ".txt")]
)
def test_other_outputs_are_an_error(cached_run: Path, destination: Destination) -> None:
    with pytest.raises(ConfigError, match=r"--engine ray writes only a folder of Parquet files"):
        caption_on_ray(*job(cached_run, destination), Cluster())


def test_missing_ray_names_its_extra(cached_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"needs ray, which is not installed; run: .*seesay\[ray\]"):
        caption_on_ray(*job(cached_run, Destination(tmp_path / "c.parquet")), Cluster())


@pytest.mark.parametrize(
    ("resources", "workers", "expected"),
    [
        ({"CPU": 16.0}, 0, (4, 4, 0)),
        ({"CPU": 2.0}, 0, (1, 2, 0)),
        ({"CPU": 2.0}, 2, (2, 1, 0)),
        ({"CPU": 32.0, "GPU": 4.0}, 0, (4, 8, 1)),
        ({"CPU": 32.0, "GPU": 1.0}, 2, (2, 16, 0)),
    ],
)
def test_workers_share_the_resources(resources: dict[str, float], workers: int, expected: tuple[int, int, int]) -> None:
    assert ray_engine._divide_resources(resources, workers) == expected
