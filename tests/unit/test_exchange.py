"""Tests of `eo_jax.exchange`: every layout in both directions, and what a file may not be."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from exchanged import to_ours, to_torch
from reference import random_weights

from eo_jax.exchange.layouts import LAYOUTS
from eo_jax.models.encoder import Encoder, make_encoder
from eo_jax.models.stems import (
    conv,
    identity,
    overlap_patch_embed,
    patch_embed,
    spectral_adapter,
    spectral_adapter_image,
)
from eo_jax.models.trunks import mit, resnet, spectral_cnn, spectral_transformer, vit
from eo_jax.sensors import ENMAP, get_sensor

SIZE = 64
S2 = get_sensor("sentinel2_l1c")
PLAIN = patch_embed.Config(patch=16)
TINY = {"size": "tiny", "depth": 2}
LEARNED = {"positions": "learned", "grid": 4}
RELATIVE = {"positions": "relative", "grid": 4, "layer_scale": 1e-4}
ENCODERS = {
    "spec_vit": (spectral_adapter.Config(patch=16), vit.Config(**TINY), ENMAP),
    "spec_resnet": (
        spectral_adapter_image.Config(),
        resnet.Config(depth=50, first_block="strided"),
        ENMAP,
    ),
    "timm_vit": (PLAIN, vit.Config(**TINY, **LEARNED, registers=4, layer_scale=1e-5), S2),
    "torchvision_resnet": (conv.Config(), resnet.Config(depth=18), S2),
    "segformer": (overlap_patch_embed.Config(width=32), mit.Config(), S2),
    "beit": (PLAIN, vit.Config(**TINY, **RELATIVE), S2),
    "timm_beit": (PLAIN, vit.Config(**TINY, **RELATIVE), S2),
    "hf_vit": (PLAIN, vit.Config(**TINY, positions="sincos_moco_v3"), S2),
    "hf_dinov2": (PLAIN, vit.Config(**TINY, **LEARNED, registers=4, layer_scale=1e-5), S2),
    "hf_data2vec": (PLAIN, vit.Config(**TINY, **RELATIVE), S2),
    "hf_segformer": (overlap_patch_embed.Config(width=32), mit.Config(), S2),
    "spectral_cnn": (identity.Config(), spectral_cnn.Config(window=5, dims=3, width=16), ENMAP),
    "spectral_transformer": (
        identity.Config(),
        spectral_transformer.Config(window=3, depth=1),
        ENMAP,
    ),
}
WITHOUT_KEY_BIAS = ("beit", "timm_beit", "hf_data2vec")


def weighted(layout: str) -> tuple[Encoder, dict, dict]:
    """An encoder of a layout, with weights and running statistics at random."""
    stem, trunk, sensor = ENCODERS[layout]
    encoder = make_encoder(stem, trunk, sensor, np.dtype("float32"))
    shapes = jax.eval_shape(encoder.network.init, jax.random.key(0))
    params, statistics = (random_weights(tree, seed=3) for tree in shapes)
    if layout in WITHOUT_KEY_BIAS:
        bias = np.array(params["trunk"]["blocks"]["layers"]["attention"]["qkv_bias"])
        bias[:, 1] = 0
        params["trunk"]["blocks"]["layers"]["attention"]["qkv_bias"] = bias
    return encoder, params, statistics


def test_every_layout_has_an_encoder_here():
    assert ENCODERS.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_come_back_bit_for_bit(layout):
    encoder, params, statistics = weighted(layout)
    exported = to_torch(encoder, params, statistics, SIZE, layout)
    back = to_ours(encoder, exported, SIZE, layout)
    jax.tree.map(np.testing.assert_array_equal, back, (params, statistics))
    again = to_torch(encoder, *back, SIZE, layout)
    assert again.keys() == exported.keys()
    for key, tensor in exported.items():
        np.testing.assert_array_equal(again[key], tensor)
