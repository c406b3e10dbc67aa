"""Heads: several views at once are the same as one after the other, with statistics, running
statistics and gradients of their own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eo_jax.models.functional import Mode, Network
from eo_jax.models.heads import ENDS, MLP
from eo_jax.models.layers.batch_norm import BatchNorm

VIEWS, ROWS = 3, 6


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("hidden_norm", ["batch", "none"])
def test_views_at_once_are_views_one_after_the_other(end: str, hidden_norm: str):
    network = Network(
        lambda rngs: MLP(
            (5, 7, 7, 4), jnp.dtype("float32"), hidden_norm=hidden_norm, end=end, rngs=rngs
        )
    )
    params, fresh = jax.jit(network.init)(jax.random.key(0))
    # Views differ in mean and spread, so statistics of them together would show.
    x = np.asarray(jax.random.normal(jax.random.key(1), (VIEWS, ROWS, 5)))
    x = x * np.float32([1.0, 5.0, 0.2])[:, None, None] + np.float32([0.0, 1.0, 2.0])[:, None, None]

    def at_once(params):
        found, statistics = network.apply(
            params, fresh, lambda head: head(jnp.asarray(x), Mode("batch"))
        )
        return jnp.cos(found).sum(), (found, statistics)

    def in_turn(params):
        found, statistics = [], fresh
        for view in jnp.asarray(x):
            output, statistics = network.apply(
                params, statistics, lambda head, view=view: head(view, Mode("batch"))
            )
            found.append(output)
        return sum(jnp.cos(output).sum() for output in found), (jnp.stack(found), statistics)

    (_, one), gradients_at_once = jax.jit(jax.value_and_grad(at_once, has_aux=True))(params)
    (_, other), gradients_in_turn = jax.jit(jax.value_and_grad(in_turn, has_aux=True))(params)

    def close(a, b):
        return np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1, np.abs(b).max()))

    jax.tree.map(close, (one, gradients_at_once), (other, gradients_in_turn))
    assert bool(jax.tree.leaves(fresh)) == (hidden_norm == "batch" or "norm" in end)


@pytest.mark.parametrize(
    "valid",
    [None, np.array([False, True, False])],
    ids=["a batch of one", "one valid of three"],
)
def test_batchnorm_of_one_value_is_its_bias_not_a_guess(valid):
    """One value has no variance. Counted as two, its mean would be half of it."""
    x = (
        jnp.array([[5.0, -3.0]])
        if valid is None
        else jnp.array([[9.0, 9.0], [5.0, -3.0], [9.0, 9.0]])
    )
    norm = BatchNorm(2)
    found = norm(x, None if valid is None else jnp.asarray(valid), Mode("batch"))
    np.testing.assert_allclose(found[0 if valid is None else 1], 0, atol=1e-6)
    np.testing.assert_allclose(norm.mean[...], 0.1 * np.array([5.0, -3.0]), rtol=1e-6)
    np.testing.assert_allclose(norm.var[...], 0.9, rtol=1e-6)  # of one value none is known: 0
