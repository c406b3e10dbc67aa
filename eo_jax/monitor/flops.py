"""Counts the FLOP of a function from its jaxpr: its matrix products and convolutions, 2 FLOP per
multiply-add.

XLA's cost analysis counts the body of a scan once and includes recomputation. Here a scan counts
`length` times, a conditional as its most expensive branch, and a while loop as one run of its body,
since its number of iterations is unknown. Everything elementwise is left out, also a convolution
written as a sum of shifted products.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var


@dataclasses.dataclass(frozen=True)
class Flops:
    """FLOP of a function.

    Attributes:
        forward: of all its products.
        train: the same and those of its gradient, without recomputation. Each operand of a product
            that depends on the weights costs one more product, the transposed one. A backward pass
            of one's own (`jax.custom_vjp`) is assumed to cost as much.
    """

    forward: int = 0
    train: int = 0

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.forward + other.forward, self.train + other.train)

    def __mul__(self, times: int) -> Flops:
        return Flops(self.forward * times, self.train * times)


# The FLOP of an equation or jaxpr, and which of its outputs depend on the weights.
_Counted: TypeAlias = tuple[Flops, list[bool]]


def count(function: Callable, *args: Any) -> Flops:
    """The FLOP of `function(*args)`, which is traced, not run; the first argument is the weights.

    Args:
        args: trees of arrays or of `jax.ShapeDtypeStruct`.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    weights = len(jax.tree.leaves(args[0]))
    return _jaxpr(jaxpr, [i < weights for i in range(len(jaxpr.invars))])[0]


def _jaxpr(jaxpr: Jaxpr, inputs: Sequence[bool]) -> _Counted:
    """`inputs`: which of the jaxpr's inputs depend on the weights."""
    dependent = set(itertools.compress(jaxpr.invars, inputs))

    def depends(var: Any) -> bool:
        return isinstance(var, Var) and var in dependent  # a literal cannot be hashed

    total = Flops()
    for equation in jaxpr.eqns:
        rule = _RULES.get(equation.primitive.name, _other)
        flops, outputs = rule(equation, [depends(var) for var in equation.invars])
        total += flops
        dependent |= set(filter(_is_real, itertools.compress(equation.outvars, outputs)))
    return total, [depends(var) for var in jaxpr.outvars]


def _is_real(var: Var) -> bool:
    """Whether it can have a gradient: integers, such as those of argmax, have none."""
    return jax.numpy.issubdtype(var.aval.dtype, jax.numpy.inexact)


def _dot(equation: JaxprEqn, inputs: list[bool]) -> _Counted:
    (contracted, _), _ = equation.params["dimension_numbers"]
    depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    return _product(equation.outvars[0].aval.size * depth, inputs)


def _fused_attention(equation: JaxprEqn, inputs: list[bool]) -> _Counted:
    """Two products, q k and weights times v, of [b, n, heads, c] each."""
    q, k = (var.aval for var in equation.invars[:2])
    flops, _ = _product(2 * q.size * k.shape[1], [any(inputs)] * 2)
    return flops, [any(inputs)] * len(equation.outvars)


def _convolution(equation: JaxprEqn, inputs: list[bool]) -> _Counted:
    (image, kernel), params = (var.aval for var in equation.invars), equation.params
    numbers = params["dimension_numbers"]
    channels_in, channels_out = image.shape[numbers.lhs_spec[1]], kernel.shape[numbers.rhs_spec[0]]
    # Each output value sums over a kernel. Under a dilated or widely padded image most of that is
    # zeros, and the number of kernel values that each input value meets is the tighter bound.
    by_output = equation.outvars[0].aval.size * kernel.size // channels_out
    by_input = image.size * kernel.size // (channels_in * params["batch_group_count"])
    return _product(min(by_output, by_input), inputs)


def _product(multiply_adds: int, inputs: list[bool]) -> _Counted:
    forward = 2 * multiply_adds
    return Flops(forward, forward * (1 + sum(inputs))), [any(inputs)]


def _scan(equation: JaxprEqn, inputs: list[bool]) -> _Counted:
    """By shapes, since the names of a scan's parameters differ between versions of JAX: carry and
    constants are in the body as outside, the others lack the scanned axis there.
    """
    body = equation.params["jaxpr"].jaxpr
    carried = sum(map(_same_shape, equation.outvars, body.outvars))
    kept = sum(map(_same_shape, equation.invars, body.invars))
    flops, outputs = _loop(body, inputs, kept - carried, carried)
    return flops * equation.params["length"], outputs


def _same_shape(outside: Any, inside: Any) -> bool:
    return outside.aval.shape == inside.aval.shape


def _while(equation: JaxprEqn, inputs: list[bool]) -> _Counted:
    params = equation.params
    of_body, consts = inputs[params["cond_nconsts"] :], params["body_nconsts"]
    return _loop(params["body_jaxpr"].jaxpr, of_body, consts, len(of_body) - consts)


def _loop(body: Jaxpr, inputs: list[bool], consts: int, carried: int) -> _Counted:
    """One run of a body, when it no longer changes which of its carry depends on the weights."""
    flops, outputs = _jaxpr(body, inputs)
    before, carry, after = inputs[:consts], inputs[consts:][:carried], inputs[consts + carried :]
    new = list(map(operator.or_, carry, outputs))
    if new == carry:
        return flops, [*carry, *outputs[carried:]]
    return _loop(body, [*before, *new, *after], consts, carried)


def _conditional(equation: JaxprEqn, inputs: list[bool]) -> _Counted:
    branches = [_jaxpr(branch.jaxpr, inputs[1:]) for branch in equation.params["branches"]]
    flops = max((flops for flops, _ in branches), key=lambda flops: flops.train)
    return flops, list(map(any, zip(*(outputs for _, outputs in branches), strict=True)))


def _stop_gradient(equation: JaxprEqn, inputs: list[bool]) -> _Counted:
    return Flops(), [False]


def _shard_map(equation: JaxprEqn, inputs: list[bool]) -> _Counted:
    flops, outputs = _other(equation, inputs)
    return flops * equation.params["mesh"].size, outputs  # each device runs the body on its shard


def _other(equation: JaxprEqn, inputs: list[bool]) -> _Counted:
    """A call of a jaxpr on the same inputs (jit, checkpoint, custom_vjp), or something without
    products."""
    for param in equation.params.values():
        inner = param.jaxpr if isinstance(param, ClosedJaxpr) else param
        if isinstance(inner, Jaxpr) and len(inner.invars) == len(inputs):
            return _jaxpr(inner, inputs)
    return Flops(), [any(inputs)] * len(equation.outvars)


_RULES = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "dot_product_attention_fwd_wrapper": _fused_attention,
    "scan": _scan,
    "while": _while,
    "cond": _conditional,
    "stop_gradient": _stop_gradient,
    "shard_map": _shard_map,
}
