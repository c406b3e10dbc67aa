"""Tests of the vision transformer and its options against a transformer in plain numpy, and of the
patch embedding.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from counting import of_module, view_of
from reference import patchify, random_weights, relative_error
from scipy.special import erf, softmax

from eo_jax.models.encoder import make_encoder
from eo_jax.models.functional import EVALUATE, TRAIN, Mode, Network
from eo_jax.models.layers.relative_position_bias import relative_index
from eo_jax.models.layers.transformer_block import Block, draw_drop_path, drop_path_rates
from eo_jax.models.stems import patch_embed
from eo_jax.models.trunks import vit
from eo_jax.sensors import ENMAP

SIDE, DEPTH, SAMPLES, WIDTH = 3, 3, 4, 96
PLAIN = vit.Config(size="nano", depth=DEPTH)
RELATIVE = dataclasses.replace(PLAIN, positions="relative", grid=SIDE)
LEARNED = dataclasses.replace(PLAIN, positions="learned", grid=SIDE)
EVERYTHING = dataclasses.replace(RELATIVE, registers=2, layer_scale=0.1, drop_path=0.5)
KEY = jax.random.key(3)


@functools.cache
def network(config: vit.Config, dtype: str = "float32") -> Network:
    return Network(lambda rngs: config.build(jnp.dtype(dtype), rngs))


@functools.cache
def weights(config: vit.Config):
    """Weights away from their initial values."""
    return random_weights(jax.eval_shape(network(config).init, jax.random.key(0))[0], seed=5)


def tokens(samples: int = SAMPLES) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(samples, SIDE**2, WIDTH)), jnp.float32)


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def run(
    config: vit.Config, params, key: jax.Array | None = None, dtype: str = "float32"
) -> jax.Array:
    return network(config, dtype).apply(
        params, {}, lambda m: m(tokens().astype(dtype), (SIDE, SIDE), Mode(key=key))
    )[0]


@functools.partial(jax.jit, static_argnames=("config", "count"))
def last(config: vit.Config, params, count: int, key: jax.Array | None = None) -> jax.Array:
    return network(config).apply(
        params, {}, lambda m: m.last_layers(tokens(), (SIDE, SIDE), Mode(key=key), count)
    )[0]


def multiply_adds(config: vit.Config, method: str, shape: tuple[int, ...]) -> int:
    """Of a method on tokens of this shape."""
    return of_module(
        network(config),
        lambda module, x: getattr(module, method)(x, (SIDE, SIDE), EVALUATE),
        jax.ShapeDtypeStruct(shape, jnp.float32),
    )


def gradients(config: vit.Config, params, key: jax.Array | None = None):
    target = np.random.default_rng(1).normal(size=(SAMPLES, 1 + SIDE**2, WIDTH)).astype(np.float32)
    return jax.jit(jax.grad(lambda p: jnp.sum(target * run(config, p, key))))(params)


# --- the transformer in numpy, one sample and one block after the other


def layer_norm(weights: dict, x: np.ndarray) -> np.ndarray:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * weights["scale"] + weights["bias"]


def attention(weights: dict, x: np.ndarray, bias: np.ndarray) -> np.ndarray:
    heads, head = weights["qkv"].shape[2:]
    outputs = []
    for i in range(heads):
        q, k, v = (
            x @ weights["qkv"][:, which, i] + weights["qkv_bias"][which, i] for which in range(3)
        )
        outputs.append(softmax(q @ k.T / math.sqrt(head) + bias[i], axis=1) @ v)
    return np.concatenate(outputs, axis=1) @ weights["out"]["kernel"] + weights["out"]["bias"]


def mlp(weights: dict, x: np.ndarray) -> np.ndarray:
    hidden = x @ weights["fc1"]["kernel"] + weights["fc1"]["bias"]
    return (
        hidden * 0.5 * (1 + erf(hidden / math.sqrt(2))) @ weights["fc2"]["kernel"]
        + weights["fc2"]["bias"]
    )


def table_entry(query: tuple[int, int] | None, key: tuple[int, int] | None) -> int:
    """BEiT's rule for one pair of tokens; None for the class token."""
    offsets = 2 * SIDE - 1
    if query is None:
        return offsets**2 + (2 if key is None else 0)
    if key is None:
        return offsets**2 + 1
    return (query[0] - key[0] + SIDE - 1) * offsets + query[1] - key[1] + SIDE - 1


