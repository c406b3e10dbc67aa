"""LayerNorm (Ba et al. 2016, arXiv 1607.06450) with a custom backward pass."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

EPSILON = 1e-6  # of ViTs, and of SegFormer's blocks
TORCH_EPSILON = 1e-5  # of SegFormer's embeddings and reductions
Residuals = tuple[Array, Array, Array, Array]


class LayerNorm(nnx.Module):
    """[..., d] -> [..., d] in `dtype`: each row to mean 0 and variance 1, then a learned scale and
    bias.

    Moments are computed in float32 and in two passes, since the one-pass formula loses digits.

    Args:
        epsilon: added to the variance.
    """

    def __init__(self, width: int, dtype: jnp.dtype, epsilon: float = EPSILON):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.dtype, self.epsilon = dtype, epsilon

    def __call__(self, x: Float[Array, "*row d"]) -> Float[Array, "*row d"]:
        # Weights from a file are numpy arrays.
        scale, bias = jnp.asarray(self.scale[...]), jnp.asarray(self.bias[...])
        return layer_norm(x, scale, bias, self.epsilon).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*row d"], scale: Float[Array, " d"], bias: Float[Array, " d"], epsilon: float
) -> Float[Array, "*row d"]:
    """scale (x - mean) / sqrt(variance + epsilon) + bias, in float32; x itself is kept for the
    gradient, in its own type.

    JAX's own gradient goes back through both moments and takes twice as long on CPU.
    """
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, Residuals]:
    wide = x.astype(jnp.float32)
    mean = _mean(wide)
    inverse = jax.lax.rsqrt(_mean(jnp.square(wide - mean)) + epsilon)
    return (wide - mean) * inverse * scale + bias, (x, mean, inverse, scale)


def _backward(epsilon: float, residuals: Residuals, gradient: Array) -> tuple[Array, Array, Array]:
    """With y = (x - mean) / std and g the gradient of y, the gradient of x is
    (g - mean(g) - y mean(g y)) / std.
    """
    x, mean, inverse, scale = residuals
    y, rows = (x.astype(jnp.float32) - mean) * inverse, tuple(range(x.ndim - 1))
    g = gradient * scale
    of_x = inverse * (g - _mean(g) - y * _mean(g * y))
    return of_x.astype(x.dtype), (gradient * y).sum(rows), gradient.sum(rows)


layer_norm.defvjp(_forward, _backward)


def _mean(x: Array) -> Array:
    return x.mean(-1, keepdims=True)
