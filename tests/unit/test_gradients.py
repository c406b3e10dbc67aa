"""Tests of the functions that bring a gradient of their own, against the same formula in float64
and its central differences.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from eo_jax.models.functional import gelu
from eo_jax.models.layers.dense import add_bias
from eo_jax.models.layers.layer_norm import LayerNorm, layer_norm

RNG = np.random.default_rng(0)
ROWS, WIDTH, EPSILON = 5, 7, 1e-3


def reference_gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def reference_layer_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(
        x.var(-1, keepdims=True) + EPSILON
    ) * scale + bias


def of_rows(shift: float = 0.0, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arguments of a LayerNorm over [2, rows, d]."""
    return (
        shift + spread * RNG.normal(size=(2, ROWS, WIDTH)),
        RNG.normal(size=WIDTH),
        RNG.normal(size=WIDTH),
    )


# {name: (ours, reference, arguments)}
CASES: dict[str, tuple[Callable, Callable, tuple[np.ndarray, ...]]] = {
    "gelu": (gelu, reference_gelu, (np.linspace(-6, 6, 61),)),
    "gelu, huge": (gelu, reference_gelu, (np.array([-1e4, -40.0, 0.0, 40.0, 1e4]),)),
    "layer norm": (lambda *a: layer_norm(*a, EPSILON), reference_layer_norm, of_rows()),
    "layer norm, far from 0": (
        lambda *a: layer_norm(*a, EPSILON),
        reference_layer_norm,
        of_rows(shift=30.0),
    ),
    "layer norm, all alike": (
        lambda *a: layer_norm(*a, EPSILON),
        reference_layer_norm,
        of_rows(shift=2.0, spread=0.0),
    ),
    "bias": (add_bias, np.add, (RNG.normal(size=(ROWS, WIDTH)), RNG.normal(size=WIDTH))),
}


def central_differences(
    function: Callable, arguments: tuple[np.ndarray, ...], weights: np.ndarray, step: float = 1e-5
) -> list[np.ndarray]:
    """Gradients of sum(weights x function) in float64."""
    gradients = []
    for which, argument in enumerate(arguments):
        gradient = np.zeros_like(argument)
        for place in np.ndindex(argument.shape):
            sides = []
            for sign in (1, -1):
                moved = [value.copy() for value in arguments]
                moved[which][place] += sign * step
                sides.append(np.sum(weights * function(*moved)))
            gradient[place] = (sides[0] - sides[1]) / (2 * step)
        gradients.append(gradient)
    return gradients


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_are_those_of_the_formula(case):
    ours, reference, arguments = CASES[case]
    expected = reference(*arguments)
    weights = RNG.normal(size=expected.shape)
    single = [jnp.asarray(argument, jnp.float32) for argument in arguments]
    value, pull = jax.vjp(ours, *single)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    for found, wanted in zip(
        pull(jnp.asarray(weights, jnp.float32)),
        central_differences(reference, arguments, weights),
        strict=True,
    ):
        np.testing.assert_allclose(
            found, wanted, rtol=1e-4, atol=1e-4 * max(1, np.abs(wanted).max())
        )


def of_layer_norm(dtype: str) -> Callable:
    return LayerNorm(WIDTH, jnp.dtype(dtype))


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [(gelu, gelu), (of_layer_norm("bfloat16"), of_layer_norm("float32"))],
    ids=["gelu", "layer norm"],
)
def test_bfloat16_goes_in_and_comes_out_and_float32_is_inside(narrow, wide):
    """Value and gradient are those of float32, rounded once."""
    x, weights = (jnp.asarray(RNG.normal(size=(ROWS, WIDTH)), jnp.bfloat16) for _ in range(2))

    def single(array):
        return np.asarray(array, np.float32)

    found, expected = [], []
    for function, argument, results in (
        (narrow, x, found),
        (wide, x.astype(jnp.float32), expected),
    ):
        value, pull = jax.vjp(function, argument)
        results += [value, *pull(weights.astype(value.dtype))]
    assert all(array.dtype == jnp.bfloat16 for array in found)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(single(one), single(other.astype(jnp.bfloat16)))
