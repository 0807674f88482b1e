"""Reductions over two processes that validate half of the images each."""

from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from seesay.metrics import CaptionMetrics, compute_metrics
from seesay.training.base import step_seed
from seesay.training.distributed import gather_captions, sum_over_ranks
from tests.metrics.reference import random_captions

METRICS = ("BLEU", "ROUGE-L", "CIDEr")


def _half(rank: int) -> CaptionMetrics:
    """Every second image; rank 1 repeats the first image, as a sampler that pads its last batch does."""
    hypotheses, references = random_captions(21, seed=3)
    metrics = CaptionMetrics("whitespace", METRICS)
    places = [*range(rank, 21, 2), *([0] if rank else [])]
    metrics.update([hypotheses[p] for p in places], [references[p] for p in places], [str(p) for p in places])
    return metrics


def _rank(rank: int, meeting: Path, results: "Queue[tuple[int, dict[str, float], list[float], int]]") -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    scores = gather_captions(_half(rank)).compute()
    total = sum_over_ranks(torch.tensor([1.0 + rank, 10.0]))
    results.put((rank, scores.corpus, total.tolist(), len(scores.ids)))
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without processes")
def test_two_ranks_compute_the_score_of_all_images(tmp_path: Path) -> None:
    context = get_context("spawn")
    results = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, tmp_path / "meeting", results)) for rank in range(2)]
    for process in ranks:
        process.start()
    found = [results.get(timeout=120) for _ in ranks]
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    hypotheses, references = random_captions(21, seed=3)
    wanted = compute_metrics(hypotheses, references, tokenization="whitespace", metrics=METRICS).corpus
    for _, corpus, total, images in found:
        assert corpus == pytest.approx(wanted, abs=1e-12)
        assert total == [3.0, 20.0]
        assert images == 21


def test_a_single_process_returns_its_arguments() -> None:
    metrics, values = _half(0), torch.tensor([1.0, 2.0])
    assert gather_captions(metrics) is metrics
    assert sum_over_ranks(values) is values


def test_ranks_have_different_random_numbers_on_a_cpu() -> None:
    """Bug: torch's CPU generator uses only the low 32 bits of a seed, which were equal in all ranks."""
    numbers = [
        torch.rand(8, generator=torch.Generator().manual_seed(step_seed(3, step, rank)))
        for step in (0, 1, 5000)
        for rank in range(64)
    ]
    assert len({tuple(each.tolist()) for each in numbers}) == 3 * 64
