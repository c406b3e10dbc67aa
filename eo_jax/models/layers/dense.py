"""Dense layers, and the MLP of a transformer block."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from eo_jax.models.functional import gelu
from eo_jax.models.layers.product import BY_INPUT, BY_OUTPUT, Split, product


class MLP(nnx.Module):
    """Two dense layers with an exact GELU between."""

    def __init__(self, width: int, hidden: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.fc1 = Dense(width, hidden, dtype, BY_OUTPUT, rngs=rngs)
        self.fc2 = Dense(hidden, width, dtype, BY_INPUT, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.fc2(gelu(self.fc1(x)))


class Linear(nnx.Linear):
    """A linear layer that computes in `dtype`; see `product` for what a mesh makes of it.

    Args:
        split: axes along which its weight stays split in the product.
        kwargs: those of `nnx.Linear`.
    """

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        dtype: jnp.dtype,
        split: Split = (),
        *,
        rngs: nnx.Rngs,
        **kwargs: Any,
    ):
        super().__init__(fan_in, fan_out, dtype=dtype, rngs=rngs, **kwargs)
        self.split = split

    def __call__(self, x: Float[Array, "*row i"]) -> Float[Array, "*row o"]:
        x = product(jnp.asarray(x, self.dtype), jnp.asarray(self.kernel[...]), self.split)
        return x if self.bias is None else add_bias(x, jnp.asarray(self.bias[...]))


class Dense(Linear):
    """With MAE's initialisation: Xavier-uniform weight, zero bias."""

    def __init__(
        self, fan_in: int, fan_out: int, dtype: jnp.dtype, split: Split = (), *, rngs: nnx.Rngs
    ):
        xavier = nnx.initializers.xavier_uniform()
        super().__init__(fan_in, fan_out, dtype, split, kernel_init=xavier, rngs=rngs)


@jax.custom_vjp
def add_bias(x: Float[Array, "*row *o"], bias: Float[Array, "*o"]) -> Float[Array, "*row *o"]:
    """Adds a bias to every row, in the type of x. Its gradient, in its own type, is a product with
    ones, ten times as fast as XLA's sum over rows on CPU.
    """
    return x + bias.astype(x.dtype)


def _add_bias_forward(x: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    return add_bias(x, bias), bias


def _add_bias_backward(bias: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows = tuple(range(gradient.ndim - bias.ndim))
    ones = jnp.ones(gradient.shape[: len(rows)], gradient.dtype)
    of_bias = jax.lax.dot_general(
        ones, gradient, ((rows, rows), ((), ())), preferred_element_type=bias.dtype
    )
    return gradient, of_bias


add_bias.defvjp(_add_bias_forward, _add_bias_backward)