def entries(prefix: int) -> np.ndarray:
    locations = [None] * prefix + [(row, column) for row in range(SIDE) for column in range(SIDE)]
    return np.array([[table_entry(query, key) for key in locations] for query in locations])


def reference_layers(config: vit.Config, params, kept: np.ndarray) -> list[np.ndarray]:
    """Outputs [b, 1 + n, d] of every block in float64, before the final norm; `kept` is
    [l, 2, b].
    """
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    prefix = 1 + config.registers
    learned = np.concatenate(
        [params[name][0] for name in ("cls_token", "registers") if name in params]
    )
    bias = np.zeros((config.heads, prefix + SIDE**2, prefix + SIDE**2))
    if config.positions == "relative":
        bias = params["relative"]["table"][entries(prefix)].transpose(2, 0, 1)
    samples = [np.concatenate([learned, sample]) for sample in np.asarray(tokens(), np.float64)]
    if config.positions == "learned":
        table = params["position_embedding"]["table"][0]
        samples = [x + np.insert(table, [1] * config.registers, 0, axis=0) for x in samples]
    outputs = []
    for layer in range(config.layers):
        block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"]["layers"])
        for i, x in enumerate(samples):
            x = x + kept[layer, 0, i] * block.get("attention_scale", 1.0) * attention(
                block["attention"], layer_norm(block["norm1"], x), bias
            )
            samples[i] = x + kept[layer, 1, i] * block.get("mlp_scale", 1.0) * mlp(
                block["mlp"], layer_norm(block["norm2"], x)
            )
        outputs.append(np.stack([np.delete(x, range(1, prefix), axis=0) for x in samples]))
    return outputs


NOTHING_DROPPED = np.ones((DEPTH, 2, SAMPLES))
OPTIONS = {
    "plain": PLAIN,
    "registers": dataclasses.replace(PLAIN, registers=3),
    "layer scale": dataclasses.replace(PLAIN, layer_scale=0.1),
    "relative": RELATIVE,
    "learned": LEARNED,
    "learned, registers": dataclasses.replace(LEARNED, registers=2),
    "everything": EVERYTHING,
}


@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS)
def test_every_layer_and_the_result_are_those_of_the_numpy_transformer(config):
    params = weights(config)
    layers = reference_layers(config, params, NOTHING_DROPPED)
    assert relative_error(last(config, params, DEPTH), np.stack(layers)) < 1e-5
    assert relative_error(run(config, params), layer_norm(params["norm"], layers[-1])) < 1e-5


def test_options_change_the_result():
    results = [np.asarray(run(config, weights(config))) for config in OPTIONS.values()]
    assert all(result.shape == (SAMPLES, 1 + SIDE**2, WIDTH) for result in results)
    assert all(np.abs(a - b).max() > 0.01 for i, a in enumerate(results) for b in results[:i])


def test_dropped_samples_skip_the_branch_in_every_layer_as_in_numpy():
    params, kept = (
        weights(EVERYTHING),
        np.asarray(draw_drop_path(KEY, drop_path_rates(0.5, DEPTH), SAMPLES)),
    )
    assert 0 < (kept == 0).sum() < kept[1:].size
    layers = reference_layers(EVERYTHING, params, kept)
    assert relative_error(last(EVERYTHING, params, DEPTH, KEY), np.stack(layers)) < 1e-5
    assert (
        relative_error(run(EVERYTHING, params, KEY), layer_norm(params["norm"], layers[-1])) < 1e-5
    )


