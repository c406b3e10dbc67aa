"""Loss terms that several objectives share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def centre_label(label: Int[Array, "m ..."]) -> Int[Array, " m"]:
    """The label of each sample; that of a window is its centre pixel's."""
    for _ in range(label.ndim - 1):
        label = label[:, label.shape[1] // 2]
    return label


def dot(a: Float[Array, "... m d"], b: Float[Array, "d n"]) -> Float[Array, "... m n"]:
    """A matrix product in float32, also on matrix units, whose default is fewer bits."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def cross_correlation(
    x: Float[Array, "b d"], y: Float[Array, "b d"]
) -> tuple[Float[Array, " d"], Float[Array, ""]]:
    """(the diagonal of x^T y, the sum of the squares of its other entries).

    The squares of x^T y have the same sum as the entries of x x^T times those of y y^T: trace(x^T y
    y^T x). The cheaper way is taken: one product of columns, which is 268 MB for an embedding of
    8192, or two products of rows.
    """
    diagonal = (x * y).sum(0)
    squares = dot(x, x.T) * dot(y, y.T) if 2 * len(x) <= x.shape[1] else jnp.square(dot(x.T, y))
    return diagonal, squares.sum() - jnp.square(diagonal).sum()


def cross_entropy_and_top1(
    logits: Float[Array, "b k"], right: Int[Array, " b"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(cross-entropy of the softmax against the right column of each row, fraction of rows where
    that column is larger than all others).

    Where all columns are equal, as after a collapse, no row counts as right.
    """
    chosen = jnp.take_along_axis(logits, right[:, None], axis=1)
    accuracy = ((logits >= chosen).sum(1) == 1).mean(dtype=jnp.float32)
    return (jax.nn.logsumexp(logits, axis=1) - chosen[:, 0]).mean(), accuracy


def cross_view_entropy(
    targets: Float[Array, "vt b k"], log_predicted: Float[Array, "vs b k"]
) -> Float[Array, ""]:
    """Cross-entropy of each predicted view against each target view except its own, mean over the
    pairs of views and the batch.
    """
    pairs = (
        -jnp.einsum("ibk,jbk->ij", targets, log_predicted, precision=jax.lax.Precision.HIGHEST)
        / log_predicted.shape[1]
    )
    different = ~jnp.eye(*pairs.shape, dtype=bool)
    return jnp.where(different, pairs, 0.0).sum() / different.sum()
