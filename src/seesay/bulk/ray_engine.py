"""The job on Ray Data, on this machine or a cluster: one model per worker, one output part per task.

A task's part is named after its images and written atomically. If a worker dies, it is restarted and its task is
retried, which writes the same part; a killed job leaves complete parts, and the next job captions the rest.
Every machine must see the images, the models and the output under the same paths, and have seesay installed.
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
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import util
from pathlib import Path
from typing import Any

from seesay.allocation import keep_freed_memory
from seesay.bulk.destination import Destination
from seesay.bulk.failures import Failures
from seesay.bulk.job import BATCH_SIZE, BulkReport, ErrorCallback, ProgressCallback
from seesay.bulk.parquet_writer import ParquetWriter, read_part_metadata, write_part
from seesay.bulk.recipe import Recipe, record_recipe
from seesay.bulk.rows import find_captioned, json_line, plain
from seesay.captioners.alt_text import Style
from seesay.captioners.endpoint import EndpointCaptioner
from seesay.captioners.endpoint.usage import Usage, read_price
from seesay.captioners.identity import identify_folder
from seesay.captioners.spec import ModelSpec
from seesay.checkpoint import is_pretrained_run, is_run, load_run
from seesay.config import DecodingOptions
from seesay.errors import CaptionError, ConfigError, ImageError, MissingDependencyError, SeesayError
from seesay.files import exists, only_writer
from seesay.images.prefetch import usable_cores
from seesay.retrieval.index import has_index, load_index
from seesay.retrieval.rerank import resolve_rerank

TASK_BATCHES = 8
"""Batches per task, and so per part."""

MAX_RESTARTS = 20
"""Restarts of a worker, so that an image that kills every worker does not do so forever."""

MAX_RETRIES = 3
"""Retries of a task after the death of its worker."""

_OBJECT_STORE = 100_000_000  # bytes on this machine; it transfers only names and counts
_START_SECONDS = 600


@dataclass(frozen=True)
class Cluster:
    """The cluster of a job.

    Attributes:
        address: of a running cluster, such as `ray://head:10001` or `auto`; empty = start one on this machine for the
            duration of the job.
        workers: number of models; 0 = one per GPU, or without GPUs one per four cores.
        task_batches: batches per task.
    """

    address: str = ""
    workers: int = 0
    task_batches: int = TASK_BATCHES


def caption_on_ray(
    spec: ModelSpec,
    images: Sequence[str],
    destination: Destination,
    recipe: Recipe,
    cluster: Cluster,
    *,
    guard: bool = True,
    style: Style = "plain",
    broken: Mapping[str, str] | None = None,
    batch_size: int = BATCH_SIZE,
    progress: ProgressCallback | None = None,
    print_error: ErrorCallback | None = None,
) -> BulkReport:
    """Caption the images that have no caption yet.

    Args:
        spec: the models, which every worker loads.
        images: image names from `find_images`.
        destination: a folder of Parquet files, and the list of failures.
        recipe: of `describe_models`.
        cluster: the cluster.
        guard: see `caption_collection`.
        style: see `caption_collection`.
        broken: partly unreadable sources -> reason.
        batch_size: images per batch.
        progress: called after every task.
        print_error: called for each image without a caption.

    Raises:
        ConfigError: the destination is not only a folder of Parquet files.
        MissingDependencyError: Ray is not installed.
        SeesayError: the model cannot be loaded, or workers keep dying.
    """
    started = time.perf_counter()
    if util.find_spec("ray") is None:  # before any output
        raise _missing_ray()
    out = _parquet_folder(destination)
    destination.check_inputs(images)
    output = ParquetWriter(out, recipe.options.num_return_sequences, frozenset(map(plain, images)).__contains__)
    output.create()
    with only_writer(out):
        done = output.open()
        captioned = set(find_captioned(images, done, out.parent).values())
        todo = [image for image in images if image not in captioned]
        record_recipe(out, replace(recipe, style=style), len(done), len(todo), strict=destination.strict)
        output.close()  # finish a part of the local engine
        failures = Failures(destination.failures)
        failures.open(done)
        tally = _Tally(len(images), len(images) - len(todo), failures, progress, print_error)
        tally.usage.price = read_price(spec.endpoint_price)
        for source, reason in (broken or {}).items():
            tally.fail(source, reason)
        spec = _with_absolute_paths(spec)
        config = _WorkerConfig(spec, str(out.resolve()), recipe.options, batch_size, guard=guard, style=style)
        with contextlib.closing(_run(_tasks(todo, batch_size * cluster.task_batches), config, cluster)) as results:
            for result in results:
                tally.add(result)
        failures.close()
    return tally.report(time.perf_counter() - started)


def _tasks(images: Sequence[str], size: int) -> list[Sequence[str]]:
    """Return images in groups of a size."""
    return [images[begin : begin + size] for begin in range(0, len(images), size)]


def describe_models(spec: ModelSpec, choose: Callable[[DecodingOptions], DecodingOptions]) -> Recipe:
    """Return the recipe of a job, without loading the weights of runs.

    Args:
        spec: the models.
        choose: returns the decoding options, with the models' defaults as its argument.
    """
    folders = tuple(map(Path, spec.models))
    if spec.endpoint or not all(map(is_run, folders)) or any(map(is_pretrained_run, folders)):
        with spec.load() as captioner:
            options = captioner.options(choose(captioner.defaults))
            return Recipe(captioner.identities(), options, prompt=captioner.prompt_text)
    run = load_run(folders[0])
    options = choose(run.config.decoding)
    if options.rerank != "none":
        tuned = next((load_index(folder).info.tuned for folder in folders if has_index(folder)), {})
        options = resolve_rerank(options, tuned)
    length = options.max_length or run.config.decoding.max_length or run.info.max_length
    return Recipe(tuple(map(identify_folder, folders)), options.replace(max_length=length))


def _with_absolute_paths(spec: ModelSpec) -> ModelSpec:
    """Return a specification that is valid in another folder; names that are not paths stay as they are."""
    models = (str(Path(model).resolve()) if not spec.endpoint and exists(model) else model for model in spec.models)
    key_file = spec.endpoint_key_file and str(Path(spec.endpoint_key_file).resolve())
    return replace(spec, models=tuple(models), endpoint_key_file=key_file)


@dataclass(frozen=True)
class _WorkerConfig:
    """Settings of a worker."""

    spec: ModelSpec
    out: str
    options: DecodingOptions
    batch_size: int
    folder: str = ""
    threads: int = 1
    guard: bool = True
    style: Style = "plain"


class _Worker:
    """A captioner in its own process, loaded once for many tasks."""

    def __init__(self, config: _WorkerConfig) -> None:
        import torch

        # Image names are relative to the driver's folder: they are written to the output and seed sampling.
        with contextlib.suppress(OSError):
            os.chdir(config.folder)
        keep_freed_memory()
        torch.set_num_threads(config.threads)
        self.config = config
        self.captioner = config.spec.load()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Caption the images of a task, write their part and return the counts.

        Ray retries a task whose worker died before reporting it; its part may already exist.
        """
        images: list[str] = json.loads(row["images"])
        name = hashlib.sha256(row["images"].encode()).hexdigest()[:16]
        part = Path(self.config.out) / f"part-{name}.parquet"
        if part.is_file():
            return dict(json.loads(read_part_metadata(part, "result")))
        config, worker = self.config, f"{socket.gethostname()}:{os.getpid()}"
        before = self._usage()
        lines, failed = [], {}
        rejected: Counter[str] = Counter()
        for image, found in self.captioner.caption_each(
            images,
            config.options,
            guard=config.guard,
            style=config.style,
            batch_size=config.batch_size,
            workers=config.threads,
        ):
            if isinstance(found, ImageError):
                failed[str(image)] = str(found)
                if isinstance(found, CaptionError):
                    rejected[found.reason] += 1
            else:
                lines.append(json.loads(json_line(str(image), found, config.options.num_return_sequences > 1)))
        blank = sum(not line["caption"] for line in lines) if config.style == "alt-text" else 0
        result = {"images": len(images), "captioned": len(lines), "failed": json.dumps(failed), "worker": worker}
        usage = [after - earlier for after, earlier in zip(self._usage(), before, strict=True)]
        result |= {"rejected": json.dumps(rejected), "blank": blank, "usage": json.dumps(usage)}
        if lines:
            write_part(part, lines, config.options.num_return_sequences, worker=worker, result=json.dumps(result))
        return result

    def _usage(self) -> tuple[int, int, int, int]:
        """Return the requests and tokens of a server so far; zeros without a server."""
        return (self.captioner.usage if isinstance(self.captioner, EndpointCaptioner) else Usage()).counts


