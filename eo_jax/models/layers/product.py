"""Products with weights: on a mesh weights move to the samples, never samples to the weights.

A weight is stored in parts (`fsdp`) and in float32. It is cast and then gathered where it is used,
forward and again backward. XLA left alone would leave a weight in parts where it finds that
cheaper by its own count, and exchange the tokens of the whole batch instead.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

# Mesh axes along the axes of a weight along which it stays split in a product; () for none.
Split = tuple[str | None, ...]
# Splits of dense layers that follow each other: the output of the first, and so the sum in the
# second, is spread over the mesh axis `model` (Shoeybi et al. 2019, arXiv 1909.08053).
BY_OUTPUT: Split = (None, "model")
BY_INPUT: Split = ("model", None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(
    x: Float[Array, "*row i"],
    weight: Float[Array, " i *o"],
    split: Split = (),
    precision: jax.lax.Precision | None = None,
) -> Float[Array, "*row *o"]:
    """x times a weight, in the type of x.

    The gradient of the weight has the type in which it is stored: bfloat16 would round what each
    replica adds to the sum over all of them.
    """
    return _forward(x, weight, split, precision)[0]


def gathered(
    weight: Float[Array, "*shape"], dtype: jnp.dtype, split: Split
) -> Float[Array, "*shape"]:
    """The weight in `dtype`, whole on every device but for the axes of `split`; as it is where no
    mesh is set.
    """
    cast, mesh = jnp.asarray(weight, dtype), jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return cast
    kept = (axis if axis in mesh.axis_names else None for axis in split)
    return jax.lax.with_sharding_constraint(cast, PartitionSpec(*kept))


def _forward(x, weight, split, precision):
    whole = gathered(weight, x.dtype, split)
    return jnp.tensordot(x, whole, 1, precision=precision), (x, weight)


def _backward(split, precision, residuals, gradient):
    x, weight = residuals
    whole = gathered(weight, x.dtype, split)
    outputs, rows = tuple(range(1, weight.ndim)), tuple(range(x.ndim - 1))
    of_outputs = tuple(axis + len(rows) - 1 for axis in outputs)
    of_x = jnp.tensordot(gradient, whole, (of_outputs, outputs), precision=precision)
    of_weight = jax.lax.dot_general(
        x,
        gradient,
        ((rows, rows), ((), ())),
        precision=precision,
        preferred_element_type=weight.dtype,
    )
    return of_x, of_weight


product.defvjp(_forward, _backward)
