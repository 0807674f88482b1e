"""The same job on Ray Data, on this machine or a cluster: tasks of images, a model in each worker, a part a task.

A task's part is named after its images and is whole or absent. A worker that dies is started again and its task
done again, which writes the same part; a job that is killed leaves whole parts, and the next one does what they lack.
Every machine must see the images, the run and the output under the same names, and have seesay installed.
"""

import contextlib
import hashlib
import importlib
import inspect
import json
import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seesay.allocation import keep_freed_memory
from seesay.bulk.destination import Destination
from seesay.bulk.failures import Failures
from seesay.bulk.job import BATCH, BulkReport, Complain, Progress
from seesay.bulk.parquet_writer import ParquetWriter, part_fact, write_part
from seesay.bulk.recipe import Recipe, record_recipe
from seesay.bulk.rows import json_line, plain
from seesay.captioner import TrainedCaptioner
from seesay.checkpoint import load_run
from seesay.config import DecodingOptions
from seesay.errors import ConfigError, ImageError, MissingDependencyError, SeesayError
from seesay.files import only_writer
from seesay.prefetch import usable_cores

TASK_BATCHES = 8
"""Batches of a task, and so of a part."""

MOST_RESTARTS = 20
"""Deaths after which a worker stays dead: an image that kills whoever opens it must not do so for ever."""

MOST_RETRIES = 3
"""How often a task is done again after the death of its worker."""

_OBJECT_STORE = 100_000_000  # bytes on this machine: only names and counts pass through it
_START_SECONDS = 600


@dataclass(frozen=True)
class Cluster:
    """Where a job runs.

    Attributes:
        address: of a running cluster, such as `ray://head:10001` or `auto`; empty = one of this machine's own, which
            ends with the job.
        workers: models at work; 0 = one a GPU, or without any GPU one for every four cores.
        task_batches: batches of a task.
    """

    address: str = ""
    workers: int = 0
    task_batches: int = TASK_BATCHES


def caption_on_ray(
    models: Sequence[str | Path],
    images: Sequence[str],
    destination: Destination,
    options: DecodingOptions,
    cluster: Cluster,
    *,
    broken: Mapping[str, str] | None = None,
    batch_size: int = BATCH,
    device: str = "auto",
    progress: Progress | None = None,
    print_error: Complain | None = None,
) -> BulkReport:
    """Captions what has no caption yet and returns what was done, and by which workers.

    Args:
        models: the run folder, or those of an ensemble.
        images: their names, as `find_images` gives them.
        destination: a folder of Parquet files, and the list of failures.
        options: how to search, whole: `num_return_sequences` is read here, before any model is loaded.
        cluster: where.
        broken: sources of which a part could not be read, and why.
        batch_size: images the network sees at once.
        device: of the workers: auto, cpu or cuda.
        progress: told of the images done.
        print_error: told of each image that gets no caption.

    Raises:
        ConfigError: the destination is something else than a folder of Parquet files.
        MissingDependencyError: Ray is not installed.
        SeesayError: the model cannot be loaded, or workers keep dying.
    """
    started = time.perf_counter()
    out = _parquet_folder(destination)
    destination.check_inputs(images)
    wanted = options.num_return_sequences
    output = ParquetWriter(out, wanted, frozenset(map(plain, images)).__contains__)
    output.create()
    with only_writer(out):
        done = output.open()
        run = load_run(models[0])
        length = options.max_length or run.config.decoding.max_length or run.info.max_length
        recipe = Recipe(tuple(map(Path, models)), replace(options, max_length=length))
        todo = [image for image in images if plain(image) not in done]
        record_recipe(out, recipe, len(done), len(todo), strict=destination.strict)
        output.close()  # what the other engine may have left unfinished
        failures = Failures(destination.failures)
        failures.open(done)
        tally = _Tally(len(images), len(images) - len(todo), failures, progress, print_error)
        for source, reason in (broken or {}).items():
            tally.fail(source, reason)
        size = batch_size * cluster.task_batches
        tasks = [todo[begin : begin + size] for begin in range(0, len(todo), size)]
        work = _Work(tuple(str(Path(m).resolve()) for m in models), str(out.resolve()), options, batch_size, device)
        with contextlib.closing(_run(tasks, work, cluster)) as results:
            for result in results:
                tally.take(result)
        failures.close()
    skipped = len(images) - len(todo)
    return BulkReport(tally.captioned, skipped, tally.failed, time.perf_counter() - started, dict(tally.workers))


@dataclass(frozen=True)
class _Work:
    """What a worker must know."""

    models: tuple[str, ...]
    out: str
    options: DecodingOptions
    batch_size: int
    device: str
    folder: str = ""
    threads: int = 1


