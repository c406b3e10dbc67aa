"""Optimizers and schedules from config; decay and learning-rate scale by rules tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import optax

from eo_jax import rules
from eo_jax.schema import Params


@dataclasses.dataclass(frozen=True)
class Config:
    """AdamW with linear warm-up and cosine decay.

    Attributes:
        lr: peak learning rate, absolute (not scaled by the batch size).
        end_lr: learning rate at the last step.
        warmup_steps: steps from 0 to `lr`.
        weight_decay: decoupled, times the value of `decay_rules`.
        beta1, beta2, epsilon: of Adam.
        clip_norm: global gradient norm above which gradients are scaled down; 0 for never.
        accum: microbatches a step; the batch is cut into so many parts and their gradients averaged.
        decay_rules: regex -> share of `weight_decay`. Biases, norms and BatchNorm are left out, as in MAE.
        lr_rules: regex -> share of `lr`.
    """

    lr: float = 1e-3
    end_lr: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    clip_norm: float = 1.0
    accum: int = 1
    decay_rules: tuple[tuple[str, float], ...] = (("(bias|scale)$", 0.0), (".*", 1.0))
    lr_rules: tuple[tuple[str, float], ...] = ((".*", 1.0),)

    def __post_init__(self):
        if self.accum < 1:
            raise ValueError(f"config.optim.accum: {self.accum}; expected at least 1")


def schedule(config: Config, steps: int) -> Callable[[jax.Array], jax.Array]:
    """step -> learning rate: linear warm-up, then half a cosine to `end_lr` at `steps`."""
    if config.warmup_steps >= steps:
        raise ValueError(f"config.optim.warmup_steps: {config.warmup_steps}; expected fewer than config.run.steps, {steps}")
    return optax.warmup_cosine_decay_schedule(0.0 if config.warmup_steps else config.lr, config.lr, config.warmup_steps, steps, config.end_lr)


def make_optimizer(config: Config, params: Params, steps: int) -> optax.GradientTransformation:
    """The optax chain for these weights (shapes suffice)."""
    lr_scale = rules.match(config.lr_rules, params, "config.optim.lr_rules")
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        _add_decay(config.weight_decay, rules.match(config.decay_rules, params, "config.optim.decay_rules")),
        optax.stateless(lambda updates, _: jax.tree.map(lambda update, scale: update * scale, updates, lr_scale)),
        optax.scale_by_learning_rate(schedule(config, steps)),
    )


def _add_decay(weight_decay: float, shares: Params) -> optax.GradientTransformation:
    def update(updates: Params, params: Params) -> Params:
        return jax.tree.map(lambda u, p, share: u + weight_decay * share * p, updates, params, shares)

    return optax.stateless(update)
