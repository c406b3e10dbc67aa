"""Tests of BEiT's initial weights against the distributions that its released code draws from."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from eo_jax import rules
from eo_jax.models.encoder import make_encoder
from eo_jax.models.stems import conv, patch_embed
from eo_jax.models.trunks import resnet, vit
from eo_jax.sensors import get_sensor

DEPTH = 3
TRUNK = vit.Config(
    size="nano", depth=DEPTH, registers=2, layer_scale=1e-4, positions="relative", grid=3
)
SENSOR, FLOAT32 = get_sensor("sentinel2_l1c"), jnp.dtype("float32")


@functools.cache
def initial(init: str, trunk: vit.Config = TRUNK) -> dict[str, np.ndarray]:
    """{path: initial weight} of an encoder."""
    encoder = make_encoder(patch_embed.Config(), trunk, SENSOR, FLOAT32, init=init)
    params, _ = jax.jit(encoder.network.init)(jax.random.key(0))
    return {path: np.asarray(leaf) for path, leaf in rules.paths(params)}


def drawn_from(values: np.ndarray, std: float) -> bool:
    """Whether values are normal with this standard deviation, truncated at it on both sides."""
    truncated = scipy.stats.truncnorm(-1, 1, scale=std)
    near = abs(values.std() / truncated.std() - 1) < 0.05
    return near and scipy.stats.kstest(values.ravel(), truncated.cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    "path",
    [
        "stem/embed/kernel",
        "trunk/cls_token",
        "trunk/registers",
        "trunk/blocks/layers/attention/qkv",
        "trunk/blocks/layers/mlp/fc1/kernel",
    ],
)
def test_matrices_and_tokens_are_truncated_normal(path):
    weight = initial("beit")[path]
    assert np.abs(weight).max() <= 0.02
    stacked = weight if "layers" in path else weight[None]
    assert all(abs(layer.mean()) < 2e-3 for layer in stacked)
    assert drawn_from(weight, 0.02) or weight.size < 500


@pytest.mark.parametrize("end", ["attention/out", "mlp/fc2"])
def test_the_last_matrix_of_a_branch_is_divided_by_the_root_of_twice_its_block(end):
    weight = initial("beit")[f"trunk/blocks/layers/{end}/kernel"]
    for block, layer in enumerate(weight, start=1):
        assert drawn_from(layer, 0.02 / np.sqrt(2 * block))


def test_everything_else_is_as_the_layers_start():
    beit, default = initial("beit"), initial("default")
    assert {path: leaf.shape for path, leaf in beit.items()} == {
        path: leaf.shape for path, leaf in default.items()
    }
    same = {path for path in beit if np.array_equal(beit[path], default[path])}
    assert all(path.endswith(("bias", "_scale", "scale", "table")) for path in same)
    assert {path for path in beit if path not in same} == {
        path for path in beit if path.endswith(("kernel", "qkv", "cls_token", "registers"))
    }


def test_learned_positions_are_drawn_too():
    trunk = vit.Config(size="nano", depth=1, positions="learned", grid=8)
    assert drawn_from(initial("beit", trunk)["trunk/position_embedding/table"], 0.02)


def test_no_two_weights_are_drawn_alike():
    weights = [leaf.ravel()[:50] for leaf in initial("beit").values() if leaf.std() > 0]
    assert np.abs(np.corrcoef(weights) - np.eye(len(weights))).max() < 0.6


@pytest.mark.parametrize(
    ("trunk", "stem", "init"),
    [(resnet.Config(depth=18), conv.Config(), "beit"), (TRUNK, patch_embed.Config(), "kaiming")],
)
def test_an_encoder_without_such_weights_is_refused(trunk, stem, init):
    with pytest.raises(ValueError, match=rf"config\.model\.init: '{init}' with trunk '.*default"):
        make_encoder(stem, trunk, SENSOR, FLOAT32, init=init)
