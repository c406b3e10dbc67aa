"""Tests of `eo_jax.objectives.mae`, masking and positions against loops over the paper's formulas
(He et al. 2022; SpectralEarth's recipe).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scipy.stats
from reference import random_weights, relative_error

from eo_jax.augment.masking import random_split, visible_count
from eo_jax.models.encoder import make_encoder, patchify, unpatchify
from eo_jax.models.functional import EVALUATE
from eo_jax.models.layers.position_embedding import FIXED, sincos_2d
from eo_jax.models.stems import spectral_adapter
from eo_jax.models.trunks import vit
from eo_jax.objectives import mae
from eo_jax.sensors import ENMAP

BANDS, SIZE, PATCH, ROWS = 75, 16, 4, 4  # the fewest bands that the adapter takes
TOKENS, VALUES = ROWS * ROWS, PATCH * PATCH * BANDS
SENSOR = dataclasses.replace(
    ENMAP, id="short", bands=ENMAP.bands[:BANDS], mean=ENMAP.mean[:BANDS], std=ENMAP.std[:BANDS]
)
ENCODER = make_encoder(
    spectral_adapter.Config(patch=PATCH),
    vit.Config(size="tiny", depth=1),
    SENSOR,
    jnp.dtype("float32"),
)
KEY, PROGRESS = jax.random.key(7), jnp.float32(0.5)


@dataclasses.dataclass(frozen=True)
class Setup:
    objective: mae.MAE
    params: dict
    carry: dict
    loss_and_gradients: Callable
    preview: Callable


@functools.cache
def setup(norm_pix: bool) -> Setup:
    config = mae.Config(
        mask_ratio=0.75, norm_pix_loss=norm_pix, decoder_width=32, decoder_depth=1, decoder_heads=4
    )
    objective = config.build({"short": ENCODER})
    params, carry = (
        random_weights(shapes, seed=3) for shapes in jax.eval_shape(objective.init, KEY)
    )
    loss_and_gradients = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    return Setup(objective, params, carry, loss_and_gradients, jax.jit(objective.preview))


def masked_tokens(view: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """bool [b, n]: evaluation draws the same mask from the same key, with or without norm_pix."""
    mae_setup = setup(False)
    pixels = np.asarray(
        mae_setup.preview(mae_setup.params, mae_setup.carry, as_views(view, valid), KEY)["masked"]
    )
    return tokens_of(pixels[..., None]).all(axis=-1)


def as_views(view: np.ndarray, valid: np.ndarray) -> dict:
    return {
        "short/global": jnp.asarray(view)[:, None],
        "short/global/valid": jnp.asarray(valid)[:, None],
    }


def predicting(params: dict, pixels: np.ndarray) -> dict:
    """The same weights, but for a last layer that predicts `pixels` [p] for every token whatever it
    sees.
    """
    predict = {
        "kernel": np.zeros_like(params["decoder"]["predict"]["kernel"]),
        "bias": pixels.astype(np.float32),
    }
    return {**params, "decoder": {**params["decoder"], "predict": predict}}


# --- inputs that have broken such code before


def random_image():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, SIZE, SIZE, BANDS)), rng.random((2, SIZE, SIZE, BANDS)) < 0.8


def constant_patches():
    return np.full((2, SIZE, SIZE, BANDS), 0.37), np.ones((2, SIZE, SIZE, BANDS), bool)


def one_value_a_token():
    view, _ = random_image()
    valid = np.zeros((2, SIZE, SIZE, BANDS), bool)
    valid[:, 1::PATCH, 2::PATCH, 5] = True
    return view, valid


def tokens_without_data():
    view, valid = random_image()
    valid[0, :PATCH] = False
    valid[1, :, PATCH : 3 * PATCH] = False
    return view, valid


def no_data_at_all():
    view, valid = random_image()
    return view, np.zeros_like(valid)


def large_values():
    view, valid = random_image()
    return 1e4 * view, valid


def faint_values():
    """Variance as small as the epsilon of norm_pix."""
    view, valid = random_image()
    return 1e-3 * view, valid


def offset_values():
    view, valid = random_image()
    return view + 30, valid


def identical_images():
    view, valid = random_image()
    return np.stack([view[0]] * 2), np.stack([valid[0]] * 2)


INPUTS = (
    random_image,
    constant_patches,
    one_value_a_token,
    tokens_without_data,
    no_data_at_all,
    large_values,
    faint_values,
    offset_values,
    identical_images,
)


def make(inputs) -> tuple[np.ndarray, np.ndarray]:
    """A view and its validity; no-data is 0, as views have it."""
    view, valid = inputs()
    return np.where(valid, view, 0).astype(np.float32), valid


def tokens_of(images: np.ndarray) -> np.ndarray:
    return np.stack([reference.patchify(image, PATCH) for image in images])


# --- the loss


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("inputs", INPUTS)
def test_the_loss_is_the_papers(inputs, norm_pix):
    mae_setup, (view, valid) = setup(norm_pix), make(inputs)
    pixels = np.random.default_rng(5).normal(size=VALUES)
    params = predicting(mae_setup.params, pixels)
    (found, _), _ = mae_setup.loss_and_gradients(
        params, mae_setup.carry, as_views(view, valid), KEY, PROGRESS
    )
    tokens, counted = tokens_of(view), tokens_of(valid)
    target = (
        np.stack([reference.norm_pix(*pair) for pair in zip(tokens, counted, strict=True)])
        if norm_pix
        else tokens
    )
    masked = masked_tokens(view, valid)

    def hidden(x):
        return x[masked].reshape(2, -1, VALUES)

    expected = reference.masked_error(
        hidden(np.broadcast_to(pixels, tokens.shape)), hidden(target), hidden(counted)
    )
    assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("inputs", INPUTS)
def test_loss_and_gradients_are_finite(inputs, norm_pix):
    mae_setup, (view, valid) = setup(norm_pix), make(inputs)
    (loss, (carry, _)), gradients = mae_setup.loss_and_gradients(
        mae_setup.params, mae_setup.carry, as_views(view, valid), KEY, PROGRESS
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((loss, carry, gradients)))


@pytest.mark.parametrize("inputs", INPUTS)
def test_masked_error_and_its_gradient(inputs):
    view, valid = make(inputs)
    target, counted = tokens_of(view), tokens_of(valid)
    rng = np.random.default_rng(1)
    predicted = (target + rng.normal(size=target.shape) * (1 + np.abs(target))).astype(np.float32)
    found, gradient = masked_error_and_gradient(predicted, target, counted)
    assert float(found) == pytest.approx(
        reference.masked_error(predicted, target, counted), rel=1e-5
    )
    direction = rng.normal(size=predicted.shape)
    slope = central_difference(
        lambda x: reference.masked_error(x, target, counted), predicted, direction
    )
    assert float(np.sum(np.asarray(gradient, np.float64) * direction)) == pytest.approx(
        slope, rel=1e-4, abs=1e-9
    )


def masked_error_and_gradient(
    predicted: np.ndarray, target: np.ndarray, counted: np.ndarray
) -> tuple[jax.Array, np.ndarray]:
    """Of tokens as flat vectors, as the references have them: one band of many pixels."""
    loss, gradient = loss_and_gradient(*(x[..., None, None] for x in (predicted, target, counted)))
    return loss, np.asarray(gradient)[..., 0, 0]


loss_and_gradient = jax.jit(jax.value_and_grad(mae.masked_error))


def central_difference(function, at: np.ndarray, direction: np.ndarray) -> float:
    """Slope of a quadratic function, exact but for rounding whatever the step."""
    at = at.astype(np.float64)
    return (function(at + 0.1 * direction) - function(at - 0.1 * direction)) / 0.2


def test_masked_errors_gradient_value_by_value():
    rng = np.random.default_rng(2)
    predicted, target = rng.normal(size=(2, 2, 3, 5)).astype(np.float32)
    counted = rng.random((2, 3, 5)) < 0.6
    counted[1, 2] = False  # a token without data is none of those that the loss is averaged over
    _, gradient = masked_error_and_gradient(predicted, target, counted)
    expected = np.zeros(predicted.shape)
    for index in np.ndindex(*predicted.shape):
        direction = np.zeros(predicted.shape)
        direction[index] = 1
        expected[index] = central_difference(
            lambda x: reference.masked_error(x, target, counted), predicted, direction
        )
    assert relative_error(gradient, expected) < 1e-4


@pytest.mark.parametrize("norm_pix", [True, False])
def test_pixels_valid_in_all_bands_or_none_count_as_those_of_each_band(norm_pix):
    mae_setup, (view, _) = setup(norm_pix), make(random_image)
    valid = np.random.default_rng(3).random((2, SIZE, SIZE, 1)) < 0.6
    view = np.where(valid, view, 0)
    (found, _), (expected, _) = (
        mae_setup.loss_and_gradients(
            mae_setup.params, mae_setup.carry, as_views(view, m), KEY, PROGRESS
        )[0]
        for m in (valid, np.broadcast_to(valid, view.shape))
    )
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_a_perfect_prediction_costs_nothing():
    target = np.random.default_rng(0).normal(size=(1, 4, 6)).astype(np.float32)
    found, _ = masked_error_and_gradient(target, target, np.ones((1, 4, 6), bool))
    assert float(found) == 0


# --- the decoder


def test_the_decoder_is_the_papers():
    mae_setup, (view, valid) = setup(False), make(random_image)
    masked = masked_tokens(view, valid)
    ids = np.stack([np.flatnonzero(~row) for row in masked])
    found = tokens_of(
        np.asarray(
            mae_setup.preview(mae_setup.params, mae_setup.carry, as_views(view, valid), KEY)[
                "reconstruction"
            ]
        )
    )
    tokens = encode(mae_setup.params["encoder"], mae_setup.carry["encoder"], view, valid, ids)
    for b in range(2):
        expected = reference.mae_decoder(
            mae_setup.params["decoder"], np.asarray(tokens[b], np.float64), ids[b], ROWS, ROWS
        )
        assert relative_error(found[b][masked[b]], expected[masked[b]]) < 1e-4


# --- what the network may see


@jax.jit
def encode(params, statistics, view, valid, ids):
    return ENCODER.network.apply(
        params, statistics, lambda module: module.tokens(view, valid, ids, EVALUATE)
    )[0]


def test_a_hidden_token_does_not_reach_the_encoder():
    params, statistics = setup(False).params["encoder"], setup(False).carry["encoder"]
    view, valid = make(random_image)
    ids = np.array([[0, 5, 9, 14], [3, 2, 15, 6]])
    noise = np.random.default_rng(8).normal(size=view.shape).astype(np.float32)
    hidden = np.ones((2, TOKENS, PATCH * PATCH, BANDS), np.float32)
    hidden[np.arange(2)[:, None], ids] = 0
    on_hidden = np.asarray(unpatchify(jnp.asarray(hidden), ROWS, ROWS, PATCH))
    before = encode(params, statistics, view, valid, ids)
    np.testing.assert_array_equal(
        encode(params, statistics, view + 100 * noise * on_hidden, valid, ids), before
    )
    assert (
        relative_error(
            encode(params, statistics, view + noise * (1 - on_hidden), valid, ids), before
        )
        > 0.01
    )


@pytest.mark.parametrize("norm_pix", [True, False])
def test_pixels_without_data_change_neither_loss_nor_gradient(norm_pix):
    mae_setup, (view, valid) = setup(norm_pix), make(tokens_without_data)
    valid[:, 2::3, 1::5] = False  # pixels within tokens that have data
    view = np.where(valid, view, 0).astype(np.float32)
    noise = np.random.default_rng(9).normal(size=view.shape).astype(np.float32)
    before = mae_setup.loss_and_gradients(
        mae_setup.params, mae_setup.carry, as_views(view, valid), KEY, PROGRESS
    )
    after = mae_setup.loss_and_gradients(
        mae_setup.params,
        mae_setup.carry,
        as_views(np.where(valid, view, 50 * noise), valid),
        KEY,
        PROGRESS,
    )
    jax.tree.map(np.testing.assert_array_equal, after, before)


# --- tokens and positions


def test_tokens_run_row_by_row_and_pixels_inside_them_too():
    image = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
    found = patchify(jnp.asarray(image), 4)
    assert found.shape == (2, 6, 16, 3)
    for b in range(2):
        np.testing.assert_array_equal(
            np.asarray(found[b]).reshape(6, 48), reference.patchify(image[b], 4)
        )
    np.testing.assert_array_equal(unpatchify(found, 2, 3, 4), image)


@pytest.mark.parametrize(("width", "rows", "columns"), [(192, 4, 4), (32, 3, 5), (512, 2, 7)])
def test_positions_are_maes(width, rows, columns):
    found = sincos_2d(width, rows, columns)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference.sincos_2d(width, rows, columns), atol=1e-6)


def test_moco_v3_has_the_halves_the_other_way_round():
    found = FIXED["sincos_moco_v3"](96, 5, 5)
    np.testing.assert_allclose(found, reference.moco_v3_positions(96, 5), atol=1e-6)
    assert np.abs(found - sincos_2d(96, 5, 5)).max() > 1


# --- masking


def test_the_published_recipe_keeps_102_of_1024_tokens():
    assert visible_count(1024, 0.9) == 102


@pytest.mark.parametrize(
    ("tokens", "ratio", "visible"),
    [(196, 0.75, 49), (1024, 0.75, 256), (16, 0.9, 1), (64, 0.6, 25), (100, 0.9, 10)],
)
def test_the_number_of_visible_tokens(tokens, ratio, visible):
    assert visible_count(tokens, ratio) == visible


@pytest.mark.parametrize(("tokens", "ratio"), [(4, 0.9), (16, 0.0), (16, 1.0)])
def test_none_or_all_visible_is_refused(tokens, ratio):
    with pytest.raises(ValueError, match=str(tokens)):
        visible_count(tokens, ratio)


draw_split = jax.jit(random_split, static_argnums=2)


def visible_sets(visible: jax.Array) -> np.ndarray:
    """How often each set of visible tokens comes."""
    return np.unique(np.sort(visible, axis=1), axis=0, return_counts=True)[1]


def test_every_token_is_visible_or_masked():
    visible, masked = draw_split(KEY, jnp.ones((50, 16), bool), 4)
    assert visible.shape == (50, 4) and masked.shape == (50, 12)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([visible, masked], axis=1)), np.broadcast_to(np.arange(16), (50, 16))
    )


def test_every_set_of_tokens_is_equally_often_visible():
    counts = visible_sets(draw_split(jax.random.key(11), jnp.ones((4000, 6), bool), 3)[0])
    assert len(counts) == 20
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_tokens_without_data_are_masked_first_and_the_rest_at_random():
    has_data = np.array([1, 0, 1, 1, 0, 1, 1, 0], bool)
    visible, _ = draw_split(KEY, jnp.broadcast_to(has_data, (3000, 8)), 3)
    assert has_data[visible].all()
    counts = visible_sets(visible)
    assert len(counts) == 10
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("with_data", [0, 1, 2, 3])
def test_the_number_of_visible_tokens_never_depends_on_the_data(with_data):
    has_data = np.arange(8) < with_data
    visible, masked = draw_split(KEY, jnp.broadcast_to(has_data, (20, 8)), 3)
    assert visible.shape == (20, 3) and masked.shape == (20, 5)
    assert not has_data[np.asarray(masked)].any()
    assert all(len(set(row)) == 8 for row in np.concatenate([visible, masked], axis=1))
