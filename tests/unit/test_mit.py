"""Tests of the mix transformer against PyTorch: features, sizes, multiply-adds; and of
drop path.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import depthwise_of_mit, multiply_adds
from exchanged import to_torch
from reference import random_weights, relative_error

from eo_jax.models.encoder import Encoder, make_encoder
from eo_jax.models.functional import Mode
from eo_jax.models.stems import conv, overlap_patch_embed
from eo_jax.models.trunks import mit
from eo_jax.sensors import get_sensor

torch = pytest.importorskip("torch")
import torch_twin  # noqa: E402  torch may be absent

DEPTH = get_sensor("sunrgbd_hha")


def encoder_of(size: str, **fields) -> Encoder:
    stem = overlap_patch_embed.Config(width=32 if size == "b0" else 64)
    return make_encoder(stem, mit.Config(size=size, **fields), DEPTH, jnp.dtype("float32"))


@functools.cache
def weighted(**fields) -> tuple[Encoder, dict]:
    """A MiT-B0 and its weights, none at its initial value."""
    encoder = encoder_of("b0", **fields)
    return encoder, random_weights(
        jax.eval_shape(encoder.network.init, jax.random.key(0))[0], seed=1
    )


@functools.cache
def exported() -> dict[str, np.ndarray]:
    return to_torch(*weighted(), {}, 64)


def twin_of(size: str):
    """Its weights have shapes alone until `torch_twin.load`."""
    with torch.device("meta"):
        return torch_twin.MixTransformer(size, 3)


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@functools.partial(jax.jit, static_argnames="encoder")
def forward(encoder: Encoder, params, view, key):
    valid = jnp.ones((*view.shape[:3], 1), bool)
    return encoder.forward(params, {}, view, valid, Mode(key=key))[0]["dense"]


slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize("shape", [(2, 64, 64, 3), slow((2, 96, 120, 3)), (1, 45, 39, 3)])
def test_torch_gives_the_same_features(shape):
    encoder, params = weighted()
    view = images(*shape)
    expected = torch_twin.features(torch_twin.load(twin_of("b0"), exported()), view)
    found = forward(encoder, params, view, None)
    assert found.shape == (shape[0], -(-shape[1] // 32), -(-shape[2] // 32), 256)
    assert relative_error(found, expected) < 1e-4
    assert expected.std(axis=(1, 2)).mean() > 0.05  # the pixels matter


# The sizes of listed configs, and the smallest, are quick.
@pytest.mark.parametrize(
    "size", [size if size in ("b0", "b2", "b5") else slow(size) for size in mit.SIZES]
)
def test_every_size_has_the_weights_and_multiply_adds_of_pytorchs(size):
    encoder = encoder_of(size)
    params, _ = jax.eval_shape(encoder.network.init, jax.random.key(0))
    twin = twin_of(size)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sum(
        parameter.numel() for parameter in twin.parameters()
    )
    found = multiply_adds(encoder, 120) + depthwise_of_mit(size, 120)
    assert found == torch_twin.multiply_adds(twin, 3, 120, 120)


def test_drop_path_needs_a_key_and_differs_between_samples():
    encoder, params = weighted(drop_path=0.9)
    view = np.repeat(images(1, 64, 64, 3), 6, axis=0)
    kept = np.asarray(forward(encoder, params, view, None))
    dropped = np.asarray(forward(encoder, params, view, jax.random.key(0)))
    np.testing.assert_array_equal(kept, np.asarray(forward(weighted()[0], params, view, None)))
    np.testing.assert_allclose(kept, np.broadcast_to(kept[:1], kept.shape), rtol=1e-4, atol=1e-5)
    assert len(np.unique(dropped[:, 0, 0, 0])) > 1
    np.testing.assert_array_equal(
        dropped, np.asarray(forward(encoder, params, view, jax.random.key(0)))
    )
    assert (
        np.abs(dropped - np.asarray(forward(encoder, params, view, jax.random.key(1)))).max() > 0.01
    )


def test_drop_path_grows_from_the_first_block_of_the_first_stage_to_the_last_of_the_last():
    trunk = mit.MixTransformer.__new__(mit.MixTransformer)
    object.__setattr__(trunk, "config", mit.Config(size="b2", drop_path=0.5))
    stages = [
        np.asarray(each["kept"]) for each in trunk._block_inputs(Mode(key=jax.random.key(0)), 4000)
    ]
    assert [len(stage) for stage in stages] == [3, 4, 6, 3]
    blocks = np.concatenate(stages)
    np.testing.assert_allclose((blocks == 0).mean((1, 2)), np.linspace(0, 0.5, 16), atol=0.03)
    np.testing.assert_allclose(blocks.mean((1, 2)), 1, atol=0.06)


def test_recomputation_is_asked_for_in_every_stage():
    def checkpoints(remat: str) -> int:
        encoder, params = weighted(remat=remat)
        return str(
            jax.make_jaxpr(lambda p: forward(encoder, p, images(1, 32, 32, 3), None))(params)
        ).count("remat")

    assert (checkpoints("none"), checkpoints("block")) == (0, 4)  # one a scan


def test_a_stem_that_gives_other_channels_is_refused():
    with pytest.raises(ValueError, match=r"(?s)(?=.*overlap_patch_embed)(?=.*\b32\b)(?=.*\b64\b)"):
        make_encoder(conv.Config(), mit.Config(size="b0"), DEPTH, jnp.dtype("float32"))


def test_views_too_small_for_the_reduction_are_refused():
    encoder, params = weighted()
    with pytest.raises(ValueError, match="32 pixels"):
        forward(encoder, params, images(1, 28, 64, 3), None)


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"size": "b6"}, "size"), ({"drop_path": 1.0}, "drop_path"), ({"remat": "all"}, "remat")],
)
def test_a_wrong_option_is_refused_by_name(fields, named):
    with pytest.raises(ValueError, match=rf"config\.model\.trunk\.{named}"):
        mit.Config(**fields)