def test_stacked_blocks_that_drop_are_the_same_blocks_one_after_the_other():
    """Values and gradients."""
    params, block = (
        weights(EVERYTHING),
        Network(lambda rngs: Block(WIDTH, 3, jnp.dtype("float32"), 0.1, rngs=rngs)),
    )
    kept = draw_drop_path(KEY, drop_path_rates(0.5, DEPTH), SAMPLES)

    def unrolled(layers, x, bias):
        for i in range(DEPTH):
            x, _ = block.apply(
                jax.tree.map(lambda leaf, i=i: leaf[i], layers),
                {},
                lambda module, x=x, i=i: module(x, bias, kept[i]),
            )
        return x

    def stacked(layers, x, bias):
        whole = params | {"blocks": {"layers": layers}}
        return network(EVERYTHING).apply(
            whole, {}, lambda module: module.blocks(x, {"kept": kept}, {"bias": bias})
        )[0]

    rng = np.random.default_rng(2)
    x, bias = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((SAMPLES, 5, WIDTH), (1, 3, 5, 5))
    )
    both = [
        jax.jit(jax.value_and_grad(lambda *args, f=f: jnp.sum(jnp.sin(f(*args))), (0, 1, 2)))(
            params["blocks"]["layers"], x, bias
        )
        for f in (stacked, unrolled)
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), *both)


# --- drop path


def test_rates_grow_linearly_and_the_first_block_is_never_skipped():
    assert drop_path_rates(0.25, 6) == pytest.approx((0, 0.05, 0.1, 0.15, 0.2, 0.25))
    assert drop_path_rates(0.3, 1) == (0.0,)


def test_drop_path_skips_its_fraction_of_samples_and_keeps_the_mean():
    rates, samples = (0.0, 0.1, 0.25, 0.5), 20_000
    kept = np.asarray(draw_drop_path(KEY, rates, samples))
    assert kept.shape == (4, 2, samples)
    for of_block, rate in zip(kept, rates, strict=True):
        four_sigma = 4 * math.sqrt(rate * (1 - rate) / samples) + 1e-12
        for of_branch in of_block:
            assert set(np.unique(of_branch)) <= {0.0, np.float32(1 / (1 - np.float32(rate)))}
            assert abs((of_branch == 0).mean() - rate) <= four_sigma
    drawn = (kept[1:] == 0).reshape(6, -1)  # each branch of each block has its own draw
    assert np.abs(np.corrcoef(drawn) - np.eye(6)).max() < 4 / math.sqrt(samples)


def test_without_a_key_or_with_rate_0_nothing_is_dropped():
    dropping = dataclasses.replace(PLAIN, drop_path=0.5)
    expected = run(PLAIN, weights(PLAIN))
    np.testing.assert_array_equal(run(dropping, weights(PLAIN)), expected)
    np.testing.assert_array_equal(run(PLAIN, weights(PLAIN), KEY), expected)
    assert not np.allclose(run(dropping, weights(PLAIN), KEY), expected)


def test_one_key_always_drops_the_same_and_another_drops_others():
    dropping, params = dataclasses.replace(PLAIN, drop_path=0.5), weights(PLAIN)
    np.testing.assert_array_equal(run(dropping, params, KEY), run(dropping, params, KEY))
    assert not np.allclose(run(dropping, params, KEY), run(dropping, params, jax.random.key(4)))


def test_remat_drops_the_same_branches_backward_as_forward():
    remat, params = dataclasses.replace(EVERYTHING, remat="block"), weights(EVERYTHING)
    np.testing.assert_array_equal(run(remat, params, KEY), run(EVERYTHING, params, KEY))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
        gradients(remat, params, KEY),
        gradients(EVERYTHING, params, KEY),
    )


def test_unrolled_blocks_are_the_scanned_ones():
    """Values and gradients."""
    params, unrolled = weights(EVERYTHING), dataclasses.replace(EVERYTHING, loop="unrolled")
    np.testing.assert_allclose(
        run(unrolled, params, KEY), run(EVERYTHING, params, KEY), rtol=1e-5, atol=1e-5
    )
    both = (gradients(config, params, KEY) for config in (unrolled, EVERYTHING))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), *both)
    np.testing.assert_allclose(
        last(unrolled, params, 2, KEY), last(EVERYTHING, params, 2, KEY), rtol=1e-5, atol=1e-5
    )


