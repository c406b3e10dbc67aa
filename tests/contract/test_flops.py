"""The FLOP counter against hand counts, XLA's count of small functions, the products of actual
gradients, and the formulas that stood in its place.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json

import golden_text
import jax
import jax.numpy as jnp
import pytest
from counting import depthwise_of_mit, multiply_adds, of_module, view_of
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from eo_jax.augment import masking
from eo_jax.data.mixture import ComponentConfig
from eo_jax.experiment import Experiment
from eo_jax.models.encoder import Encoder, make_encoder
from eo_jax.models.functional import EVALUATE
from eo_jax.models.layers.conv import strided_size
from eo_jax.models.trunks import mit, resnet
from eo_jax.monitor.flops import count


def zeros(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def convolution(image, kernel, strides=(1, 1), padding="VALID", **options):
    return jax.lax.conv_general_dilated(
        image, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


# --- forward


IMAGE, KERNEL = zeros(2, 9, 8, 6), zeros(3, 3, 6, 4)
PRODUCTS = {
    "matrix": (lambda a, b: a @ b, (zeros(3, 5), zeros(5, 7)), 3 * 5 * 7),
    "batched": (
        lambda a, b: jnp.einsum("bhqc,bhkc->bhqk", a, b),
        (zeros(2, 3, 4, 5), zeros(2, 3, 6, 5)),
        2 * 3 * 4 * 6 * 5,
    ),
    "two contracted axes": (
        lambda a, b: jnp.einsum("abc,bcd->ad", a, b),
        (zeros(2, 3, 4), zeros(3, 4, 5)),
        2 * 3 * 4 * 5,
    ),
    "outer": (jnp.outer, (zeros(3), zeros(4)), 0),  # an elementwise product
    "convolution": (convolution, (IMAGE, KERNEL), 2 * 7 * 6 * 4 * 9 * 6),
    "strides": (
        functools.partial(convolution, strides=(2, 3)),
        (IMAGE, KERNEL),
        2 * 4 * 2 * 4 * 9 * 6,
    ),
    "dilated kernel": (
        functools.partial(convolution, rhs_dilation=(3, 2)),
        (IMAGE, KERNEL),
        2 * 3 * 4 * 4 * 9 * 6,
    ),
    "groups": (
        functools.partial(convolution, feature_group_count=3),
        (IMAGE, zeros(3, 3, 2, 12)),
        2 * 7 * 6 * 12 * 9 * 2,
    ),
}


@pytest.mark.parametrize(("function", "args", "expected"), PRODUCTS.values(), ids=PRODUCTS)
def test_products_cost_two_flop_per_multiply_add(function, args, expected):
    assert count(function, *args).forward == 2 * expected
    if expected:
        assert jax.jit(function).lower(*args).cost_analysis()["flops"] == 2 * expected


def test_padding_counts_and_zeros_between_the_pixels_of_an_image_do_not():
    same = functools.partial(convolution, padding="SAME")
    assert count(same, IMAGE, KERNEL).forward == 2 * 2 * 9 * 8 * 4 * 9 * 6
    transposed = functools.partial(convolution, lhs_dilation=(2, 2), padding=((2, 3), (2, 3)))
    assert count(transposed, IMAGE, KERNEL).forward == 2 * 2 * 9 * 8 * 6 * 9 * 4


SQUARE, ONE = zeros(4, 4), 2 * 4**3  # and the FLOP of a product of two
CALLS = {
    "jit": (jax.jit(jnp.matmul), 1),
    "checkpoint": (jax.checkpoint(jnp.matmul), 1),
    "custom_vjp": (jax.custom_vjp(jnp.matmul), 1),
    "custom_jvp": (jax.custom_jvp(jnp.matmul), 1),
    "vmap": (lambda a, b: jax.vmap(lambda row: row @ b)(a), 1),
    "scan": (lambda a, b: jax.lax.scan(lambda x, _: (x @ b, x @ x), a, None, length=5), 10),
    "scan in a scan": (
        lambda a, b: jax.lax.scan(
            lambda x, _: (jax.lax.scan(lambda y, _: (y @ b, None), x, None, 3)[0], None), a, None, 5
        ),
        15,
    ),
    "cond": (lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b @ b, lambda: a @ b), 2),
    "while": (lambda a, b: jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ b, a), 1),
}


@pytest.mark.parametrize(("function", "products"), CALLS.values(), ids=CALLS)
def test_products_inside_calls_and_loops_count(function, products):
    if hasattr(function, "defvjp"):
        function.defvjp(lambda a, b: (a @ b, b), lambda b, g: (g @ b.T, g))
    if hasattr(function, "defjvp"):
        function.defjvps(lambda t, out, a, b: t @ b, lambda t, out, a, b: a @ t)
    assert count(function, SQUARE, SQUARE).forward == products * ONE


def test_every_shard_counts():
    mesh = AbstractMesh((2,), ("data",), axis_types=(AxisType.Auto,))
    rows, everywhere = PartitionSpec("data"), PartitionSpec()
    sharded = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(rows, everywhere), out_specs=rows)
    assert count(sharded, SQUARE, SQUARE).forward == ONE


# --- training


def test_a_product_is_transposed_once_for_each_operand_that_depends_on_the_weights():
    def train(function) -> float:
        return count(function, SQUARE, SQUARE).train / ONE

    stop = jax.lax.stop_gradient
    assert train(lambda w, x: x @ x) == 1
    assert train(lambda w, x: x @ w) == 2
    assert train(lambda w, x: jnp.sin(w) @ (x + w)) == 3
    assert train(lambda w, x: stop(w) @ w) == 2
    assert train(lambda w, x: stop(w) @ x) == 1
    assert train(lambda w, x: jax.nn.one_hot(w[0].argmax(), 4)[None] @ w) == 2 / 4


def test_dependence_on_the_weights_passes_through_loops_and_branches():
    def train(function) -> float:
        return count(function, SQUARE, SQUARE).train / ONE

    def late(w, x):
        """The first of the carry depends on the weights from the third iteration on."""
        return jax.lax.scan(lambda c, _: ((c[1], c[2], c[2] + w), c[0] @ x), (x, x, x), None, 4)

    assert train(late) == 4 * 2
    assert train(lambda w, x: jax.lax.scan(lambda c, _: (c @ x, None), x, None, 4)) == 4
    assert train(lambda w, x: jax.lax.scan(lambda c, row: (c, row @ x), x, w)) == 2
    assert train(lambda w, x: jax.lax.cond(x[0, 0] > 0, lambda: w, lambda: x) @ x) == 2
    assert (
        train(lambda w, x: jax.lax.while_loop(lambda c: c[0, 0] > 0, lambda c: c + w, x) @ x) == 2
    )


def attention(x):
    return jax.nn.softmax(x @ x.T) @ x


def scanned(weights, x):
    return jax.lax.scan(lambda x, w: (attention(x @ w), None), x, weights)[0]


def image_network(weights, x):
    x = jax.nn.relu(convolution(x, weights["first"], (2, 2)))
    x = jax.nn.relu(convolution(x, weights["second"], rhs_dilation=(2, 2)))
    return convolution(x, weights["grouped"], feature_group_count=2).mean((1, 2))


def student_and_teacher(weights, views):
    """The teacher's weights are not among those that are trained."""
    teacher, x = views
    target = jax.nn.relu(x @ teacher) @ teacher
    return jax.nn.relu(x @ weights) @ weights - target, weights @ jax.lax.stop_gradient(weights)


