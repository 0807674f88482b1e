"""The processes of one training: how many there are, who goes first, and what they bring together.

They are started by torchrun or SLURM's srun, which run the same command in every process; or by Lightning, which
starts the others (`training.devices`) when the first one has prepared everything.
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
    """Returns which of the processes this is; 0 is the leader, which alone writes files."""
    launched = _launcher()
    return launched.global_rank() if launched else int(os.environ.get("LOCAL_RANK", 0))


def process_counts(training: TrainingConfig) -> tuple[int, int]:
    """Returns the processes on each machine, and how many machines there are: as launched, else as configured."""
    launched = _launcher()
    if launched is None:
        return training.devices, 1
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE") or 1)
    return here, launched.world_size() // here


@contextlib.contextmanager
def rank_zero_first(training: TrainingConfig) -> Iterator[None]:
    """Lets the leader through alone, and the others when it is done; what they would log it has logged.

    Raises:
        SeesayError: in the others, where the leader has failed.
    """
    if rank() > 0:
        logging.getLogger("seesay").setLevel(logging.ERROR)
    launched = _launcher()
    if launched is None or launched.world_size() == 1:
        yield  # processes that Lightning starts come when the leader is through
        return
    _join(launched, training)
    if rank() > 0:
        if not _agreed(True):
            raise SeesayError("the first process has failed; its message says why")
        yield
        return
    try:
        yield
    except BaseException:
        _agreed(False)
        raise
    _agreed(True)


def _launcher() -> ClusterEnvironment | None:
    """Returns what has started the processes from outside, None where nothing has.

    Raises:
        ConfigError: SLURM was told how many tasks there are, but not how many on each machine.
    """
    try:
        for environment in (TorchElasticEnvironment, SLURMEnvironment):
            if environment.detect():
                return environment()
    except RuntimeError as error:
        raise ConfigError(f"SLURM: {' '.join(str(error).split())}") from error
    return None


def _join(launched: ClusterEnvironment, training: TrainingConfig) -> None:
    """Joins the processes' group, which Lightning then finds made."""
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


def _agreed(mine: bool) -> bool:
    """Waits for all processes; returns whether all have said yes."""
    no = torch.tensor(int(not mine))
    dist.all_reduce(no)
    return int(no) == 0


def gather_captions(metrics: CaptionMetrics) -> CaptionMetrics:
    """Returns the captions of all ranks in the order of the ranks; in one process, what was given.

    Samplers fill up the last batch with images of the first, so that an image may come from several ranks: it
    counts once.
    """
    if _ranks() == 1:
        return metrics
    mine = (metrics.hypotheses, metrics.references, metrics.ids)
    theirs: list[Any] = [None] * _ranks()
    dist.all_gather_object(theirs, mine)
    whole = CaptionMetrics(metrics.tokenization, metrics.metrics)
    seen: set[str] = set()
    for hypotheses, references, ids in theirs:
        fresh = [place for place, name in enumerate(ids) if name not in seen]
        seen.update(ids)
        whole.update([hypotheses[p] for p in fresh], [references[p] for p in fresh], [ids[p] for p in fresh])
    return whole


def sum_over_ranks(values: Tensor) -> Tensor:
    """Returns the sum over all ranks of a tensor of any shape; in one process, what was given."""
    if _ranks() == 1:
        return values
    total = values.clone()
    if dist.get_backend() == "nccl":
        total = total.to(torch.device("cuda", torch.cuda.current_device()))
    dist.all_reduce(total)
    return total.to(values.device)


def _ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