class _Tally:
    """Counts over the finished tasks."""

    def __init__(
        self,
        total: int,
        done: int,
        failures: Failures,
        progress: ProgressCallback | None,
        print_error: ErrorCallback | None,
    ) -> None:
        self.total = total
        self.done = self.skipped = done
        self.failures = failures
        self.usage = Usage()
        self.progress = progress
        self.print_error = print_error
        self.captioned = self.failed = self.blank = 0
        self.workers: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        if progress:
            progress(done, total)

    def add(self, result: Mapping[str, Any]) -> None:
        """Add the result of a task."""
        self.workers[str(result["worker"])] += 1
        self.captioned += int(result["captioned"])
        self.blank += int(result.get("blank", 0))  # a part of an earlier version has neither
        self.rejected.update(json.loads(result.get("rejected", "{}")))
        self.usage.add_counts(json.loads(result.get("usage", "[0, 0, 0, 0]")))
        self.done += int(result["images"])
        for image, reason in json.loads(result["failed"]).items():
            self.fail(image, reason)
        if self.progress:
            self.progress(self.done, self.total)

    def report(self, seconds: float) -> BulkReport:
        """Return the report of a job that took some seconds."""
        return BulkReport(
            self.captioned,
            self.skipped,
            self.failed,
            seconds,
            dict(self.workers),
            rejected=self.rejected,
            blank=self.blank,
            usage=self.usage.describe(),
        )

    def fail(self, image: str, reason: str) -> None:
        """Record an image without a caption."""
        self.failed += 1
        self.failures.add(image, reason)
        if self.print_error:
            self.print_error(reason)


