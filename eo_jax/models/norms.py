"""BatchNorm as published recipes need it: over the global batch of one forward pass, over groups of its rows, or by running statistics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from eo_jax.models.functional import Mode

_EPSILON = 1e-5
_MOMENTUM = 0.1  # share of the new batch in the running statistics, as PyTorch counts it


class BatchNorm(nnx.Module):
    """BatchNorm of x [b, ..., c] over all axes but the last, with PyTorch's rules: momentum 0.1, unbiased running variance, epsilon 1e-5.

    Moments are taken in float32. Under jit over a sharded batch they are the global ones; with `mode.groups` those of blocks of rows.

    Args:
        affine: "affine" for a learned scale and bias, "plain" for none.
    """

    def __init__(self, channels: int, affine: str = "affine"):
        if affine == "affine":
            self.scale = nnx.Param(jnp.ones(channels))
            self.bias = nnx.Param(jnp.zeros(channels))
        self.affine = affine
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))

    def __call__(self, x: Float[Array, "b *#space c"], counted: Bool[Array, "b *#space"] | None, mode: Mode) -> Float[Array, "b *#space c"]:
        """`counted` says which positions make the statistics, None for all; its axes may be 1 where positions share a value."""
        if mode.statistics == "running":
            return self._normalise(x, self.mean[...], self.var[...])
        grouped = lambda array: array.reshape(mode.groups, -1, *array.shape[1:])  # noqa: E731
        blocks = grouped(x)
        mean, var = self._batch_moments(blocks.astype(jnp.float32), None if counted is None else grouped(counted))
        return self._normalise(blocks, mean, var).reshape(x.shape)

    def _normalise(self, x: Array, mean: Array, var: Array) -> Array:
        scale = jax.lax.rsqrt(var + _EPSILON) * (self.scale[...] if self.affine == "affine" else 1.0)
        shift = (self.bias[...] if self.affine == "affine" else 0.0) - mean * scale
        # In float32: where |mean| is many std, x scale and shift cancel, and bfloat16 would lose what is left.
        return (x.astype(jnp.float32) * scale + shift).astype(x.dtype)

    def _batch_moments(self, x: Float[Array, "g r *#space c"], counted: Bool[Array, "g r *#space"] | None) -> tuple[Array, Array]:
        """Mean and biased variance [g, 1, ..., c] of each group; moves the running statistics by the mean over the groups."""
        axes = tuple(range(1, x.ndim - 1))
        weight = jnp.ones((1,) * x.ndim) if counted is None else counted.astype(jnp.float32)[..., None]
        weighed = x.size // x.shape[0] // x.shape[-1] // (weight.size // weight.shape[0])  # positions that share a value of `weight`
        valid = weight.sum(axes, keepdims=True) * weighed
        count = jnp.maximum(valid, 2.0)  # 2, so that a batch without a valid value stays finite
        mean = (x * weight).sum(axes, keepdims=True) / count
        var = (jnp.square(x - mean) * weight).sum(axes, keepdims=True) / count
        momentum = jnp.where(valid > 0, _MOMENTUM, 0.0)  # and moves nothing
        self._move(self.mean, mean, momentum)
        self._move(self.var, var * count / (count - 1), momentum)
        return mean, var

    def _move(self, running: nnx.BatchStat, new: Array, momentum: Array) -> None:
        step = momentum * (jax.lax.stop_gradient(new) - running[...])
        running[...] += step.reshape(step.shape[0], -1).mean(0)
