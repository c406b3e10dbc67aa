"""BatchNorm over the global batch of one forward pass, over groups of its samples, or by running
statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from eo_jax.models.functional import Mode

EPSILON = 1e-5
_EXACT = jax.lax.Precision.HIGHEST  # sums are float32 on matrix units too
_MOMENTUM = 0.1  # PyTorch's definition: weight of the new batch in the running statistics


class BatchNorm(nnx.Module):
    """BatchNorm of x [b, ..., c] over all axes but the last, with PyTorch's rules: momentum 0.1,
    unbiased running variance, epsilon 1e-5.

    Moments are computed in float32. Under jit over a sharded batch they are global; with
    `mode.members` they are those of groups of samples.

    Args:
        affine: "affine" for a learned scale and bias, "plain" for neither.
    """

    def __init__(self, channels: int, affine: str = "affine"):
        if affine == "affine":
            self.scale = nnx.Param(jnp.ones(channels))
            self.bias = nnx.Param(jnp.zeros(channels))
        self.affine = affine
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))

    def __call__(
        self,
        x: Float[Array, "b *#space c"],
        valid: Bool[Array, "b *#space"] | None,
        mode: Mode,
        bias: Float[Array, " c"] | float = 0.0,
    ) -> Float[Array, "b *#space c"]:
        """x + bias, normalised.

        Args:
            x: `b` is the number of samples or a multiple of it; the rows of a sample are adjacent.
            valid: the positions that count in the statistics, None for all; its axes may have
                length 1 where positions share a value.
            bias: bias of the preceding convolution. The batch mean cancels it, so only running
                statistics need it, and x need not be rewritten to add it.
        """
        if mode.statistics == "running":
            return self._normalise(x, self.mean[...] - bias, self.var[...])
        if mode.members is None:

            def whole(a):
                return a.sum(tuple(range(a.ndim - 1)))[None]

            mean, var = self._batch_moments(
                x.astype(jnp.float32), valid, bias, whole, lambda a: a[0]
            )
            return self._normalise(x, mean, var)
        members = mode.members

        def by_sample(a):
            return a.reshape(members.shape[1], -1, *a.shape[1:])

        blocks = by_sample(x)
        axes = tuple(range(1, blocks.ndim - 1))

        # Samples stay in place: their sums are added up by group, and results are passed back.
        # Moving samples would gather a sharded batch on every device.
        def total(a):
            return jnp.einsum("gn,nc->gc", members, a.sum(axes), precision=_EXACT)

        def back(a):
            return jnp.einsum("gn,gc->nc", members, a, precision=_EXACT).reshape(
                len(blocks), *[1] * len(axes), -1
            )

        mean, var = self._batch_moments(
            blocks.astype(jnp.float32),
            None if valid is None else by_sample(valid),
            bias,
            total,
            back,
        )
        return self._normalise(blocks, mean, var).reshape(x.shape)

    def _normalise(self, x: Array, mean: Array, var: Array) -> Array:
        scale = jax.lax.rsqrt(var + EPSILON) * (self.scale[...] if self.affine == "affine" else 1.0)
        shift = (self.bias[...] if self.affine == "affine" else 0.0) - mean * scale
        # In float32: where |mean| is many std, x * scale and shift nearly cancel, and bfloat16
        # would lose the difference.
        return (x.astype(jnp.float32) * scale + shift).astype(x.dtype)

    def _batch_moments(
        self,
        x: Array,
        valid: Array | None,
        bias: Array | float,
        total: Callable[[Array], Array],
        back: Callable[[Array], Array],
    ) -> tuple[Array, Array]:
        """Mean and biased variance, shaped to normalise x; updates the running statistics by their
        mean over the groups.

        Args:
            total: sums over each group, [g, c].
            back: broadcasts values of groups [g, c] to the rows of x.
        """
        weight = (
            jnp.ones((len(x), *[1] * (x.ndim - 1)))
            if valid is None
            else valid.astype(jnp.float32)[..., None]
        )
        shared = tuple(axis for axis in range(1, x.ndim - 1) if weight.shape[axis] == 1)

        # Summed before weighting: otherwise XLA on CPU writes the weight of every value.
        def weighted(a):
            return a.sum(shared, keepdims=True) * weight

        valid = total(weight) * math.prod(x.shape[axis] for axis in shared)
        count = jnp.maximum(valid, 1.0)  # a batch without a valid value stays finite
        mean = total(weighted(x)) / count
        var = total(weighted(jnp.square(x - back(mean)))) / count
        momentum = jnp.where(valid > 0, _MOMENTUM, 0.0)  # and updates nothing
        self._update(self.mean, mean + bias, momentum)
        # A single value has no unbiased variance: 0.
        self._update(self.var, var * count / jnp.maximum(count - 1, 1.0), momentum)
        return back(mean), back(var)

    def _update(
        self, running: nnx.BatchStat, new: Float[Array, "g c"], momentum: Float[Array, "g 1"]
    ) -> None:
        # By `set_value`: an assignment to [...] asks the tracer for its sharding, for which JAX
        # walks through everything traced so far.
        running.set_value(
            running[...] + (momentum * (jax.lax.stop_gradient(new) - running[...])).mean(0)
        )