NETWORKS = {
    "scan": (scanned, zeros(3, 4, 4), zeros(5, 4)),
    "convolutions": (
        image_network,
        {
            "first": zeros(3, 3, 6, 4),
            "second": zeros(2, 2, 4, 8),
            "grouped": zeros(1, 1, 4, 2),
        },
        zeros(2, 11, 13, 6),
    ),
    "teacher": (student_and_teacher, zeros(4, 4), (zeros(4, 4), zeros(6, 4))),
}


@pytest.mark.parametrize(("network", "weights", "x"), NETWORKS.values(), ids=NETWORKS)
def test_training_costs_the_products_of_loss_and_gradient(network, weights, x):
    def loss(weights, x):
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(network(weights, x)))

    found, gradient = count(loss, weights, x), count(jax.value_and_grad(loss), weights, x)
    assert found.train == gradient.forward > 2 * found.forward - found.train > -found.train


def test_recomputation_is_not_counted():
    def loss(weights, x, run):
        return run(scanned)(weights, x).sum()

    args = (zeros(3, 4, 4), zeros(5, 4))
    plain, again = (functools.partial(loss, run=run) for run in (lambda f: f, jax.checkpoint))
    assert count(again, *args) == count(plain, *args)
    assert count(jax.grad(again), *args).forward > count(jax.grad(plain), *args).forward


