"""Optimizers and schedules from config; decay, learning-rate scale and freezing by rules tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eo_jax import rules
from eo_jax.optim import transforms
from eo_jax.schema import Params


def _table_of(is_value: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda table: all(
        isinstance(rule, tuple)
        and len(rule) == 2
        and isinstance(rule[0], str)
        and is_value(rule[1])
        for rule in table
    )


def _one_of(*names: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in names, f"one of {', '.join(names)}"


def _is_interval(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and 0 <= value[0] < value[1] <= 1


_POSITIVE = (lambda value: value > 0, "more than 0")
_NOT_NEGATIVE = (lambda value: value >= 0, "0 or more")
_BELOW_ONE = (lambda value: 0 <= value < 1, "from 0 to below 1")
_FACTORS = (
    _table_of(lambda factor: isinstance(factor, int | float) and factor >= 0),
    "((regex, 0 or more), ...)",
)
_INTERVALS = (
    _table_of(_is_interval),
    "((regex, (from, until)), ...) with 0 <= from < until <= 1",
)
# {field: (test of its value, the same in words)}
_ALLOWED = {
    "name": _one_of("adamw", "sgd", "lars"),
    "schedule": _one_of("cosine", "linear", "step", "constant"),
    "clip_scope": _one_of("global", "weight"),
    **dict.fromkeys(("lr", "horizon", "gamma", "epsilon", "trust_coefficient"), _POSITIVE),
    **dict.fromkeys(
        ("end_lr", "warmup_steps", "weight_decay", "clip_norm", "spike_sigma"), _NOT_NEGATIVE
    ),
    **dict.fromkeys(("beta1", "beta2", "momentum"), _BELOW_ONE),
    **dict.fromkeys(("decay_rules", "lr_rules"), _FACTORS),
    "warmup_start_factor": (lambda factor: 0 <= factor <= 1, "a fraction of lr, from 0 to 1"),
    "milestones": (
        lambda m: all(0 < x < 1 for x in m) and list(m) == sorted(set(m)),
        "rising fractions of the run between 0 and 1, such as (0.6, 0.8)",
    ),
    "end_weight_decay": (
        lambda decay: decay is None or decay >= 0,
        "0 or more, or None for a constant",
    ),
    "accum": (lambda count: count >= 1, "at least 1"),
    "layer_decay": (lambda factor: 0 < factor <= 1, "more than 0, at most 1, which decays nothing"),
    "freeze_rules": _INTERVALS,
    "constant_lr": (
        lambda table: isinstance(table, tuple) and all(isinstance(rule, str) for rule in table),
        "(regex, ...)",
    ),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The optimizer and its schedules; fields of those that are not chosen are ignored.

    Attributes:
        name: "adamw"; "sgd": decay added to the gradient, then momentum, as in PyTorch; "lars":
            decay added to the gradient, trust ratio, then momentum, as in Barlow Twins' released
            code: biases and weights of one axis have neither decay nor trust ratio.
        lr: peak learning rate, absolute (not scaled by the batch size).
        schedule: after the warm-up, "cosine" or "linear" to `end_lr`; "step": times `gamma` at each
            of `milestones`; "constant".
        end_lr: learning rate at the last step of cosine and linear.
        warmup_steps: steps of linear rise to `lr`.
        warmup_start_factor: fraction of `lr` at step 0, if there is a warm-up.
        horizon: length of the half-cosine over the number of steps after the warm-up. Above 1 it
            does not reach `end_lr`; below 1 it stays there.
        milestones: rising fractions of the run, of "step".
        gamma: factor at each milestone.
        weight_decay: multiplied by the value of `decay_rules`. Decoupled in adamw: lr *
            weight_decay * weight is subtracted.
        end_weight_decay: weight decay at the last step, along half a cosine over the whole run;
            None for a constant.
        beta1, beta2, epsilon: of adamw.
        momentum: of sgd and lars.
        trust_coefficient: of lars.
        clip_norm: gradient norm above which gradients are scaled down; 0 for never.
        clip_scope: "global": by the norm of all gradients together; "weight": each weight by its
            own norm, as in DINO's released code.
        accum: microbatches per step. The batch is cut into this many parts, whose gradients are
            averaged with equal weight, whatever is labelled or has data.
        decay_rules: regex -> factor on `weight_decay`. Biases, norms and BatchNorm have none, as in
            MAE. In lars, 0 also means no trust ratio.
        lr_rules: regex -> factor on `lr`.
        constant_lr: regexes of weights whose learning rate is always `lr` times their factor,
            whatever the schedule: SimSiam's predictor.
        layer_decay: factor on the learning rate per layer, as BEiT fine-tunes: block l of L has
            layer_decay^(L - l), l from 0; stems and learned tokens have layer_decay^(L + 1),
            everything else 1.
        spike_sigma: a step whose loss is more than so many standard deviations above the mean of
            the last 128 of its mixture component leaves the state unchanged, as one that is not
            finite does; 0 for never. Where losses stay at a higher level, 128 / (1 + sigma^2)
            steps in a row do, at most run.max_skipped. See spikes.py.
        freeze_rules: regex -> (from, until), fractions of the run. In between a weight is frozen:
            no update, no decay, no moments, no part in the global norm; then it continues as if
            those steps had not happened. Weights that no rule matches are never frozen.
    """

    name: str = "adamw"
    lr: float = 1e-3
    schedule: str = "cosine"
    end_lr: float = 0.0
    warmup_steps: int = 0
    warmup_start_factor: float = 0.0
    horizon: float = 1.0
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    weight_decay: float = 0.05
    end_weight_decay: float | None = None
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    momentum: float = 0.9
    trust_coefficient: float = 0.001
    clip_norm: float = 1.0
    clip_scope: str = "global"
    accum: int = 1
    decay_rules: tuple[tuple[str, float], ...] = (("(bias|scale)$", 0.0), (".*", 1.0))
    lr_rules: tuple[tuple[str, float], ...] = ((".*", 1.0),)
    constant_lr: tuple[str, ...] = ()
    layer_decay: float = 1.0
    spike_sigma: float = 6.0
    freeze_rules: tuple[tuple[str, tuple[float, float]], ...] = ()

    def __post_init__(self):
        for field, (allows, expected) in _ALLOWED.items():
            if not allows(getattr(self, field)):
                raise ValueError(
                    f"config.optim.{field}: {getattr(self, field)!r}; expected {expected}"
                )
        if self.schedule == "step" and not self.milestones:
            raise ValueError(
                "config.optim.milestones: (); expected at least one with config.optim.schedule "
                "'step', such as (0.6, 0.8)"
            )


