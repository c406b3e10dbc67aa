"""DeCUR's ResNet with deformable attention, RDA (arXiv 2309.05300, zhu-xlab/DeCUR): the keys of its
files of one encoder, `rn50_rda_*_{sar,rgb}_*`: torchvision's ResNet under `backbone.`, and the
attentions beside it as `da1_l3` and `da1_l4`.

Joint files have two ResNets and two pairs of attentions. The released code sends both sensors
through the first pair and never trains the second, so `da1_` belongs to either encoder. All the
same, a file of the second encoder alone has `da2_`.
"""

from __future__ import annotations

import re

import numpy as np

from eo_jax.exchange.layout import Layout, Row, Tensors, affine_rows, batch_norm_rows
from eo_jax.exchange.layouts.torchvision_resnet import trunk_rows
from eo_jax.exchange.orders import CONV2D, DEPTHWISE, POINTWISE
from eo_jax.models.encoder import Encoder
from eo_jax.models.layers.deformable_attention import AttentionShape

_BRANCH = re.compile(r"((?:.+\.)?)(backbone_[12])\.(.+)")
_SHARED = re.compile(r"((?:.+\.)?)(da1_l[34]\..+)")


def attention_rows() -> list[Row]:
    """PyTorch's projections are convolutions of 1 x 1; its offset network is a Sequential of
    convolution (0), norm (1) and, after GELU, convolution (3).
    """
    ours, key = "trunk/attention{stage}", "da1_l{stage}"
    projections = [
        row
        for name in ("q", "k", "v", "out")
        for row in (
            Row(f"{ours}/{name}/kernel", f"{key}.proj_{name}.weight", POINTWISE),
            Row(f"{ours}/{name}/bias", f"{key}.proj_{name}.bias"),
        )
    ]
    offsets, sequential = f"{ours}/offsets", f"{key}.conv_offset"
    return [
        *projections,
        Row(f"{offsets}/depthwise/kernel", f"{sequential}.0.weight", DEPTHWISE),
        Row(f"{offsets}/depthwise/bias", f"{sequential}.0.bias"),
        *affine_rows(f"{offsets}/norm", f"{sequential}.1.norm"),
        Row(f"{offsets}/move/kernel", f"{sequential}.3.weight", POINTWISE),
        Row(f"{ours}/position_bias/table", f"{key}.rpe_table"),
    ]


def _rows(encoder: Encoder) -> list[Row]:
    return [
        Row("stem/conv/kernel", "backbone.conv1.weight", CONV2D),
        *batch_norm_rows("stem/norm", "backbone.bn1"),
        *trunk_rows(encoder, "backbone."),
        *attention_rows(),
    ]


def _separated(tensors: Tensors) -> Tensors:
    """A joint file as two encoders under its own prefixes, `backbone_1.` and `backbone_2.`, each
    with the attentions that both were trained with.
    """
    branches: dict[str, set[str]] = {}
    for found in filter(None, map(_BRANCH.fullmatch, tensors)):
        branches.setdefault(found[1], set()).add(found[2])
    separated = {}
    for key, tensor in tensors.items():
        if found := _BRANCH.fullmatch(key):
            separated[f"{found[1]}{found[2]}.backbone.{found[3]}"] = tensor
        elif (found := _SHARED.fullmatch(key)) and found[1] in branches:
            separated |= {f"{found[1]}{name}.{found[2]}": tensor for name in branches[found[1]]}
        else:
            separated[key] = tensor
    return separated


def _unified(encoder: Encoder, tensors: Tensors) -> Tensors:
    """The second encoder's `da2_` as `da1_`. Raises ValueError where it was never trained."""
    second = [key for key in tensors if key.startswith("da2_")]
    if not second or any(key.startswith("da1_") for key in tensors):
        return tensors
    for norm in ("da2_l3.conv_offset.1.norm", "da2_l4.conv_offset.1.norm"):
        if _is_initial(tensors, norm):
            raise ValueError(
                f"{norm}: one number for all channels, as before training. DeCUR's code sends both "
                "sensors through da1_ and never trains da2_, so this encoder's attention would be "
                "random. Import the joint file (rn50_rda_*_joint_*) with eo_jax.import_torch "
                "--prefix=module.backbone_2., which takes the da1_ that it was trained with"
            )
    return {re.sub("^da2_", "da1_", key): tensor for key, tensor in tensors.items()}


def _is_initial(tensors: Tensors, norm: str) -> bool:
    """Whether a LayerNorm is there and was never trained: weight decay alone keeps all equal."""
    scale, bias = tensors.get(f"{norm}.weight"), tensors.get(f"{norm}.bias")
    return scale is not None and np.unique(scale).size == 1 and not np.any(bias)


def _constructor(encoder: Encoder, image_size: int) -> str:
    attentions = ", ".join(
        f"da1_l{stage} = {_attention_call(shape)}"
        for stage, shape in encoder.trunk.attentions().items()
    )
    return (
        f"a module like DeCUR's SingleModel: backbone = torchvision.models.resnet"
        f"{encoder.trunk.depth}() with {len(encoder.sensor.bands)} channels in conv1 and without "
        f"fc, {attentions}, each added to the output of its stage"
    )


def _attention_call(shape: AttentionShape) -> str:
    side = f"({shape.points.cells}, {shape.points.cells})"
    return (
        f"DAttentionBaseline(q_size={side}, kv_size={side}, n_heads={shape.heads}, "
        f"n_head_channels={shape.channels // shape.heads}, n_groups={shape.groups}, attn_drop=0, "
        f"proj_drop=0, stride={shape.stride}, offset_range_factor=-1, use_pe=True, dwc_pe=False, "
        f"no_off=False, fixed_pe=False, ksize={shape.kernel}, log_cpb=False)"
    )


RDA = Layout(
    "DeCUR ResNet with deformable attention (RDA), without fc",
    "conv",
    "resnet",
    _rows,
    {"attention": "dat", "blocks": (), "first_block": "plain"},
    bands="backbone.conv1.weight",
    ignored=("backbone\\.fc\\..*",),
    constructor=_constructor,
    separated=_separated,
    unified=_unified,
)
