"""Tests of `residual`: the type of what blocks add to, in trunk and decoder."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eo_jax.models.functional import EVALUATE, Network, Stack
from eo_jax.models.mae_decoder import PixelDecoder
from eo_jax.models.trunks import vit
from eo_jax.objectives import mae

TOKENS = jax.random.normal(jax.random.key(5), (2, 9, 96))

TARGET = jax.random.normal(jax.random.key(6), (2, 10, 96))


@functools.cache
def trunk(residual: str, dtype: str) -> Network:
    config = vit.Config(size="nano", depth=3, residual=residual)
    return Network(lambda rngs: config.build(jnp.dtype(dtype), rngs))


@functools.cache
def layers_and_gradient(residual: str, dtype: str) -> tuple[jax.Array, dict]:
    """(outputs of the last two blocks, gradient of a weighted sum of all tokens)."""
    network = trunk(residual, dtype)
    weights, _ = trunk("float32", "float32").init(jax.random.key(0))

    def loss(weights):
        def call(module):
            layers = module.last_layers(TOKENS, (3, 3), EVALUATE, 2)
            return (module(TOKENS, (3, 3), EVALUATE) * TARGET).sum(), layers

        (value, layers), _ = network.apply(weights, {}, call)
        return value, layers

    gradient, layers = jax.jit(jax.grad(loss, has_aux=True))(weights)
    return layers, gradient


def far(found, expected) -> float:
    """The largest relative distance between leaves, by their norms."""
    apart = jax.tree.map(lambda a, b: np.linalg.norm(a - b) / np.linalg.norm(b), found, expected)
    return max(jax.tree.leaves(apart))


@pytest.mark.slow
def test_the_stream_has_the_type_that_was_chosen():
    assert layers_and_gradient("float32", "bfloat16")[0].dtype == jnp.float32
    assert layers_and_gradient("compute", "bfloat16")[0].dtype == jnp.bfloat16


def test_in_float32_both_are_the_same_bit_for_bit():
    jax.tree.map(
        np.testing.assert_array_equal,
        layers_and_gradient("compute", "float32"),
        layers_and_gradient("float32", "float32"),
    )


def test_outputs_and_gradients_stay_within_the_rounding_of_bfloat16():
    layers, gradient = layers_and_gradient("float32", "float32")
    found, of_found = layers_and_gradient("compute", "bfloat16")
    assert far(found.astype(jnp.float32), layers) < 0.02
    assert far(of_found, gradient) < 0.1
    assert {leaf.dtype.name for leaf in jax.tree.leaves(of_found)} == {"float32"}


@pytest.mark.slow
def test_the_decoder_passes_its_type_to_its_blocks(monkeypatch):
    types, run = [], Stack.__call__
    monkeypatch.setattr(
        Stack, "__call__", lambda self, x: types.append(x.dtype.name) or run(self, x)
    )
    ids = jnp.tile(jnp.arange(9), (2, 1))

    def decoded(residual: str, dtype: str) -> jax.Array:
        size = (96, 32, 2, 2, "cheap", residual, "xla", 12, jnp.dtype(dtype))
        network = Network(lambda rngs: PixelDecoder(*size, rngs=rngs))

        def call(module):
            return module(TOKENS[:, :5], ids[:, :4], ids[:, 4:], 3, 3)

        return network.apply(network.init(jax.random.key(1))[0], {}, call)[0]

    found, expected = decoded("compute", "bfloat16"), decoded("float32", "float32")
    assert types == ["bfloat16", "float32"]
    assert found.dtype == jnp.float32
    assert far(found, expected) < 0.02


def test_choices_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"trunk\.residual: 'half'; expected one of float32, comp"):
        vit.Config(residual="half")
    with pytest.raises(ValueError, match=r"trunk\.residual: 'compute' with layer_scale=0\.0001"):
        vit.Config(residual="compute", layer_scale=1e-4)
    with pytest.raises(ValueError, match=r"decoder_residual: 'half'; expected one of float32, com"):
        mae.Config(decoder_residual="half")
