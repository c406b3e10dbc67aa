"""Tests of the encoders for pixels and small windows: `spectral_cnn` against PyTorch,
`spectral_transformer` against its tokens taken by loops.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import multiply_adds, of_module
from reference import random_weights, relative_error, sincos_2d

from eo_jax.models.encoder import Encoder, make_encoder
from eo_jax.models.functional import EVALUATE, TRAIN, Mode, Network
from eo_jax.models.stems import identity
from eo_jax.models.trunks import spectral_cnn, spectral_mlp, spectral_transformer, vit
from eo_jax.sensors import ENMAP

BANDS = 21
SENSOR = dataclasses.replace(ENMAP, id="narrow", title="A narrow sensor", bands=ENMAP.bands[:BANDS])
CONVOLUTIONS = {
    "pixel": spectral_cnn.Config(width=16, layers=3, kernel=5),
    "mean of a window": spectral_cnn.Config(window=3, width=16, layers=2),
    "window": spectral_cnn.Config(window=5, dims=3, width=16, layers=3, kernel=5),
    "wide window": spectral_cnn.Config(window=7, dims=3, width=8, layers=2, kernel=3),
}
TRUNKS = CONVOLUTIONS | {
    "spectral_mlp": spectral_mlp.Config(width=16, hidden=24),
    "dense, mean of a window": spectral_mlp.Config(window=3, width=16, hidden=24, layers=1),
    "spectral_transformer": spectral_transformer.Config(bands_per_token=4, depth=1),
    "spectrum of a window": spectral_transformer.Config(window=3, bands_per_token=5, depth=1),
}


@functools.cache
def encoder(trunk, dtype: str = "float32") -> Encoder:
    return make_encoder(identity.Config(), trunk, SENSOR, jnp.dtype(dtype))


@functools.cache
def weights(trunk):
    """(params, running statistics) away from their initial values."""
    return tuple(
        random_weights(shapes, seed=1)
        for shapes in jax.eval_shape(encoder(trunk).network.init, jax.random.key(0))
    )


@functools.partial(jax.jit, static_argnames=("trunk", "dtype", "mode"))
def forward(trunk, params, running, view, valid, mode: Mode = EVALUATE, dtype: str = "float32"):
    return encoder(trunk, dtype).forward(params, running, view, valid, mode)


@functools.partial(jax.jit, static_argnames="trunk")
def forward_of_groups(trunk, params, running, view, valid, members):
    return encoder(trunk).forward(params, running, view, valid, Mode("batch", members))


def windows(trunk, samples: int = 6, across: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(view [b, w, across * w, c], all of it valid)"""
    shape = (samples, trunk.window, across * trunk.window, BANDS)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32), np.ones(
        (*shape[:3], 1), bool
    )


# --- what every one of them keeps to


@pytest.mark.parametrize("trunk", TRUNKS.values(), ids=TRUNKS)
def test_a_window_becomes_one_feature_in_the_compute_type(trunk):
    view, valid = windows(trunk)
    found, _ = forward(trunk, *weights(trunk), view, valid, TRAIN, "bfloat16")
    assert found["pooled"].shape == (6, trunk.width) and found["dense"].shape == (
        6,
        1,
        1,
        trunk.width,
    )
    assert found["pooled"].dtype == found["dense"].dtype == jnp.bfloat16
    precise, _ = forward(trunk, *weights(trunk), view, valid, TRAIN)
    assert relative_error(found["pooled"], precise["pooled"]) < 0.08
    assert encoder(trunk).patch == trunk.window


@pytest.mark.parametrize("trunk", TRUNKS.values(), ids=TRUNKS)
def test_a_larger_view_is_its_windows_side_by_side(trunk):
    view, valid = windows(trunk, across=3)
    found, _ = forward(trunk, *weights(trunk), view, valid)
    assert found["dense"].shape == (6, 1, 3, trunk.width)
    for i, part in enumerate(np.split(view, 3, axis=2)):
        alone, _ = forward(trunk, *weights(trunk), part, valid[:, :, : trunk.window])
        assert relative_error(found["dense"][:, 0, i], alone["pooled"]) < 1e-5


@pytest.mark.parametrize("trunk", TRUNKS.values(), ids=TRUNKS)
def test_every_weight_is_trained(trunk):
    view, valid = windows(trunk)
    params, running = weights(trunk)
    target = np.random.default_rng(1).normal(size=(6, trunk.width)).astype(np.float32)
    gradients = jax.jit(
        jax.grad(
            lambda p: jnp.sum(target * forward(trunk, p, running, view, valid, TRAIN)[0]["pooled"])
        )
    )(params)
    assert all(
        np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients)
    )


