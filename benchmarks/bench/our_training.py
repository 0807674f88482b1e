"""Our side of the training benchmark: bare steps, the whole loop around them, and their floor."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch

from bench.contestants import Entry, Round
from bench.floor import Counts, MachineRates, NecessaryWork, floor_of, necessary_work
from bench.material import VOCABULARY, TrainingData
from bench.measuring import seconds
from seesay.config import resolve_config
from seesay.data.batches import CaptionBatches
from seesay.models.captioning import build_model
from seesay.training.callbacks import MetricsLog
from seesay.training.ema import EmaWeights
from seesay.training.graphs import GraphedTrainStep, uses_graphs
from seesay.training.module import CaptioningModule
from seesay.training.trainer import build_trainer, quiet_lightning


def ours(entry: Entry, material: TrainingData) -> Callable[[], Round]:
    """Returns a round of ours: an epoch of bare steps, one of the whole training loop, and the floor of the former."""
    made: list[OurSteps] = []
    rates: list[MachineRates] = []

    def work() -> Round:
        if not made:  # the first round is the one whose memory counts: nothing but the steps
            made.append(OurSteps(our_module(entry, material), entry.precision == "bfloat16"))
            made[0].epoch()
            return {}
        bare = made[0]
        taken = seconds(bare.epoch)
        rates[:] = rates or [MachineRates(bare.works[0].products, bare.dtype)]
        matrix, tanh = rates[0].matrix(), rates[0].tanh()
        floor = floor_of(bare.works, matrix, tanh)
        return {
            "captions": material.captions,
            "seconds": taken,
            "floor": floor.seconds,
            "floor_tanh": floor.tanh,
            "matrix_rate": matrix,
            "tanh_rate": tanh,
            "loop": train_in_loop(our_module(entry, material)),
        }

    return work


class OurSteps:
    """The training step of `seesay train` without Lightning around it.

    The step is `CaptioningModule.training_step`, its optimizer, schedule and average of weights those of the
    preset; a test holds the weights after an epoch against those of the loop. Left out are Lightning's hooks, the
    seed of each step, log lines, TensorBoard, checkpoints and validation.

    Attributes:
        works: the necessary arithmetic of each step of the last epoch.
        dtype: of the products.
    """

    def __init__(self, module: CaptioningModule, bfloat16: bool) -> None:
        self.module = module
        self.dtype = torch.bfloat16 if bfloat16 else torch.float32
        training = self.module.config.training
        made = self.module.configure_optimizers()
        self._optimizer, self._schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
        self._clip = training.max_grad_norm
        self._average = EmaWeights(training.ema_decay) if training.ema_decay else None
        if self._average:
            self._average.on_train_start(cast("Any", None), self.module)
        self._steps, self._epochs = 0, 0
        self.works: list[NecessaryWork] = []

    def epoch(self, order: int | None = None) -> None:
        """Trains once on everything.

        Args:
            order: the epoch whose batches these are; None = another at each call.
        """
        module, counts = self.module, []
        module.batches.set_epoch(self._epochs if order is None else order)
        module.epoch_loss = torch.zeros(2, device=module.device)
        for number, batch in enumerate(module.batches):
            self._optimizer.zero_grad()
            batch = batch.to(module.device, non_blocking=True)
            with torch.autocast(module.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                loss = module.training_step(batch, number)
            loss.backward()  # type: ignore[no-untyped-call]
            if self._clip:
                torch.nn.utils.clip_grad_norm_(module.parameters(), self._clip)
            self._optimizer.step()
            self._schedule.step()
            self._steps += 1
            if self._average:
                now = cast("Any", SimpleNamespace(global_step=self._steps))
                self._average.on_train_batch_end(now, module, None, batch, number)
            assert batch.features is not None
            counts.append(Counts.of(batch.captions, *batch.features.shape[:2]))
        self._epochs += 1
        self.works = [necessary_work(module.model, module.config.model, each) for each in counts]


def our_module(
    entry: Entry, material: TrainingData, vocabulary: int = VOCABULARY, **overrides: str | int | bool
) -> CaptioningModule:
    """Returns a preset's captioner ready to be trained, with so many word ids."""
    settings = {"precision": entry.precision, "device": "cpu", "epochs": 100, **overrides}
    config = resolve_config(entry.preset, overrides=settings)
    torch.manual_seed(config.training.seed)
    features = material.features.pooled() if config.encoder.pool == "pooled" else material.features
    model = build_model(config.model, vocabulary, features.features.shape[2])
    batches = CaptionBatches(material.examples, features, None, config.training.batch_captions)
    references = {example.id: ["an image"] for example in material.examples}
    model.train()
    steps = GraphedTrainStep(model, config.training.label_smoothing) if uses_graphs(config.training, model) else None
    longest = material.longest - 2
    module = CaptioningModule(model, config, material.tokenizer, batches, references, longest, steps=steps)
    module.train()
    return module.to(config.training.device)


def train_in_loop(module: CaptioningModule) -> float:
    """Trains for an epoch under Lightning, as `seesay train` does; returns the seconds of it, validation aside."""
    held = CaptionBatches(module.batches.examples[:2], module.batches.features, None, 64, shuffle=False)
    with tempfile.TemporaryDirectory() as folder, quiet_lightning():
        out = Path(folder)
        trainer = build_trainer(module.config, out, [MetricsLog(out / "metrics.csv", module.config.training.log_every)])
        trainer.fit_loop.max_epochs = 1
        trainer.fit(module, module.batches, held)
    return module.seconds
