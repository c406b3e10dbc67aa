"""Weights of encoders in PyTorch layouts and back, by layout, and an encoder of each."""

from __future__ import annotations

import functools

import jax
import numpy as np
from reference import random_weights

from eo_jax.exchange import translation
from eo_jax.exchange.layouts import LAYOUTS, layout_name
from eo_jax.models.base import Stem, Trunk
from eo_jax.models.encoder import Encoder, make_encoder
from eo_jax.models.stems import (
    conv,
    identity,
    overlap_patch_embed,
    patch_embed,
    spectral_adapter,
    spectral_adapter_image,
)
from eo_jax.models.trunks import mit, resnet, spectral_cnn, spectral_mlp, spectral_transformer, vit
from eo_jax.sensors import ENMAP, Sensor, get_sensor

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
    "decur_rda": (conv.Config(), resnet.Config(depth=18, attention="dat"), S2),
    "segformer": (overlap_patch_embed.Config(width=32), mit.Config(), S2),
    "beit": (PLAIN, vit.Config(**TINY, **RELATIVE), S2),
    "timm_beit": (PLAIN, vit.Config(**TINY, **RELATIVE), S2),
    "hf_vit": (PLAIN, vit.Config(**TINY, positions="sincos_moco_v3"), S2),
    "hf_dinov2": (PLAIN, vit.Config(**TINY, **LEARNED, registers=4, layer_scale=1e-5), S2),
    "hf_data2vec": (PLAIN, vit.Config(**TINY, **RELATIVE), S2),
    "hf_segformer": (overlap_patch_embed.Config(width=32), mit.Config(), S2),
    "spectral_cnn": (identity.Config(), spectral_cnn.Config(window=5, dims=3, width=16), ENMAP),
    "spectral_mlp": (identity.Config(), spectral_mlp.Config(window=3, width=16), ENMAP),
    "spectral_transformer": (
        identity.Config(),
        spectral_transformer.Config(window=3, depth=1),
        ENMAP,
    ),
}
WITHOUT_KEY_BIAS = ("beit", "timm_beit", "hf_data2vec")


def to_torch(
    encoder: Encoder, params: dict, statistics: dict, image_size: int, layout: str = ""
) -> dict[str, np.ndarray]:
    """{PyTorch key: array}, by default in the first layout that fits."""
    chosen = LAYOUTS[layout_name(encoder, layout)]
    return translation.to_torch(chosen, encoder, params, statistics, image_size)


def to_ours(
    encoder: Encoder, tensors: dict[str, np.ndarray], image_size: int, layout: str = ""
) -> tuple[dict, dict]:
    """(params, running statistics)."""
    chosen = LAYOUTS[layout_name(encoder, layout)]
    return translation.to_ours(chosen, encoder, tensors, image_size)


@functools.cache  # one object per network, which compiles once
def encoder_of(stem: Stem, trunk: Trunk, sensor: Sensor) -> Encoder:
    return make_encoder(stem, trunk, sensor, np.dtype("float32"))


def weighted(layout: str) -> tuple[Encoder, dict, dict]:
    """An encoder of a layout, with weights and running statistics at random; those that the layout
    lacks, because features do not change with them, are 0.
    """
    stem, trunk, sensor = ENCODERS[layout]
    encoder = encoder_of(stem, trunk, sensor)
    shapes = jax.eval_shape(encoder.network.init, jax.random.key(0))
    params, statistics = (random_weights(tree, seed=3) for tree in shapes)
    if layout in WITHOUT_KEY_BIAS:
        bias = np.array(params["trunk"]["blocks"]["layers"]["attention"]["qkv_bias"])
        bias[:, 1] = 0
        params["trunk"]["blocks"]["layers"]["attention"]["qkv_bias"] = bias
    if layout == "timm_vit":  # timm's has it in the class token
        params["trunk"]["position_embedding"]["table"][:, 0] = 0
    return encoder, params, statistics