@pytest.mark.parametrize(
    "trunk",
    [t for t in TRUNKS.values() if t.window > 1],
    ids=[name for name, t in TRUNKS.items() if t.window > 1],
)
def test_a_view_of_broken_windows_is_refused(trunk):
    view, valid = windows(trunk)
    with pytest.raises(
        ValueError,
        match=rf"trunk\.window: {trunk.window}, but a view has {trunk.window} x {trunk.window - 1} "
        r"pixels",
    ):
        forward(trunk, *weights(trunk), view[:, :, 1:], valid[:, :, 1:])


# --- convolutions against PyTorch


def copied(trunk: spectral_cnn.Config):
    """Our weights in PyTorch's Conv3d, BatchNorm3d, Linear and BatchNorm1d: [r, 1, s, y, x] -> [r,
    d].
    """
    torch = pytest.importorskip("torch")
    params, running = (tree["trunk"] for tree in weights(trunk))

    def tensor(array):
        return torch.from_numpy(np.array(array, order="C"))

    def norm(make, name: str):
        layer = make(len(params[name]["scale"]))
        layer.load_state_dict(
            {"weight": tensor(params[name]["scale"]), "bias": tensor(params[name]["bias"])}
            | {
                "running_mean": tensor(running[name]["mean"]),
                "running_var": tensor(running[name]["var"]),
                "num_batches_tracked": torch.tensor(0),
            }
        )
        return layer

    layers: list[torch.nn.Module] = []
    for i in range(trunk.layers):
        kernel = params[f"conv{i}"]["kernel"].transpose(4, 3, 0, 1, 2)
        convolution = torch.nn.Conv3d(
            *kernel.shape[1::-1], kernel.shape[2:], (2, 1, 1), (trunk.kernel // 2, 0, 0), bias=False
        )
        convolution.weight.data = tensor(kernel)
        layers += [convolution, norm(torch.nn.BatchNorm3d, f"norm{i}"), torch.nn.ReLU()]
    dense = torch.nn.Linear(*params["embed"]["kernel"].shape)
    dense.weight.data, dense.bias.data = (
        tensor(params["embed"]["kernel"].T),
        tensor(params["embed"]["bias"]),
    )
    return (
        torch,
        torch.nn.Sequential(*layers),
        torch.nn.Sequential(dense, norm(torch.nn.BatchNorm1d, "embed_norm"), torch.nn.ReLU()),
    )


def as_cubes(trunk: spectral_cnn.Config, view: np.ndarray) -> np.ndarray:
    """[r, 1, s, y, x]: one window per row, or one pixel with dims=1."""
    view = view if trunk.dims == 3 else view.reshape(-1, 1, 1, BANDS)
    return np.moveaxis(view, -1, 1)[:, None].copy()


@pytest.mark.parametrize("mode", [EVALUATE, TRAIN], ids=["running", "batch"])
@pytest.mark.parametrize("trunk", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_features_and_running_statistics_are_torchs(trunk, mode):
    view, valid = windows(trunk)
    torch, convolutions, head = copied(trunk)
    for part in (convolutions, head):
        part.train(mode is TRAIN)
    with torch.no_grad():
        features = head(
            convolutions(torch.from_numpy(as_cubes(trunk, view))).permute(0, 2, 3, 4, 1).flatten(1)
        ).numpy()
    found, after = forward(trunk, *weights(trunk), view, valid, mode)
    assert (
        relative_error(found["pooled"], features.reshape(len(view), -1, trunk.width).mean(1)) < 1e-5
    )
    norms = {f"norm{i}": convolutions[3 * i + 1] for i in range(trunk.layers)} | {
        "embed_norm": head[1]
    }
    for name, norm in norms.items():
        assert relative_error(after["trunk"][name]["mean"], norm.running_mean.numpy()) < 1e-5, name
        assert relative_error(after["trunk"][name]["var"], norm.running_var.numpy()) < 1e-5, name


@pytest.mark.parametrize("trunk", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_multiply_adds_are_those_of_torchs_layers(trunk):
    _, convolutions, head = copied(trunk)
    counts = []

    def count(layer, _, out):
        return counts.append(out[0].numel() * layer.weight[0].numel())

    for layer in [*convolutions[::3], head[0]]:
        layer.register_forward_hook(count)
    cubes = as_cubes(trunk, windows(trunk, samples=1)[0])
    head.eval()(convolutions.eval()(head[0].weight.new_tensor(cubes)).flatten(1))
    assert multiply_adds(encoder(trunk), trunk.window) == sum(counts) * len(cubes)


# --- no-data and groups


def test_pixels_without_data_count_neither_in_a_windows_mean_nor_in_the_statistics():
    trunk, alone = (
        CONVOLUTIONS["mean of a window"],
        dataclasses.replace(CONVOLUTIONS["mean of a window"], window=1),
    )
    view, _ = windows(trunk)
    valid = np.random.default_rng(1).random((6, 3, 3, 1)) < 0.6
    found, after = forward(
        trunk, *weights(trunk), np.where(valid, view, 1e3).astype(np.float32), valid, TRAIN
    )
    pixels = view[valid[..., 0]][:, None, None]
    each, after_alone = forward(
        alone, *weights(trunk), pixels, np.ones((len(pixels), 1, 1, 1), bool), TRAIN
    )
    owners = np.nonzero(valid[..., 0])[0]
    expected = np.stack([np.asarray(each["pooled"])[owners == i].mean(0) for i in range(6)])
    assert relative_error(found["pooled"], expected) < 1e-5
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), after, after_alone
    )


def test_windows_without_data_do_not_count_in_the_statistics():
    trunk = CONVOLUTIONS["window"]
    view, valid = windows(trunk)
    valid[4:] = False
    found, after = forward(trunk, *weights(trunk), view, valid, TRAIN)
    alone, after_alone = forward(trunk, *weights(trunk), view[:4], valid[:4], TRAIN)
    assert relative_error(found["pooled"][:4], alone["pooled"]) < 1e-5
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), after, after_alone
    )


