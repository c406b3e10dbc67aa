"""FLOP and bytes of a compiled program: XLA's own where it has no loops, all turns where it has."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from eo_jax.plan import costs

WIDTH, TURNS = 64, 5


def layer(x, w):
    return jnp.tanh(x @ w), None


def scanned(x, weights):
    return jax.lax.scan(layer, x, weights)[0].sum()


def unrolled(x, weights):
    for w in weights:
        x, _ = layer(x, w)
    return x.sum()


def compiled(function):
    x, weights = jnp.ones((32, WIDTH)), jnp.ones((TURNS, WIDTH, WIDTH))
    return jax.jit(function).lower(x, weights).compile()


def test_a_program_without_loops_costs_what_xla_says():
    program = compiled(unrolled)
    found, xla = costs.read(program.as_text()), program.cost_analysis()
    assert found.once == found.whole
    assert found.whole.flops == pytest.approx(xla["flops"], rel=0.01)
    assert found.whole.bytes == pytest.approx(xla["bytes accessed"], rel=0.02)
    assert found.whole.main_bytes == found.whole.bytes


def test_turns_of_a_loop_are_counted():
    program = compiled(scanned)
    found = costs.read(program.as_text())
    assert found.once.flops == pytest.approx(program.cost_analysis()["flops"], rel=0.01)
    product = 2 * 32 * WIDTH * WIDTH
    assert found.whole.flops == pytest.approx(TURNS * product, rel=0.01)
    whole = costs.as_xla_counts(found, program.cost_analysis())
    assert whole.flops == pytest.approx(found.whole.flops, rel=0.01)


def test_convolutions_are_counted_by_the_values_that_they_meet():
    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(
            image,
            kernel,
            (2, 2),
            ((1, 2), (1, 2)),
            rhs_dilation=(2, 1),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    program = jax.jit(convolve).lower(jnp.ones((2, 9, 8, 3)), jnp.ones((3, 3, 3, 4))).compile()
    found = costs.read(program.as_text())
    assert found.whole.flops == pytest.approx(program.cost_analysis()["flops"], rel=0.01)


def test_memory_that_is_not_the_main_one_is_told_apart():
    """The text is of a TPU's program: one array is in the fast memory, S(1)."""
    text = (
        "HloModule m, is_scheduled=true\n\n"
        "ENTRY %main (p: bf16[8,128]) -> bf16[8,128] {\n"
        "  %p = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)\n"
        "  %copy = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} copy(%p)\n"
        "  ROOT %negate = bf16[8,128]{1,0:T(8,128)(2,1)} negate(%copy)\n"
        "}\n"
    )
    array, found = 8 * 128 * 2, costs.read(text).whole
    assert (found.flops, found.bytes, found.main_bytes) == (1024, 4 * array, 2 * array)
