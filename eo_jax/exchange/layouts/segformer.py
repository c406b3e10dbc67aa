"""SegFormer's MixVisionTransformer: keys of the authors' release (NVlabs/SegFormer), also used by
DeCUR and segmentation_models_pytorch.
"""

from __future__ import annotations

from eo_jax.exchange.layout import Layout, Row, affine_rows, biased_conv_rows, linear_rows
from eo_jax.exchange.orders import DEPTHWISE, FLAT, HEADS
from eo_jax.models.encoder import Encoder

BLOCK = "trunk/blocks{s}/layers/{i}"


def _rows(encoder: Encoder) -> list[Row]:
    key = "block{s}.{i}"
    return [
        *biased_conv_rows("stem/embed/conv", "patch_embed1.proj"),
        *affine_rows("stem/embed/norm", "patch_embed1.norm"),
        *biased_conv_rows("trunk/embed{s}/conv", "patch_embed{s}.proj"),
        *affine_rows("trunk/embed{s}/norm", "patch_embed{s}.norm"),
        *affine_rows(f"{BLOCK}/norm{{n}}", f"{key}.norm{{n}}"),
        Row(f"{BLOCK}/attention/q", f"{key}.attn.q.weight", HEADS),
        Row(f"{BLOCK}/attention/q_bias", f"{key}.attn.q.bias", FLAT),
        Row(f"{BLOCK}/attention/kv", f"{key}.attn.kv.weight", HEADS),
        Row(f"{BLOCK}/attention/kv_bias", f"{key}.attn.kv.bias", FLAT),
        *biased_conv_rows(f"{BLOCK}/attention/reduce", f"{key}.attn.sr"),
        *affine_rows(f"{BLOCK}/attention/reduce_norm", f"{key}.attn.norm"),
        *linear_rows(f"{BLOCK}/attention/out", f"{key}.attn.proj"),
        *linear_rows(f"{BLOCK}/mlp/fc{{n}}", f"{key}.mlp.fc{{n}}"),
        Row(f"{BLOCK}/mlp/depthwise/kernel", f"{key}.mlp.dwconv.dwconv.weight", DEPTHWISE),
        Row(f"{BLOCK}/mlp/depthwise/bias", f"{key}.mlp.dwconv.dwconv.bias"),
        *affine_rows("trunk/norm{s}", "norm{s}"),
    ]


LAYOUT = Layout(
    "SegFormer MixVisionTransformer (NVlabs keys), without head",
    "overlap_patch_embed",
    "mit",
    _rows,
    bands="patch_embed1.proj.weight",
    ignored=("head\\..*",),
    constructor=lambda encoder, image_size: (
        f"MixVisionTransformer of SegFormer with in_chans={len(encoder.sensor.bands)}, head removed"
    ),
)