@pytest.mark.parametrize("trunk", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_groups_of_rows_have_statistics_of_their_own(trunk):
    view, valid = windows(trunk)
    members = np.kron(np.eye(2, dtype=np.float32), np.ones((1, 3), np.float32))
    found, _ = forward_of_groups(trunk, *weights(trunk), view, valid, members)
    halves = [
        forward(trunk, *weights(trunk), view[rows], valid[rows], TRAIN)[0]["pooled"]
        for rows in (slice(3), slice(3, 6))
    ]
    assert relative_error(found["pooled"], np.concatenate(halves)) < 1e-5


# --- the transformer over the spectrum


@pytest.mark.parametrize(
    "trunk",
    [t for t in TRUNKS.values() if isinstance(t, spectral_transformer.Config)],
    ids=["pixel", "window"],
)
def test_tokens_are_groups_of_neighbouring_bands(trunk):
    view, valid = windows(trunk)
    params, running = weights(trunk)
    embed = params["trunk"]["embed"]
    tokens = []
    for window in view:
        for first in range(0, BANDS, trunk.bands_per_token):
            locations = np.ndindex(trunk.window, trunk.window, trunk.bands_per_token)
            values = [
                window[y, x, first + g] if first + g < BANDS else 0.0 for y, x, g in locations
            ]
            tokens.append(np.array(values) @ embed["kernel"] + embed["bias"])
    tokens = np.array(tokens).reshape(len(view), -1, trunk.width) + sincos_2d(
        trunk.width, 1, -(-BANDS // trunk.bands_per_token)
    )
    assert tokens.shape[1] == -(-BANDS // trunk.bands_per_token)

    def inside(module):
        return module.trunk.trunk(jnp.asarray(tokens, jnp.float32), (1, tokens.shape[1]), EVALUATE)[
            :, 1:
        ].mean(1)

    expected, _ = encoder(trunk).network.apply(params, running, inside)
    assert (
        relative_error(forward(trunk, params, running, view, valid)[0]["pooled"], expected) < 1e-5
    )


def test_multiply_adds_of_a_spectrum_are_those_of_its_tokens():
    trunk = spectral_transformer.Config(window=3, bands_per_token=5)
    blocks = Network(lambda rngs: trunk.blocks.build(jnp.dtype("float32"), rngs))
    of_tokens = of_module(
        blocks,
        lambda module, tokens: module(tokens, (1, 5), EVALUATE),
        jax.ShapeDtypeStruct((1, 5, 96), jnp.float32),
    )
    assert multiply_adds(encoder(trunk), 6) == 4 * (5 * 45 * 96 + of_tokens)


# --- config


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (
            spectral_cnn.Config,
            {"window": 4},
            r"window: 4; expected an odd number of pixels from 1 to 15",
        ),
        (
            spectral_transformer.Config,
            {"window": 17},
            r"window: 17; expected an odd number of pixels from 1 to 15",
        ),
        (spectral_cnn.Config, {"dims": 2}, r"dims: 2; expected 1 or 3"),
        (spectral_cnn.Config, {"layers": 0}, r"layers: 0; expected at least 1"),
        (
            spectral_cnn.Config,
            {"width": 100},
            r"width: 100; expected a multiple of 8, for 4 layers",
        ),
        (spectral_cnn.Config, {"kernel": 4}, r"kernel: 4; expected an odd number of bands"),
        (
            spectral_transformer.Config,
            {"bands_per_token": 0},
            r"bands_per_token: 0; expected at least 1 band",
        ),
        (spectral_transformer.Config, {"size": "pico"}, r"size: 'pico'; expected one of tiny"),
    ],
)
def test_impossible_settings_name_themselves(make, fields, message):
    with pytest.raises(ValueError, match=rf"config\.model\.trunk\.{message}"):
        make(**fields)


def test_a_stem_of_images_and_a_trunk_of_tokens_do_not_fit():
    with pytest.raises(
        ValueError, match="a stem 'identity' gives image, a trunk 'vit' takes tokens"
    ):
        make_encoder(identity.Config(), vit.Config(), SENSOR, jnp.dtype("float32"))
