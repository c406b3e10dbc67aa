"""Tests of deformable attention against loops in float64 and PyTorch's sampling, of its gradients,
and of ResNets with it.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import of_module
from reference import random_weights, relative_error
from scipy.special import erf

from eo_jax import rules
from eo_jax.exchange.layouts import LAYOUTS, layout_name
from eo_jax.models.encoder import make_encoder
from eo_jax.models.functional import TRAIN, Network
from eo_jax.models.layers.attention_points import Centred
from eo_jax.models.layers.bilinear import sample_bilinear
from eo_jax.models.layers.conv import DepthwiseConv
from eo_jax.models.layers.deformable_attention import AttentionShape, DeformableAttention
from eo_jax.models.stems import conv, spectral_adapter_image
from eo_jax.models.trunks import resnet
from eo_jax.models.trunks.resnet import BlockShape, Convolution, ResNet
from eo_jax.sensors import ENMAP, get_sensor

S2 = get_sensor("sentinel2_l1c")
STRIDED = AttentionShape(8, 4, 2, 5, 2)
EVERY_CELL = AttentionShape(8, 4, 2, 3, 1, Centred(3.0))
SHAPES = {"strided": STRIDED, "every cell": EVERY_CELL}


def network(shape: AttentionShape, dtype: str = "float32") -> Network:
    return Network(lambda rngs: DeformableAttention(shape, jnp.dtype(dtype), rngs=rngs))


def weights_of(shape: AttentionShape) -> dict:
    return random_weights(jax.eval_shape(network(shape).init, jax.random.key(0))[0], 1)


@functools.partial(jax.jit, static_argnames=("shape", "dtype"))
def attend(shape: AttentionShape, params: dict, x: np.ndarray, dtype: str = "float32") -> jax.Array:
    return network(shape, dtype).apply(params, {}, lambda module: module(x.astype(dtype)))[0]


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- the same in loops


def linear(x: np.ndarray, weights: dict) -> np.ndarray:
    return x @ weights["kernel"].astype(np.float64) + weights.get("bias", 0)


def between(image: np.ndarray, row: float, column: float) -> np.ndarray:
    """The image [h, w, c] between its cells, 0 outside."""
    total = np.zeros(image.shape[-1])
    top, left = math.floor(row), math.floor(column)
    for i, j in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= i < image.shape[0] and 0 <= j < image.shape[1]:
            total += (1 - abs(row - i)) * (1 - abs(column - j)) * image[i, j]
    return total


def offset(q: np.ndarray, i: int, j: int, shape: AttentionShape, weights: dict) -> np.ndarray:
    """(rows, columns) before they are bounded, of the point at (i, j), from a group's queries [h,
    w, c].
    """
    total, half = weights["depthwise"]["bias"].astype(np.float64), shape.kernel // 2
    for a, b in np.ndindex(shape.kernel, shape.kernel):
        row, column = i * shape.stride + a - half, j * shape.stride + b - half
        if 0 <= row < q.shape[0] and 0 <= column < q.shape[1]:
            total = total + weights["depthwise"]["kernel"][a, b] * q[row, column]
    normed = (total - total.mean()) / np.sqrt(total.var() + 1e-5) * weights["norm"][
        "scale"
    ] + weights["norm"]["bias"]
    return linear(normed * 0.5 * (1 + erf(normed / math.sqrt(2))), weights["move"])


def in_loops(shape: AttentionShape, weights: dict, x: np.ndarray) -> np.ndarray:
    out, width = np.zeros(x.shape), shape.channels // shape.groups
    for sample, image in enumerate(x.astype(np.float64)):
        height, columns, _ = image.shape
        rows_of, columns_of = math.ceil(height / shape.stride), math.ceil(columns / shape.stride)
        q = linear(image, weights["q"])
        sampled = np.zeros((rows_of * columns_of, shape.channels))
        for group in range(shape.groups):
            own = slice(group * width, (group + 1) * width)
            for p, (i, j) in enumerate(np.ndindex(rows_of, columns_of)):
                down, right = (
                    np.tanh(offset(q[..., own], i, j, shape, weights["offsets"]))
                    * shape.points.offset_range
                )
                # From a side of length 2 to `height` cells.
                row = (i + 0.5) * height / rows_of - 0.5 + down / rows_of * height / 2
                column = (j + 0.5) * columns / columns_of - 0.5 + right / columns_of * columns / 2
                sampled[p, own] = between(image[..., own], row, column)
        out[sample] = attention(
            q, linear(sampled, weights["k"]), linear(sampled, weights["v"]), shape.heads
        )
    return linear(out, weights["out"])


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
    """[h, w, c] from queries [h, w, c] and points [p, c], head by head."""
    out, width = np.zeros(q.shape), q.shape[-1] // heads
    for i, j, head in np.ndindex(*q.shape[:2], heads):
        own = slice(head * width, (head + 1) * width)
        shares = np.exp(k[:, own] @ q[i, j, own] / math.sqrt(width))
        out[i, j, own] = shares @ v[:, own] / shares.sum()
    return out


@pytest.mark.parametrize("size", [(6, 5), (4, 4), (1, 3)], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_is_the_papers_attention(shape, size):
    x, params = images(2, *size, 8), weights_of(shape)
    assert relative_error(attend(shape, params, x), in_loops(shape, params, x)) < 1e-5


# --- where it looks


def test_sampling_and_its_gradients_are_pytorchs_grid_sample():
    torch = pytest.importorskip("torch")
    image, grid = (
        images(3, 6, 5, 4),
        np.random.default_rng(1).uniform(-1.6, 1.6, (3, 40, 2)).astype(np.float32),
    )
    of = images(3, 40, 4, seed=2)

    def points(grid):
        return (grid + 1) / 2 * (np.array([6, 5], np.float32) - 1)

    found, pullback = jax.vjp(lambda image, grid: sample_bilinear(image, points(grid)), image, grid)
    ours, theirs = (
        pullback(of),
        [torch.from_numpy(array).requires_grad_() for array in (image, grid)],
    )
    sampled = torch.nn.functional.grid_sample(
        theirs[0].permute(0, 3, 1, 2),
        theirs[1].flip(-1)[:, None],
        mode="bilinear",
        padding_mode="zeros",
        align_corners=True,
    )
    sampled[:, :, 0].permute(0, 2, 1).backward(torch.from_numpy(of))
    assert relative_error(found, sampled[:, :, 0].permute(0, 2, 1).detach().numpy()) < 1e-5
    assert (
        max(
            relative_error(mine, array.grad.numpy())
            for mine, array in zip(ours, theirs, strict=True)
        )
        < 1e-5
    )


def test_a_point_moves_at_most_as_far_as_the_next():
    still, far = jnp.zeros((1, 3, 4, 2)), jnp.full((1, 3, 4, 2), 50.0)
    at_rest, moved = (
        np.asarray(Centred(2.0).place(moves, (6, 4))).reshape(3, 4, 2) for moves in (still, far)
    )
    assert at_rest[:, 0, 0].tolist() == [0.5, 2.5, 4.5] and at_rest[0, :, 1].tolist() == [
        0,
        1,
        2,
        3,
    ]
    np.testing.assert_array_equal(moved[:-1, :-1], at_rest[1:, 1:])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_without_offsets_it_is_plain_attention_over_the_means_of_its_cells(shape):
    x, params = images(2, 6, 4, 8), weights_of(shape)
    params["offsets"]["move"]["kernel"][:] = 0
    means = (
        x.reshape(2, 6 // shape.stride, shape.stride, 4 // shape.stride, shape.stride, 8)
        .mean((2, 4))
        .reshape(2, -1, 8)
    )
    q, k, v = (linear(of, params[name]) for of, name in ((x, "q"), (means, "k"), (means, "v")))
    expected = linear(
        np.stack([attention(q[i], k[i], v[i], shape.heads) for i in range(2)]), params["out"]
    )
    assert relative_error(attend(shape, params, x), expected) < 1e-5


def test_strided_depthwise_convolutions_are_pytorchs():
    torch = pytest.importorskip("torch")
    depthwise = Network(lambda rngs: DepthwiseConv(4, jnp.dtype("float32"), 5, 2, rngs=rngs))
    params, x = (
        random_weights(jax.eval_shape(depthwise.init, jax.random.key(0))[0], 0),
        images(2, 7, 6, 4),
    )
    found, _ = depthwise.apply(params, {}, lambda module: module(jnp.asarray(x)))
    kernel, bias = (
        torch.from_numpy(params["kernel"]).permute(2, 0, 1)[:, None],
        torch.from_numpy(params["bias"]),
    )
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(x).permute(0, 3, 1, 2), kernel, bias, stride=2, padding=2, groups=4
    )
    assert relative_error(found, expected.permute(0, 2, 3, 1).numpy()) < 1e-5


# --- training


def test_every_fresh_weight_has_a_gradient():
    """Except the bias of the keys, which adds a constant to all logits of a query; softmax cancels
    it.
    """
    params, _ = jax.jit(network(STRIDED).init)(jax.random.key(0))
    target = images(2, 6, 6, 8, seed=1)
    gradients = jax.jit(
        jax.grad(
            lambda params: jnp.square(attend(STRIDED, params, images(2, 6, 6, 8)) - target).sum()
        )
    )(params)
    largest = {path: float(jnp.abs(leaf).max()) for path, leaf in rules.paths(gradients)}
    assert np.isfinite(list(largest.values())).all()
    assert {path for path, size in largest.items() if size < 1e-4} == {"k/bias"}
    assert len(largest) == 8 + 5


def test_it_computes_in_its_type_and_places_its_points_in_float32():
    x, params = images(2, 6, 6, 8), weights_of(STRIDED)
    found = attend(STRIDED, params, x, "bfloat16")
    assert found.dtype == jnp.bfloat16
    assert relative_error(found.astype(jnp.float32), attend(STRIDED, params, x)) < 0.1
    points = Centred(2.0).place(jnp.full((1, 1, 1, 2), 0.001, jnp.bfloat16), (256, 256))
    assert points.dtype == jnp.float32
    ramp = (
        jnp.arange(256, dtype=jnp.bfloat16)[None, :, None, None] - 128
    )  # bfloat16 holds it, and no 127.6
    assert sample_bilinear(
        jnp.broadcast_to(ramp, (1, 256, 256, 1)), points
    ).item() == pytest.approx(float(points[0, 0, 0]) - 128, rel=0.01)


# --- in a ResNet

TINY = [
    [BlockShape(13, (Convolution(3, 1, 8), Convolution(3, 1, 8)))],
    [BlockShape(8, (Convolution(3, 2, 12), Convolution(3, 1, 12)))],
]
ATTENTIONS = {1: AttentionShape(8, 4, 2, 3, 2), 2: AttentionShape(12, 3, 1, 3, 1)}


@functools.cache
def tiny(attention: str) -> Network:
    attentions = ATTENTIONS if attention == "deformable" else {}
    return Network(lambda rngs: ResNet(TINY, "none", jnp.dtype("float32"), attentions, rngs=rngs))


@functools.cache
def one_stage(remat: str) -> Network:
    return Network(
        lambda rngs: ResNet(TINY[:1], remat, jnp.dtype("float32"), {1: ATTENTIONS[1]}, rngs=rngs)
    )


@functools.partial(jax.jit, static_argnames="network")
def run(network: Network, params: dict, statistics: dict, x: np.ndarray) -> jax.Array:
    return network.apply(
        params, statistics, lambda module: module(x, jnp.ones(x.shape[:3], bool), TRAIN)
    )[0]


@pytest.mark.parametrize("size", [(8, 8), (7, 10)], ids=str)
def test_a_resnet_adds_attention_to_its_stages_for_views_of_any_size(size):
    x = images(2, *size, 13)
    params, statistics = jax.jit(tiny("deformable").init)(jax.random.key(0))
    found = run(tiny("deformable"), params, statistics, x)
    silent = {
        name: part | {"out": jax.tree.map(jnp.zeros_like, part["out"])}
        if "attention" in name
        else part
        for name, part in params.items()
    }
    plain = {name: part for name, part in params.items() if "attention" not in name}
    without = run(tiny("none"), plain, statistics, x)
    np.testing.assert_array_equal(run(tiny("deformable"), silent, statistics, x), without)
    assert relative_error(found, without) > 0.01


def test_a_resnet_without_attention_has_the_same_weights_less_its():
    params, plain = (
        jax.jit(tiny(attention).init)(jax.random.key(3))[0] for attention in ("deformable", "none")
    )
    assert params.keys() - plain.keys() == {"attention1", "attention2"}
    jax.tree.map(np.testing.assert_array_equal, plain, {name: params[name] for name in plain})
    assert resnet.Config().attentions() == {}


def test_recomputing_it_changes_no_gradient():
    x = images(2, 6, 6, 13)
    params, statistics = jax.jit(one_stage("none").init)(jax.random.key(0))

    def loss(params, remat):
        return jnp.square(run(one_stage(remat), params, statistics, x)).mean()

    plain, recomputed = (
        jax.jit(jax.grad(functools.partial(loss, remat=remat))).trace(params)
        for remat in ("none", "block")
    )
    assert str(recomputed.jaxpr).count("remat") >= 2 and "remat" not in str(
        plain.jaxpr
    )  # the block, and the attention
    found, expected = (traced.lower().compile()(params) for traced in (recomputed, plain))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, expected
    )


# stage: (channels, heads, groups, kernel, stride)
PUBLISHED = {
    50: {3: (1024, 8, 4, 5, 2), 4: (2048, 16, 8, 3, 1)},
    18: {3: (256, 2, 1, 5, 2), 4: (512, 4, 2, 3, 1)},
}


@pytest.mark.parametrize("depth", PUBLISHED)
def test_heads_have_128_channels_and_groups_two_of_them(depth):
    found = resnet.Config(depth=depth, attention="deformable").attentions()
    assert found == {stage: AttentionShape(*numbers) for stage, numbers in PUBLISHED[depth].items()}


@pytest.mark.parametrize(
    ("depth", "stem", "sensor"),
    [(18, conv, S2), pytest.param(50, spectral_adapter_image, ENMAP, marks=pytest.mark.slow)],
)
def test_encoders_of_every_kind_of_resnet_take_it(depth, stem, sensor):
    trunk = resnet.Config(depth, "strided" if depth == 50 else "plain", "deformable")
    encoder = make_encoder(stem.Config(), trunk, sensor, jnp.dtype("bfloat16"))
    params, statistics = jax.eval_shape(encoder.network.init, jax.random.key(0))
    for size in (64, 96):
        view = jax.ShapeDtypeStruct((2, size, size, len(sensor.bands)), jnp.float32)
        valid = jax.ShapeDtypeStruct((2, size, size, 1), bool)
        found, _ = jax.eval_shape(
            functools.partial(encoder.forward, mode=TRAIN), params, statistics, view, valid
        )
        assert (
            found["dense"].shape == (2, size // encoder.patch, size // encoder.patch, encoder.width)
            and found["dense"].dtype == jnp.bfloat16
        )


@pytest.mark.parametrize(
    ("channels", "size", "kernel", "stride"), [(1024, 14, 5, 2), (2048, 7, 3, 1)]
)
def test_its_products_are_nearly_all_that_xla_counts(channels, size, kernel, stride):
    shape = AttentionShape(channels, channels // 128, channels // 256, kernel, stride)
    x = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    params = jax.eval_shape(network(shape).init, jax.random.key(0))[0]
    lowered = jax.jit(
        lambda params, x: network(shape).apply(params, {}, lambda module: module(x))[0]
    ).lower(params, x)
    found = of_module(network(shape), lambda module, x: module(x), x)
    assert 0.95 < found / (lowered.cost_analysis()["flops"] / 2) < 1


# --- what is refused


@pytest.mark.parametrize(
    ("numbers", "named"),
    [
        ((8, 3, 1, 3, 1), "heads: 3; expected a divisor of 8"),
        ((8, 4, 3, 3, 1), "groups: 3; expected a divisor of 4"),
        ((8, 4, 0, 3, 1), "groups: 0"),
        ((8, 4, 2, 4, 1), "kernel: 4; expected an odd number"),
    ],
)
def test_an_impossible_shape_is_refused_by_name(numbers, named):
    with pytest.raises(ValueError, match=named):
        AttentionShape(*numbers)


def test_an_unknown_attention_is_refused_by_name():
    with pytest.raises(
        ValueError,
        match=r"config\.model\.trunk\.attention: 'rda'; expected one of none, deformable, dat",
    ):
        resnet.Config(attention="rda")


@pytest.mark.parametrize(
    ("stem", "first", "sensor"), [(conv, "plain", S2), (spectral_adapter_image, "strided", ENMAP)]
)
def test_layouts_without_a_place_for_it_refuse_it(stem, first, sensor):
    fitting, attended = (
        make_encoder(
            stem.Config(), resnet.Config(50, first, attention), sensor, jnp.dtype("float32")
        )
        for attention in ("none", "deformable")
    )
    assert LAYOUTS[layout_name(fitting)].trunk == "resnet"
    with pytest.raises(
        ValueError,
        match=r"no PyTorch layout .*'attention': 'deformable'.*trunk resnet, "
        r"attention='none'",
    ):
        layout_name(attended)