# --- the class token alone


CLASS_TOKEN = {
    "everything": (EVERYTHING, KEY),
    "one block": (dataclasses.replace(EVERYTHING, depth=1), None),
    "unrolled": (dataclasses.replace(EVERYTHING, loop="unrolled"), KEY),
}


@pytest.mark.parametrize(("config", "key"), CLASS_TOKEN.values(), ids=CLASS_TOKEN)
def test_the_class_token_is_that_of_all_tokens(config, key):
    """Value and gradient."""
    params = weights(config)
    target = np.random.default_rng(1).normal(size=(SAMPLES, WIDTH)).astype(np.float32)

    def alone(params):
        return network(config).apply(
            params, {}, lambda module: module.class_token(tokens(), (SIDE, SIDE), Mode(key=key))
        )[0]

    both = [
        jax.jit(jax.value_and_grad(lambda p, f=f: (jnp.sum(target * (y := f(p))), y), has_aux=True))
        for f in (alone, lambda p: run(config, p, key)[:, 0])
    ]
    (found, moved), (expected, moved_by_all) = (f(params) for f in both)
    assert relative_error(found[1], expected[1]) < 1e-5
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), moved, moved_by_all
    )


def test_the_class_token_saves_the_other_tokens_of_the_last_block():
    """All but their keys and values: queries, attention, output and MLP."""
    every, one = (
        multiply_adds(PLAIN, method, tokens().shape) / SAMPLES
        for method in ("__call__", "class_token")
    )
    assert every - one == 10 * SIDE**2 * WIDTH**2 + 2 * SIDE**2 * (1 + SIDE**2) * WIDTH


# --- what is learned


def names(tree) -> set[str]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_options_add_their_weights_and_no_others():
    added = names(weights(EVERYTHING)) - names(weights(PLAIN))
    assert added == {
        "registers",
        "relative/table",
        "blocks/layers/attention_scale",
        "blocks/layers/mlp_scale",
    }
    params, _ = jax.jit(network(EVERYTHING).init)(jax.random.key(0))
    assert params["registers"].shape == (1, 2, WIDTH)
    assert (
        params["relative"]["table"].shape == ((2 * SIDE - 1) ** 2 + 3, 3)
        and not params["relative"]["table"].any()
    )
    assert (params["blocks"]["layers"]["mlp_scale"] == np.float32(0.1)).all() and params["blocks"][
        "layers"
    ]["mlp_scale"].shape == (DEPTH, WIDTH)


def test_every_weight_is_trained():
    for leaf in jax.tree.leaves(gradients(EVERYTHING, weights(EVERYTHING))):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


# --- relative positions


@pytest.mark.parametrize("prefix", [1, 3])
def test_the_relative_index_is_beits_for_every_pair_of_tokens(prefix):
    np.testing.assert_array_equal(relative_index(SIDE, prefix), entries(prefix))


@pytest.mark.parametrize(
    ("patches", "grid", "message"),
    [(12, (3, 4), r"grid: 3, but a view has 3 x 4"), (5, (3, 3), r"all 9 .* found 5")],
)
@pytest.mark.parametrize("config", [RELATIVE, LEARNED], ids=["relative", "learned"])
def test_positions_of_one_grid_refuse_others_and_missing_tokens(config, patches, grid, message):
    x = jnp.zeros((1, patches, WIDTH))
    with pytest.raises(ValueError, match=message):
        network(config).apply(weights(config), {}, lambda module: module(x, grid, EVALUATE))


def test_learned_positions_start_as_timms():
    params, _ = jax.jit(network(LEARNED).init)(jax.random.key(0))
    table = np.asarray(params["position_embedding"]["table"])
    assert table.shape == (1, 1 + SIDE**2, WIDTH)
    assert scipy.stats.kstest(table.ravel(), scipy.stats.norm(0, 0.02).cdf).pvalue > 1e-3