class _Worker:
    """A captioner in a process of its own, loaded once, which does task after task."""

    def __init__(self, work: _Work) -> None:
        import torch

        # Names are as the driver knows them: they stand in the output, and sampling is seeded by them.
        with contextlib.suppress(OSError):
            os.chdir(work.folder)
        keep_freed_memory()
        torch.set_num_threads(work.threads)
        self.work = work
        self.captioner = TrainedCaptioner.load(work.models, work.device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Captions the images of a task, writes their part and returns what came of it.

        Ray may ask for a task again whose part is there already: when its worker died before or after telling of it.
        """
        images: list[str] = json.loads(row["images"])
        name = hashlib.sha256(row["images"].encode()).hexdigest()[:16]
        part = Path(self.work.out) / f"part-{name}.parquet"
        if part.is_file():
            return dict(json.loads(part_fact(part, "result")))
        work, me = self.work, f"{socket.gethostname()}:{os.getpid()}"
        lines, failed = [], {}
        for image, found in self.captioner.caption_each(
            images, work.options, batch_size=work.batch_size, workers=work.threads
        ):
            if isinstance(found, ImageError):
                failed[str(image)] = str(found)
            else:
                lines.append(json.loads(json_line(str(image), found, work.options.num_return_sequences > 1)))
        result = {"images": len(images), "captioned": len(lines), "failed": json.dumps(failed), "worker": me}
        if lines:
            write_part(part, lines, work.options.num_return_sequences, worker=me, result=json.dumps(result))
        return result


class _Tally:
    """What has come of the tasks so far."""

    def __init__(
        self, total: int, done: int, failures: Failures, progress: Progress | None, print_error: Complain | None
    ) -> None:
        self.total = total
        self.done = done
        self.failures = failures
        self.progress = progress
        self.print_error = print_error
        self.captioned = self.failed = 0
        self.workers: Counter[str] = Counter()
        if progress:
            progress(done, total)

    def take(self, result: Mapping[str, Any]) -> None:
        """Counts a task."""
        self.workers[str(result["worker"])] += 1
        self.captioned += int(result["captioned"])
        self.done += int(result["images"])
        for image, reason in json.loads(result["failed"]).items():
            self.fail(image, reason)
        if self.progress:
            self.progress(self.done, self.total)

    def fail(self, image: str, reason: str) -> None:
        """Notes an image without a caption."""
        self.failed += 1
        self.failures.note(image, reason)
        if self.print_error:
            self.print_error(reason)


def _parquet_folder(destination: Destination) -> Path:
    if destination.out is None or destination.out.suffix.lower() != ".parquet" or destination.sidecar:
        raise ConfigError("--engine ray writes a folder of Parquet files and nothing else: give --out FOLDER.parquet")
    if destination.embed:
        raise ConfigError("--engine ray does not write into images; leave --embed, or use --engine local")
    return destination.out


def _run(tasks: Sequence[Sequence[str]], work: _Work, cluster: Cluster) -> Generator[dict[str, Any], None, None]:
    """Yields what came of each task, in the order in which they are done."""
    if not tasks:
        return
    ray = _ray()
    with _connected(ray, cluster):
        try:
            yield from _results(ray, tasks, work, cluster)
        except ray.exceptions.RayError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, SeesayError):
                cause = getattr(cause, "cause", None) or cause.__cause__
            if cause is not None:
                raise type(cause)(*cause.args) from error
            reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise SeesayError(f"the job on Ray failed ({reason[0]}); the same command goes on with the rest") from error


def _results(
    ray: Any, tasks: Sequence[Sequence[str]], work: _Work, cluster: Cluster
) -> Generator[dict[str, Any], None, None]:
    # Of ray's own types for what is mapped and what comes back half are too narrow.
    ray_data: Any = importlib.import_module("ray.data")

    workers, cpus, gpus = _shares(ray.cluster_resources(), cluster.workers)
    context = ray_data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.wait_for_min_actors_s = _START_SECONDS  # else the first to be ready takes more than its share
    given = replace(work, folder=str(Path.cwd()), threads=cpus)
    rows = [{"images": json.dumps(list(task))} for task in tasks]
    names = ray_data.from_items(rows, override_num_blocks=len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = names.map(
            _Worker,
            fn_constructor_args=(given,),
            compute=ray_data.ActorPoolStrategy(size=min(workers, len(tasks)), max_tasks_in_flight_per_actor=2),
            num_cpus=cpus,
            num_gpus=gpus,
            **_bounded_deaths(names.map),
        )
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()


def _bounded_deaths(map_: Any) -> dict[str, Any]:
    """Returns what bounds restarts and retries; newer versions of Ray have no way to, and start workers for ever."""
    if "ray_remote_args_fn" not in inspect.signature(map_).parameters:
        return {}
    return {"ray_remote_args_fn": lambda: {"max_restarts": MOST_RESTARTS, "max_task_retries": MOST_RETRIES}}


def _shares(resources: Mapping[str, float], workers: int) -> tuple[int, int, int]:
    """Returns how many workers there are, and the cores and GPUs of each."""
    cores, gpus = max(1, int(resources.get("CPU", 1))), int(resources.get("GPU", 0))
    workers = workers or gpus or max(1, cores // 4)
    return workers, max(1, cores // workers), 1 if gpus >= workers else 0


@contextlib.contextmanager
def _connected(ray: Any, cluster: Cluster) -> Iterator[None]:
    """Connects to the cluster, or starts one on this machine; what was there before stays as it was."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its notes on its own machinery
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    on_termination = signal.getsignal(signal.SIGTERM)  # which Ray replaces
    if cluster.address:
        try:
            ray.init(address=cluster.address, **quiet)
        except (ConnectionError, OSError, ValueError) as error:
            raise ConfigError(f"no Ray cluster at {cluster.address!r} ({error}); check --ray-address") from error
    else:
        cores = max(usable_cores(), cluster.workers)
        ray.init(address="local", num_cpus=cores, include_dashboard=False, object_store_memory=_OBJECT_STORE, **quiet)
    try:
        yield
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_termination)


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError("ray", "ray", "captioning with --engine ray") from error
    return ray
