"""Tests of `eo_jax.models.stems.spectral_adapter` against PyTorch's Conv3d and BatchNorm3d, on
no-data, and on visible tokens only.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import of_module
from reference import random_weights, relative_error, sincos_2d

from eo_jax.models.encoder import make_encoder, patchify, take_tokens
from eo_jax.models.functional import EVALUATE, TRAIN, Network
from eo_jax.models.stems import spectral_adapter
from eo_jax.models.stems.spectral_adapter import SpectralAdapter
from eo_jax.models.trunks import vit
from eo_jax.sensors import ENMAP

torch = pytest.importorskip("torch")
from torch_twin import spectral_adapter as torch_adapter  # noqa: E402  torch may be absent

SENSOR_BANDS = {"EnMAP": 202, "DESIS": 235, "EO-1": 198, "Hyperview": 150}
NETWORK = Network(lambda rngs: SpectralAdapter(jnp.dtype("float32"), rngs=rngs))
# Our names of the three stages, and the locations of their convolution and BatchNorm in
# SpectralEarth's Sequential.
STAGES = (("conv0", "norm0", 0, 1), ("conv1", "norm1", 3, 4), ("conv2", "norm2", 6, 7))


@functools.partial(jax.jit, static_argnames="mode")
def adapt(params, running, pixels, valid, mode):
    return NETWORK.apply(params, running, lambda module: module(pixels, valid, mode))


@pytest.fixture(scope="module")
def twin():
    """A torch adapter whose every number, running statistics included, is away from its initial
    value.
    """
    generator = torch.Generator().manual_seed(0)
    adapter = torch_adapter()
    for name, tensor in adapter.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(
                1 + 0.2 * noise.abs()
                if tensor.ndim == 1 and not name.endswith(("bias", "mean"))
                else 0.3 * noise
            )
    return adapter


def copied(adapter) -> tuple[dict, dict]:
    """(params, running statistics) of a torch adapter in our layout."""
    params, running = {}, {}
    for conv, norm, at, norm_at in STAGES:
        convolution, batch_norm = adapter[at], adapter[norm_at]
        kernel = convolution.weight.detach().numpy()[..., 0, 0]  # [out, in, k]
        params[conv] = {
            "kernel": kernel.transpose(2, 1, 0).copy(),
            "bias": convolution.bias.detach().numpy().copy(),
        }
        params[norm] = {
            "scale": batch_norm.weight.detach().numpy().copy(),
            "bias": batch_norm.bias.detach().numpy().copy(),
        }
        running[norm] = {
            "mean": batch_norm.running_mean.numpy().copy(),
            "var": batch_norm.running_var.numpy().copy(),
        }
    return params, running


def clone(adapter):
    other = torch_adapter()
    other.load_state_dict(adapter.state_dict())
    return other


def spectra(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run_torch(adapter, pixels: np.ndarray) -> np.ndarray:
    """[b, h, w, c] -> [b, h, w, 128]"""
    cube = torch.from_numpy(pixels).permute(0, 3, 1, 2)[:, None]
    with torch.no_grad():
        return adapter(cube)[:, :, 0].permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("bands", SENSOR_BANDS.values(), ids=SENSOR_BANDS)
def test_running_statistics_give_torchs_values_and_stay(twin, bands):
    pixels = spectra(2, 3, 4, bands)
    params, running = copied(twin)
    found, after = adapt(params, running, pixels, np.ones((2, 3, 4), bool), EVALUATE)
    assert relative_error(found, run_torch(clone(twin).eval(), pixels)) < 1e-5
    jax.tree.map(np.testing.assert_array_equal, after, running)


@pytest.mark.parametrize("bands", SENSOR_BANDS.values(), ids=SENSOR_BANDS)
def test_batch_statistics_give_torchs_values_and_move_as_torchs(twin, bands):
    pixels = spectra(2, 3, 4, bands)
    params, running = copied(twin)
    found, after = adapt(params, running, pixels, np.ones((2, 3, 4), bool), TRAIN)
    training = clone(twin).train()
    assert relative_error(found, run_torch(training, pixels)) < 1e-5
    _, expected = copied(training)
    for norm, moments in expected.items():
        for name, value in moments.items():
            assert relative_error(after[norm][name], value) < 1e-5, f"{norm}.{name}"


def test_gradients_through_batch_statistics_are_torchs(twin):
    pixels, weights = spectra(2, 3, 4, 202), spectra(2, 3, 4, 128, seed=1)
    params, running = copied(twin)
    gradients = jax.jit(
        jax.grad(
            lambda p: jnp.sum(
                weights * adapt(p, running, pixels, np.ones((2, 3, 4), bool), TRAIN)[0]
            )
        )
    )(params)
    training = clone(twin).train()
    cube = torch.from_numpy(pixels).permute(0, 3, 1, 2)[:, None]
    (training(cube)[:, :, 0].permute(0, 2, 3, 1) * torch.from_numpy(weights)).sum().backward()
    for conv, norm, at, norm_at in STAGES:
        kernel = training[at].weight.grad.numpy()[..., 0, 0].transpose(2, 1, 0)
        assert relative_error(gradients[conv]["kernel"], kernel) < 1e-4, conv
        assert relative_error(gradients[norm]["scale"], training[norm_at].weight.grad) < 1e-4, norm
        assert relative_error(gradients[norm]["bias"], training[norm_at].bias.grad) < 1e-4, norm


def test_invalid_pixels_take_no_part_in_batch_statistics(twin):
    pixels = spectra(1, 4, 6, 202)
    valid = np.random.default_rng(1).random((1, 4, 6)) < 0.6
    params, running = copied(twin)
    alone, after_alone = adapt(params, running, pixels[valid], np.ones(valid.sum(), bool), TRAIN)
    polluted = np.where(valid[..., None], pixels, 1e3).astype(np.float32)
    found, after = adapt(params, running, polluted, valid, TRAIN)
    assert relative_error(np.asarray(found)[valid], alone) < 1e-5
    for norm in after:
        for name in after[norm]:
            assert relative_error(after[norm][name], after_alone[norm][name]) < 1e-5, (
                f"{norm}.{name}"
            )


def test_a_batch_without_a_valid_pixel_stays_finite(twin):
    params, running = copied(twin)
    found, after = adapt(
        params, running, np.zeros((1, 4, 6, 202), np.float32), np.zeros((1, 4, 6), bool), TRAIN
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((found, after)))


def test_the_encoder_on_visible_tokens_is_the_adapter_on_all_pixels_then_those_tokens():
    encoder = make_encoder(
        spectral_adapter.Config(patch=4),
        vit.Config(size="tiny", depth=1),
        ENMAP,
        jnp.dtype("float32"),
    )
    params, running = (
        random_weights(shapes, seed=2)
        for shapes in jax.eval_shape(encoder.network.init, jax.random.key(0))
    )
    view, valid = jnp.asarray(spectra(2, 16, 12, 202)), jnp.ones((2, 16, 12, 1), bool)
    ids = jnp.array([[3, 0, 9, 11], [10, 7, 8, 2]])
    positions = jnp.asarray(sincos_2d(192, 4, 3), jnp.float32)

    def adapt_all_then_take(module):
        every = module.stem(patchify(view, 4), patchify(valid, 4)[..., 0], EVALUATE) + positions
        return module.trunk(take_tokens(every, ids), (4, 4), EVALUATE)

    @jax.jit
    def both(params, running):
        visible_only, _ = encoder.network.apply(
            params, running, lambda module: module.tokens(view, valid, ids, EVALUATE)
        )
        return visible_only, encoder.network.apply(params, running, adapt_all_then_take)[0]

    found, expected = both(params, running)
    assert found.shape == (2, 5, 192)
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("bands", [3, 74])
def test_too_few_bands_are_refused_by_name_and_number(bands):
    sensor = dataclasses.replace(
        ENMAP, id="narrow", title="A narrow sensor", bands=ENMAP.bands[:bands]
    )
    with pytest.raises(ValueError, match=rf"(?s)(?=.*\b{bands}\b)(?=.*\b75\b)"):
        make_encoder(
            spectral_adapter.Config(patch=4),
            vit.Config(size="tiny", depth=1),
            sensor,
            jnp.dtype("float32"),
        )


@pytest.mark.parametrize(
    ("bands", "lengths"),
    [(202, (40, 8, 2)), (235, (47, 9, 3)), (198, (39, 7, 2)), (150, (30, 6, 2)), (75, (15, 3, 1))],
)
def test_spectral_lengths_are_the_published_ones(bands, lengths):
    assert spectral_adapter.spectral_lengths(bands) == lengths


def test_multiply_adds_of_one_enmap_pixel_are_the_published_number():
    found = of_module(
        NETWORK,
        lambda module, *pixel: module(*pixel, EVALUATE),
        jax.ShapeDtypeStruct((1, 202), jnp.float32),
        jax.ShapeDtypeStruct((1,), bool),
    )
    assert found == 205_568