# --- last layers


@pytest.mark.parametrize("count", range(1, DEPTH))
def test_last_layers_are_the_last_of_all_layers(count):
    params = weights(EVERYTHING)
    np.testing.assert_allclose(
        last(EVERYTHING, params, count, KEY),
        last(EVERYTHING, params, DEPTH, KEY)[-count:],
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("count", [0, DEPTH + 1])
def test_more_layers_than_there_are_is_an_error(count):
    with pytest.raises(ValueError, match=rf"last {count} blocks: expected 1 to {DEPTH}"):
        last(PLAIN, weights(PLAIN), count)


# --- compute type, config


def test_bfloat16_stays_bfloat16_finite_and_near_float32():
    params = weights(EVERYTHING)
    found = run(EVERYTHING, params, KEY, "bfloat16")
    assert found.dtype == jnp.bfloat16
    assert relative_error(found, run(EVERYTHING, params, KEY)) < 0.05


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"drop_path": 1.0}, r"drop_path: 1\.0; expected a probability"),
        ({"registers": -1}, r"registers: -1; expected 0 \(none\) or more"),
        ({"layer_scale": -0.1}, r"layer_scale: -0\.1"),
        (
            {"positions": "rope"},
            r"positions: 'rope'; expected one of sincos, sincos_moco_v3, learned, relative",
        ),
        ({"positions": "relative"}, r"grid: 0 with positions='relative'"),
        ({"positions": "learned"}, r"grid: 0 with positions='learned'"),
        ({"grid": 14}, r"grid: 14 with positions='sincos'"),
    ],
)
def test_impossible_options_name_themselves(fields, message):
    with pytest.raises(ValueError, match=rf"config\.model\.trunk\.{message}"):
        vit.Config(**fields)


def test_a_register_costs_as_much_as_a_patch_token():
    registers = dataclasses.replace(PLAIN, registers=4)
    found = multiply_adds(registers, "__call__", (1, 60, WIDTH))
    assert found == multiply_adds(PLAIN, "__call__", (1, 64, WIDTH))


# --- patch embedding


@pytest.mark.parametrize("patch", [4, 14])
def test_the_patch_embedding_is_one_matrix_on_the_values_of_a_patch(patch):
    narrow = dataclasses.replace(ENMAP, id="narrow", bands=ENMAP.bands[:5])
    encoder = make_encoder(patch_embed.Config(patch), PLAIN, narrow, jnp.dtype("float32"))
    params, statistics = jax.jit(encoder.network.init)(jax.random.key(0))
    kernel = np.asarray(params["stem"]["embed"]["kernel"])
    assert np.abs(kernel).max() == pytest.approx(
        math.sqrt(6 / (patch**2 * 5 + WIDTH)), rel=0.01
    )  # Xavier on the flat weight, as in MAE
    view = np.random.default_rng(0).normal(size=(2, 2 * patch, 3 * patch, 5)).astype(np.float32)
    valid = np.random.default_rng(1).random((2, 2 * patch, 3 * patch, 1)) < 0.9
    found, _ = encoder.network.apply(
        params,
        statistics,
        lambda module: module.embed(jnp.asarray(view), jnp.asarray(valid), None, TRAIN),
    )
    expected = [
        patchify(np.where(mask, image, 0), patch) @ kernel
        for image, mask in zip(view, valid, strict=True)
    ]
    assert relative_error(found, np.stack(expected)) < 1e-5
    embedding = of_module(
        encoder.network,
        lambda module, *args: module.embed(*args, None, TRAIN),
        *view_of(encoder, 2 * patch),
    )
    assert embedding == 4 * kernel.size


def test_a_patch_without_pixels_is_refused():
    with pytest.raises(
        ValueError, match=r"config\.model\.stems\.\*\.patch: 0; expected at least 1"
    ):
        patch_embed.Config(0)
