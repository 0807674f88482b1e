"""The optimizer and the learning-rate schedule of a run."""

import logging
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from seesay.config import TrainingConfig

log = logging.getLogger("seesay")

_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    # AdamW without decay is Adam. The constants are those of Keras, used by the tutorials.
    "adam": partial(torch.optim.AdamW, eps=1e-7, fused=True),
    "rmsprop": partial(torch.optim.RMSprop, alpha=0.9, eps=1e-7),
}


def in_encoder(name: str) -> bool:
    """Return whether a parameter of a network of seesay's own, given by its name, belongs to its encoder."""
    return name.startswith("encoder.")


def build_optimizer(
    training: TrainingConfig, model: nn.Module, is_encoder: Callable[[str], bool] = in_encoder
) -> torch.optim.Optimizer:
    """Return the optimizer of the trainable parameters, with a separate group for the encoder's.

    Args:
        training: optimizer, learning rates and decay.
        model: the model.
        is_encoder: returns whether the parameter of a name belongs to the image encoder.
    """
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[is_encoder(name)].append(parameter)
    rates = {False: training.learning_rate, True: training.encoder_learning_rate or training.learning_rate}
    listed = [{"params": groups[own], "lr": rates[own]} for own in (False, True) if groups[own]]
    optimizer = _OPTIMIZERS[training.optimizer](listed, lr=training.learning_rate, weight_decay=training.weight_decay)
    # Lightning does not clip gradients of optimizers that unscale them, as fused ones do; these are never scaled.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


def count_warmup_steps(training: TrainingConfig, steps: int) -> int:
    """Return the number of steps over which the learning rate rises.

    This is `training.warmup_steps`, or a tenth of all steps if training would end before the learning rate is reached,
    as with a small data set.

    Args:
        training: the settings.
        steps: steps of all epochs.
    """
    return training.warmup_steps if training.warmup_steps < steps else steps // 10


def warn_of_warmup(training: TrainingConfig, steps: int) -> None:
    """Log a warning if the warm-up is shortened; arguments as for `count_warmup_steps`."""
    if (used := count_warmup_steps(training, steps)) < training.warmup_steps:
        log.warning(
            "training.warmup_steps is %d, but all %d epochs have %d steps: the learning rate rises over %d steps",
            training.warmup_steps,
            training.epochs,
            steps,
            used,
        )


def rate_factor(training: TrainingConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """Return the function that maps a step, counted from 0, to the factor of the learning rate.

    The factor rises linearly over `count_warmup_steps` (Goyal et al. 2017, section 2.2). Then it is 1, multiplied by
    `lr_drop` after each epoch of `lr_drop_epochs`; with `lr_schedule` cosine it decays to 0 at the last step along a
    half cosine (Loshchilov and Hutter 2017, equation 5, without restarts), and `lr_drop` is not applied.

    Args:
        training: the settings.
        steps_per_epoch: steps per epoch.
    """
    total = training.epochs * steps_per_epoch
    warmup = count_warmup_steps(training, total)

    def factor(step: int) -> float:
        if training.lr_schedule == "cosine":
            done = min(1.0, max(0, step - warmup) / max(1, total - warmup))
            decay = 0.5 * (1 + math.cos(math.pi * done))
        else:
            decay = training.lr_drop ** sum(step >= epoch * steps_per_epoch for epoch in training.lr_drop_epochs)
        return decay * min(1.0, (step + 1) / max(1, warmup))

    return factor
