"""Distributed training: ranks, rank-zero-first preparation, and reductions over ranks.

The processes are started by torchrun or SLURM's srun, which run the same command in each; or by Lightning
(`training.devices`), after the first process has prepared the inputs.
"""

import atexit
import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch import Tensor

from seesay.config import TrainingConfig
from seesay.devices import choose_device
from seesay.errors import ConfigError, SeesayError
from seesay.metrics import CaptionMetrics


def rank() -> int:
    """Return the global rank of this process; only rank 0 writes files."""
    launched = _launcher()
    return launched.global_rank() if launched else int(os.environ.get("LOCAL_RANK", 0))


def process_counts(training: TrainingConfig) -> tuple[int, int]:
    """Return the number of processes per machine and the number of machines, as launched or else as configured."""
    launched = _launcher()
    if launched is None:
        return training.devices, 1
    per_machine = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE") or 1)
    return per_machine, launched.world_size() // per_machine


@contextlib.contextmanager
def rank_zero_first(training: TrainingConfig) -> Iterator[None]:
    """Run the block in rank 0, then in the other ranks, which log errors only.

    Raises:
        SeesayError: in the other ranks, if rank 0 failed.
    """
    if rank() > 0:
        logging.getLogger("seesay").setLevel(logging.ERROR)
    launched = _launcher()
    if launched is None or launched.world_size() == 1:
        yield  # Lightning starts the other processes after rank 0 has finished the block
        return
    _join(launched, training)
    if rank() > 0:
        if not _all_succeeded(True):
            raise SeesayError("the first process failed; see its message")
        yield
        return
    try:
        yield
    except BaseException:
        _all_succeeded(False)
        raise
    _all_succeeded(True)


def _launcher() -> ClusterEnvironment | None:
    """Return the environment of an external launcher, or None.

    Raises:
        ConfigError: SLURM has the number of tasks, but not of tasks per machine.
    """
    try:
        for environment in (TorchElasticEnvironment, SLURMEnvironment):
            if environment.detect():
                return environment()
    except RuntimeError as error:
        raise ConfigError(f"SLURM: {' '.join(str(error).split())}") from error
    return None


def _join(launched: ClusterEnvironment, training: TrainingConfig) -> None:
    """Join the process group, which Lightning then reuses."""
    if dist.is_initialized():
        return
    on_gpu = choose_device(training.device).startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(launched.local_rank())
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = launched.main_address, str(launched.main_port)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo", rank=launched.global_rank(), world_size=launched.world_size()
    )
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _all_succeeded(succeeded: bool) -> bool:
    """Wait for all processes; return whether `succeeded` is True in all."""
    failures = torch.tensor(int(not succeeded))
    dist.all_reduce(failures)
    return int(failures) == 0


def gather_captions(metrics: CaptionMetrics) -> CaptionMetrics:
    """Return the captions of all ranks in rank order; in a single process, `metrics` itself.

    Samplers pad the last batch with images of the first, so that an image may occur in several ranks; it counts once.
    """
    if _ranks() == 1:
        return metrics
    local = (metrics.hypotheses, metrics.references, metrics.ids)
    gathered: list[Any] = [None] * _ranks()
    dist.all_gather_object(gathered, local)
    merged = CaptionMetrics(metrics.tokenization, metrics.metrics)
    seen: set[str] = set()
    for hypotheses, references, ids in gathered:
        new = [place for place, name in enumerate(ids) if name not in seen]
        seen.update(ids)
        merged.update([hypotheses[p] for p in new], [references[p] for p in new], [ids[p] for p in new])
    return merged


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum of a tensor of any shape over all ranks; in a single process, the tensor itself."""
    if _ranks() == 1:
        return values
    total = values.clone()
    if dist.get_backend() == "nccl":
        total = total.to(torch.device("cuda", torch.cuda.current_device()))
    dist.all_reduce(total)
    return total.to(values.device)


def _ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