def schedule(config: Config, steps: int) -> Callable[[jax.Array], jax.Array]:
    """step -> learning rate: linear warm-up, then `config.schedule`. Also takes arrays of steps."""
    warmup, rest = config.warmup_steps, steps - config.warmup_steps
    if rest <= 0:
        raise ValueError(
            f"config.optim.warmup_steps: {warmup}; expected fewer than config.run.steps, {steps}"
        )
    after = {
        "cosine": optax.cosine_decay_schedule(
            config.lr, config.horizon * rest, config.end_lr / config.lr
        ),
        "linear": optax.linear_schedule(config.lr, config.end_lr, rest),
        "step": optax.piecewise_constant_schedule(
            config.lr, {round(at * steps) - warmup: config.gamma for at in config.milestones}
        ),
        "constant": optax.constant_schedule(config.lr),
    }[config.schedule]
    return optax.join_schedules(
        [optax.linear_schedule(config.warmup_start_factor * config.lr, config.lr, warmup), after],
        [warmup],
    )


def learning_rates(config: Config, steps: int) -> np.ndarray:
    """The learning rate of every step, float [steps], in one call: for log lines."""
    return np.asarray(schedule(config, steps)(np.arange(steps)))


def decay_schedule(config: Config, steps: int) -> Callable[[jax.Array], jax.Array | float]:
    """step -> weight decay: constant, or along half a cosine to `end_weight_decay` at `steps`."""
    start, end = config.weight_decay, config.end_weight_decay
    if end is None:
        return optax.constant_schedule(start)
    return lambda count: (
        end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(count / steps, 1.0)))
    )


