"""The optimizer of a run and the course of its learning rate."""

import logging
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from seesay.config import TrainingConfig

log = logging.getLogger("seesay")

_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    # AdamW without decay is Adam. The smoothing constants are Keras', which the tutorials' results rest on.
    "adam": partial(torch.optim.AdamW, eps=1e-7, fused=True),
    "rmsprop": partial(torch.optim.RMSprop, alpha=0.9, eps=1e-7),
}


def build_optimizer(training: TrainingConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Returns the optimizer of the weights that may change, those of an `encoder` in a group of their own.

    Args:
        training: rule, learning rates and decay.
        model: its parameters are named; those of the encoder begin with "encoder.".
    """
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[name.startswith("encoder.")].append(parameter)
    rates = {False: training.learning_rate, True: training.encoder_learning_rate or training.learning_rate}
    listed = [{"params": groups[own], "lr": rates[own]} for own in (False, True) if groups[own]]
    made = _OPTIMIZERS[training.optimizer](listed, lr=training.learning_rate, weight_decay=training.weight_decay)
    # Lightning clips no gradients of an optimizer that says it unscales them, as fused ones do. Ours are never scaled.
    made._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return made


def warn_of_warmup(training: TrainingConfig, steps: int) -> None:
    """Logs a warning if the learning rate is still rising when training ends.

    Args:
        training: the settings.
        steps: of all epochs.
    """
    if training.warmup_steps >= steps:
        log.warning(
            "training.warmup_steps is %d, but all %d epochs have %d steps: the learning rate does not reach "
            "training.learning_rate; set warmup_steps to about %d, or more epochs",
            training.warmup_steps,
            training.epochs,
            steps,
            steps // 10,
        )


def rate_factor(training: TrainingConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """Returns the factor of the learning rate at each step, counted from 0.

    It rises linearly over `warmup_steps` (Goyal et al. 2017, section 2.2). Then it is 1, times `lr_drop` for
    each of `lr_drop_epochs` that is over; or, if `lr_schedule` is cosine, it falls to 0 at the last step along
    half a cosine (Loshchilov and Hutter 2017, equation 5, without restarts), and nothing is dropped.

    Args:
        training: the settings.
        steps_per_epoch: steps of an epoch.
    """
    total = training.epochs * steps_per_epoch

    def factor(step: int) -> float:
        if training.lr_schedule == "cosine":
            after = max(1, total - training.warmup_steps)
            done = min(1.0, max(0, step - training.warmup_steps) / after)
            course = 0.5 * (1 + math.cos(math.pi * done))
        else:
            course = training.lr_drop ** sum(step >= epoch * steps_per_epoch for epoch in training.lr_drop_epochs)
        return course * min(1.0, (step + 1) / max(1, training.warmup_steps))

    return factor
