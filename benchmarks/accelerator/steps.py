"""Whole train steps, augmentation included, and the parts of a step of MAE."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.accelerator.cases import config_of, experiment_of, repeated_batch_of
from benchmarks.accelerator.scale import Scale
from benchmarks.step_workloads import Step, recipe_of
from eo_jax.augment import masking
from eo_jax.experiment import Experiment, make_experiment, sample_flops
from eo_jax.models.functional import TRAIN
from eo_jax.monitor.throughput import peak_flops
from eo_jax.optim.optimizers import make_optimizer

Figures = Iterator[dict[str, Any]]
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def whole_step(
    scale: Scale,
    case: str,
    trunk: Mapping[str, Any] = _NOTHING,
    section: Mapping[str, Any] = _NOTHING,
) -> Figures:
    """The step of a case; `trunk` and `section` change its config."""
    experiment = make_experiment(config_of(case, scale, trunk, section))
    yield from step_figures(scale, experiment)


def step_figures(scale: Scale, experiment: Experiment) -> Figures:
    """Compile time, memory, speed, FLOP and MFU of an experiment's step.

    "planned_gb" are XLA's arguments and temporaries, "peak_gb" what its allocator gave out.
    """
    recipe, batch = recipe_of(experiment), repeated_batch_of(experiment)
    step = Step.of(experiment, recipe, batch)
    size = experiment.data.batch_size
    yield {"batch": size, "compile_s": step.compile_s, "planned_gb": step.memory_mb() / 1e3}
    timed = scale.step_s(step.run)
    yield {**timed, "samples_per_s": size / timed["step_s"], "loss": step.run(1)}
    peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    yield {} if peak is None else {"peak_gb": peak / 1e9}
    flops = sample_flops(experiment, recipe.train, batch)
    rate = flops * size / timed["step_s"]
    yield {"gflop_per_sample": flops / 1e9, "flops_per_s": rate}
    nominal = peak_flops()
    yield {"mfu": rate / nominal} if nominal else {}


# ------------------------------------------------------------------ parts of MAE


def mae_parts(scale: Scale, case: str) -> Figures:
    """Seconds of each part of a step, by differences of separately compiled functions: "stem" is
    the embedding of the visible tokens (with the spectral adapter) and its gradient, "trunk" what
    the encoder takes besides, "decoder" what loss and gradient take besides the encoder. The parts
    miss what XLA fuses across their borders.
    """
    experiment = experiment_of(case, scale)
    objective, key = experiment.objective, jax.random.key(0)
    make_views = jax.jit(recipe_of(experiment).train)
    batch = repeated_batch_of(experiment)
    seconds = functools.partial(_seconds, scale)
    augmentation = seconds(make_views, batch, key)
    yield {"augmentation_s": augmentation}
    optimizer = _optimizer_seconds(scale, experiment)
    yield {"optimizer_s": optimizer}
    views = make_views(batch, key)
    view, valid = objective.only_view(views)
    params, carry = jax.jit(objective.init)(key)
    of_encoder = params["encoder"], carry["encoder"], view, valid, _visible(objective, view, key)
    stem = seconds(_with_gradient(objective, "embed"), *of_encoder)
    yield {"stem_s": stem}
    encoder = seconds(_with_gradient(objective, "tokens"), *of_encoder)
    yield {"trunk_s": encoder - stem}
    whole = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    loss = seconds(whole, params, carry, views, key, jnp.float32(0.5))
    total = augmentation + optimizer + loss
    parts = {
        "augmentation": augmentation,
        "stem": stem,
        "trunk": encoder - stem,
        "decoder": loss - encoder,
        "optimizer": optimizer,
    }
    fractions = {f"{name}_fraction": part / total for name, part in parts.items()}
    yield {"decoder_s": loss - encoder, "sum_s": total, **fractions}


def _visible(objective: Any, view: jax.Array, key: jax.Array) -> jax.Array:
    """Random visible tokens [b, k]."""
    tokens = (view.shape[1] // objective.encoder.patch) ** 2
    count = masking.visible_count(tokens, objective.config.mask_ratio)
    return jnp.argsort(jax.random.uniform(key, (len(view), tokens)))[:, :count]


def _with_gradient(objective: Any, method: str) -> Callable:
    """(weights, statistics, view, valid, ids) -> a scalar of the result of the encoder's method,
    and its gradient.
    """

    def scalar(params, statistics, view, valid, ids):
        tokens, _ = objective.encoder.network.apply(
            params, statistics, lambda module: getattr(module, method)(view, valid, ids, TRAIN)
        )
        return jnp.square(tokens.astype(jnp.float32)).mean()

    return jax.jit(jax.value_and_grad(scalar))


def _optimizer_seconds(scale: Scale, experiment: Experiment) -> float:
    params, _ = jax.jit(experiment.objective.init)(jax.random.key(0))
    optimizer = make_optimizer(experiment.optim, params, experiment.run.steps)
    return updates_s(scale, optimizer, params)


def updates_s(scale: Scale, optimizer: optax.GradientTransformation, params: Any) -> float:
    """Seconds of an update of weights and moments in place; `params` are used up."""

    def update(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(update, donate_argnums=(0, 1))
    grads, state = jax.tree.map(jnp.ones_like, params), optimizer.init(params)

    def run(steps: int) -> None:
        nonlocal params, state
        for _ in range(steps):
            params, state = compiled(params, state, grads)
        jax.block_until_ready(params)

    return scale.step_s(run)["step_s"]


def _seconds(scale: Scale, function: Callable, *arguments: Any) -> float:
    """Of a call, the inputs of which stay the same."""

    def run(times: int) -> None:
        for _ in range(times):
            result = function(*arguments)
        jax.block_until_ready(result)

    return scale.step_s(run)["step_s"]