def _parquet_folder(destination: Destination) -> Path:
    if destination.out is None or destination.out.suffix.lower() != ".parquet" or destination.sidecar:
        raise ConfigError("--engine ray writes only a folder of Parquet files; give --out FOLDER.parquet")
    if destination.embed:
        raise ConfigError("--engine ray does not write into images; omit --embed, or use --engine local")
    return destination.out


def _run(
    tasks: Sequence[Sequence[str]], config: _WorkerConfig, cluster: Cluster
) -> Generator[dict[str, Any], None, None]:
    """Yield the result of each task as it finishes."""
    if not tasks:
        return
    ray = _ray()
    with _connect(ray, cluster):
        try:
            yield from _results(ray, tasks, config, cluster)
        except ray.exceptions.RayError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, SeesayError):
                cause = getattr(cause, "cause", None) or cause.__cause__
            if cause is not None:
                raise type(cause)(*cause.args) from error
            reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise SeesayError(f"the job on Ray failed ({reason[0]}); run the same command to resume") from error


def _results(
    ray: Any, tasks: Sequence[Sequence[str]], config: _WorkerConfig, cluster: Cluster
) -> Generator[dict[str, Any], None, None]:
    # Ray's type annotations of mapped functions and results are too narrow.
    ray_data: Any = importlib.import_module("ray.data")

    workers, cpus, gpus = _divide_resources(ray.cluster_resources(), cluster.workers)
    context = ray_data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.wait_for_min_actors_s = _START_SECONDS  # otherwise the first ready worker gets most tasks
    config = replace(config, folder=str(Path.cwd()), threads=cpus)
    rows = [{"images": json.dumps(list(task))} for task in tasks]
    names = ray_data.from_items(rows, override_num_blocks=len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = names.map(
            _Worker,
            fn_constructor_args=(config,),
            compute=ray_data.ActorPoolStrategy(size=min(workers, len(tasks)), max_tasks_in_flight_per_actor=2),
            num_cpus=cpus,
            num_gpus=gpus,
            **_restart_limits(names.map),
        )
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()


def _restart_limits(map_: Any) -> dict[str, Any]:
    """Return arguments that limit restarts and retries; newer versions of Ray cannot limit them."""
    if "ray_remote_args_fn" not in inspect.signature(map_).parameters:
        return {}
    return {"ray_remote_args_fn": lambda: {"max_restarts": MAX_RESTARTS, "max_task_retries": MAX_RETRIES}}


def _divide_resources(resources: Mapping[str, float], workers: int) -> tuple[int, int, int]:
    """Return the number of workers, and the cores and GPUs of each."""
    cores, gpus = max(1, int(resources.get("CPU", 1))), int(resources.get("GPU", 0))
    workers = workers or gpus or max(1, cores // 4)
    return workers, max(1, cores // workers), 1 if gpus >= workers else 0


@contextlib.contextmanager
def _connect(ray: Any, cluster: Cluster) -> Iterator[None]:
    """Connect to the cluster, or start one on this machine; keep an existing connection."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # internal messages
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    on_termination = signal.getsignal(signal.SIGTERM)  # Ray replaces it
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
        raise _missing_ray() from error
    return ray


def _missing_ray() -> MissingDependencyError:
    return MissingDependencyError("ray", "ray", "captioning with --engine ray")