# --- the formulas that stems, trunks and objectives used to have


RECORDED = json.loads((golden_text.FOLDER / "multiply_adds.json").read_text())


QUICK = {f"{name}:smoke" for name in golden_text.FAMILIES}


@pytest.mark.parametrize(
    "target",
    [
        target if target in QUICK else pytest.param(target, marks=pytest.mark.slow)
        for target in RECORDED
    ],
)
def test_listed_configs_cost_the_multiply_adds_of_the_formulas(target):
    name, _, variant = target.partition(":")
    config = golden_text.load(name)["get_config"](variant)
    experiment, recorded = golden_text.experiment_of(name, variant), RECORDED[target]
    found = {view: counted_parts(experiment, config, view) for view in experiment.views}
    assert found == recorded["views"]
    assert sample(experiment, found) == recorded["sample"]


def counted_parts(experiment: Experiment, config, view: str) -> dict[str, int]:
    """The multiply-adds of the encoder on a view: all features, pooled features only, for MAE
    visible tokens only, and those with the decoder.
    """
    encoder, (_, size) = experiment.encoders[view.partition("/")[0]], experiment.views[view]
    trunk = encoder.trunk
    if encoder.kind == "tokens":  # the formulas are of the class token
        trunk = dataclasses.replace(trunk, pool="cls")
    parts = {
        part: counted(encoder.stem, trunk, encoder.sensor, size, part) + formula_only(encoder, size)
        for part in ("forward", "pooled")
    }
    if experiment.objective_name != "mae":
        return parts
    visible = masking.visible_count((size // encoder.patch) ** 2, config.objective.mask_ratio)
    parts["visible"] = of_module(
        encoder.network,
        lambda module, *args: module.tokens(*args, EVALUATE),
        *view_of(encoder, size),
        jax.ShapeDtypeStruct((1, visible), jnp.int32),
    )
    views = {
        name: jax.ShapeDtypeStruct((1, *x.shape), x.dtype)
        for name, x in zip((view, f"{view}/valid"), view_of(encoder, size), strict=True)
    }
    weights = jax.eval_shape(experiment.objective.init, jax.random.key(0))
    flops = count(experiment.objective.preview, *weights, views, jax.random.key(0))
    return parts | {"reconstruct": flops.forward // 2}


@functools.cache
def counted(stem, trunk, sensor, size: int, part: str) -> int:
    return multiply_adds(make_encoder(stem, trunk, sensor, jnp.dtype("float32")), size, part)


def formula_only(encoder: Encoder, size: int) -> int:
    """Multiply-adds that the formulas had and the counter has not: depthwise convolutions are
    written as shifted products, and points are sampled by a product with all cells, of which the
    formula had the four around a point.
    """
    if isinstance(encoder.trunk, mit.Config):
        return depthwise_of_mit(encoder.trunk.size, size)
    if not isinstance(encoder.trunk, resnet.Config):
        return 0
    total = 0
    for stage, shape in encoder.trunk.attentions().items():
        side = strided_size(size, encoder.stem.patch * 2 ** (stage - 1))
        points = strided_size(side, shape.stride) ** 2
        total += points * shape.channels * (shape.kernel**2 + 4 - side**2)
    return total


def sample(experiment: Experiment, parts: dict[str, dict[str, int]]) -> float:
    """The forward passes of one sample that have a gradient, heads left out: the mean over the
    mixture components by weight.
    """
    part = {"mae": "reconstruct", "data2vec": "forward", "supervised": "forward"}.get(
        experiment.objective_name, "pooled"
    )
    of_source: dict[str, int] = collections.Counter()
    for view, (number, _) in experiment.views.items():
        of_source[view.partition("/")[0]] += number * parts[view][part]
    mixture = experiment.data.mixture.values() or [ComponentConfig(tuple(of_source))]
    weights = sum(component.weight for component in mixture)
    return sum(
        component.weight / weights * sum(of_source[source] for source in component.sources)
        for component in mixture
    )
