"""SegFormer's MixVisionTransformer: keys of the authors' release (NVlabs/SegFormer), also used by
DeCUR and segmentation_models_pytorch.
"""

from __future__ import annotations

from eo_jax.export.layouts.base import (
    Layout,
    Row,
    affine_rows,
    as_is,
    biased_conv_rows,
    depthwise_conv2d,
    flat,
    fuse_heads,
    linear_rows,
)
from eo_jax.models.encoder import Encoder

_BLOCK, _KEY = r"trunk/blocks(\d)/layers/(\d+)", r"block\1.\2"


def _rows(encoder: Encoder) -> list[Row]:
    return [
        *biased_conv_rows("stem/embed/conv", "patch_embed1.proj"),
        *affine_rows("stem/embed/norm", "patch_embed1.norm"),
        *biased_conv_rows(r"trunk/embed(\d)/conv", r"patch_embed\1.proj"),
        *affine_rows(r"trunk/embed(\d)/norm", r"patch_embed\1.norm"),
        *affine_rows(rf"{_BLOCK}/norm([12])", rf"{_KEY}.norm\3"),
        (rf"{_BLOCK}/attention/(q|kv)", rf"{_KEY}.attn.\3.weight", fuse_heads),
        (rf"{_BLOCK}/attention/(q|kv)_bias", rf"{_KEY}.attn.\3.bias", flat),
        *biased_conv_rows(rf"{_BLOCK}/attention/reduce", rf"{_KEY}.attn.sr"),
        *affine_rows(rf"{_BLOCK}/attention/reduce_norm", rf"{_KEY}.attn.norm"),
        *linear_rows(rf"{_BLOCK}/attention/out", rf"{_KEY}.attn.proj"),
        *linear_rows(rf"{_BLOCK}/mlp/fc([12])", rf"{_KEY}.mlp.fc\3"),
        (rf"{_BLOCK}/mlp/depthwise/kernel", rf"{_KEY}.mlp.dwconv.dwconv.weight", depthwise_conv2d),
        (rf"{_BLOCK}/mlp/depthwise/bias", rf"{_KEY}.mlp.dwconv.dwconv.bias", as_is),
        *affine_rows(r"trunk/norm(\d)", r"norm\1"),
    ]


SEGFORMER_MIT = Layout(
    "SegFormer MixVisionTransformer (NVlabs keys), without head",
    "overlap_patch_embed",
    "mit",
    _rows,
)
