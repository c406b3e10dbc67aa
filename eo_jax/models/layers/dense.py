"""Dense layers, and the MLP of a transformer block."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from eo_jax.models.functional import gelu


class MLP(nnx.Module):
    """Two dense layers with an exact GELU between."""

    def __init__(self, width: int, hidden: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.fc1 = Dense(width, hidden, dtype, rngs=rngs)
        self.fc2 = Dense(hidden, width, dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.fc2(gelu(self.fc1(x)))


class Dense(nnx.Linear):
    """A linear layer that computes in `dtype`, with MAE's initialisation: Xavier-uniform weight,
    zero bias.
    """

    def __init__(self, fan_in: int, fan_out: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        super().__init__(
            fan_in, fan_out, dtype=dtype, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs
        )

    def __call__(self, x: Float[Array, "*row i"]) -> Float[Array, "*row o"]:
        x, kernel, bias = (
            jnp.asarray(array, self.dtype) for array in (x, self.kernel[...], self.bias[...])
        )
        product = x.reshape(-1, x.shape[-1]) @ kernel
        return add_bias(product, bias).reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def add_bias(rows: Float[Array, "r o"], bias: Float[Array, " o"]) -> Float[Array, "r o"]:
    """Adds a bias to every row. Its gradient is a product with ones, ten times as fast as XLA's sum
    over rows on CPU.
    """
    return rows + bias


def _add_bias_forward(rows: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return rows + bias, None


def _add_bias_backward(_: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gradient, jnp.ones(len(gradient), gradient.dtype) @ gradient


add_bias.defvjp(_add_bias_forward, _add_bias_backward)