def decay_factors(config: Config, params: Params) -> Params:
    """The factor on the weight decay of each weight (shapes suffice)."""
    factors = rules.match(config.decay_rules, params, "config.optim.decay_rules")
    if config.name != "lars":
        return factors
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf, factor: 0.0 if _is_vector(keys, leaf) else factor, params, factors
    )


def _is_vector(keys: tuple, leaf: jax.Array) -> bool:
    path = rules.path_name(keys)
    # By name too: the bias of q, k and v has three axes here and one in PyTorch.
    return path.endswith("bias") or leaf.ndim - rules.is_stacked(path) <= 1


def lr_scales(config: Config, params: Params) -> Params:
    """The factor on the learning rate of each weight (shapes suffice): a number, or with
    `layer_decay` float32 [l, 1, ...] for stacked layers.
    """
    factors = rules.match(config.lr_rules, params, "config.optim.lr_rules")
    if config.layer_decay == 1:
        return factors
    return jax.tree.map(
        lambda _, by_rule, by_layer: by_rule * by_layer,
        params,
        factors,
        _layer_factors(config.layer_decay, params),
    )


def _layer_factors(decay: float, params: Params) -> Params:
    depths = sorted({leaf.shape[0] for path, leaf in rules.paths(params) if rules.is_stacked(path)})
    if len(depths) != 1:
        raise ValueError(
            f"config.optim.layer_decay: {decay} needs stacked blocks ('.../layers/...') of one "
            f"depth, found depths {depths}; set it to 1.0 for networks without, such as ResNets"
        )
    depth = depths[0]
    blocks = np.power(decay, np.arange(depth, 0, -1)).astype(np.float32)

    def factor(keys: tuple, leaf: jax.Array) -> np.ndarray | float:
        path = rules.path_name(keys)
        if rules.is_stacked(path):
            return blocks.reshape(depth, *[1] * (leaf.ndim - 1))
        return decay ** (depth + 1) if rules.is_embedding(path) else 1.0

    return jax.tree_util.tree_map_with_path(factor, params)


def freeze_intervals(config: Config, params: Params, steps: int) -> Params:
    """The steps [from, until) in which each weight is frozen, or None (shapes suffice)."""
    table = [
        (pattern, (round(start * steps), round(stop * steps)))
        for pattern, (start, stop) in config.freeze_rules
    ]
    return rules.match_some(table, params, "config.optim.freeze_rules", None)


def make_optimizer(config: Config, params: Params, steps: int) -> optax.GradientTransformation:
    """The optax chain for these weights (shapes suffice). Moments have the structure and the paths
    of the weights.
    """
    factors, intervals = decay_factors(config, params), freeze_intervals(config, params, steps)
    decay, momentum = (
        transforms.add_decay(decay_schedule(config, steps), factors),
        optax.trace(config.momentum),
    )
    core = {
        "adamw": (
            transforms.scale_by_adam(config.beta1, config.beta2, config.epsilon, intervals),
            decay,
        ),
        "sgd": (decay, momentum),
        "lars": (decay, transforms.scale_by_trust(config.trust_coefficient, factors), momentum),
    }[config.name]
    chain = optax.chain(
        _clip(config),
        *core,
        transforms.scale(lr_scales(config, params)),
        _rate(config, params, steps),
    )
    per_sensor = jax.tree_util.tree_map_with_path(
        lambda keys, _: rules.is_per_sensor(rules.path_name(keys)), params
    )
    chain = transforms.skip_unused(chain, per_sensor) if any(jax.tree.leaves(per_sensor)) else chain
    return transforms.freeze(chain, intervals) if config.freeze_rules else chain


def _rate(config: Config, params: Params, steps: int) -> optax.GradientTransformation:
    rate = schedule(config, steps)
    if not config.constant_lr:
        return optax.scale_by_learning_rate(rate)
    constant = rules.match_some(
        [(pattern, True) for pattern in config.constant_lr],
        params,
        "config.optim.constant_lr",
        False,
    )
    return transforms.scale_by_rates(rate, config.lr, constant)


def _clip(config: Config) -> optax.GradientTransformation:
    if not config.clip_norm:
        return optax.identity()
    return {"global": optax.clip_by_global_norm, "weight": transforms.clip_each}[config.clip_scope](
        config.clip_norm
    )
