"""Hugging Face's ViTModel, Dinov2Model, Dinov2WithRegistersModel, SegformerModel and
Data2VecVisionModel, by the names that transformers writes to files. q, k and v are separate there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from eo_jax.exchange.hf_config import SEGFORMER_EPSILON, model_call
from eo_jax.exchange.layout import Layout, Row, affine_rows, biased_conv_rows, linear_rows
from eo_jax.exchange.layouts.beit import RELATIVE, SCALED, bias_rows
from eo_jax.exchange.layouts.timm_vit import BLOCK, POSITIONS
from eo_jax.exchange.orders import DEPTHWISE, FLAT, HEADS, patch_conv2d
from eo_jax.models.encoder import Encoder

_QKV = ("query", "key", "value")
_LAYER = "encoder.layer.{i}"
_ATTENTION = f"{_LAYER}.attention.attention"


def _embedding_rows(encoder: Encoder) -> list[Row]:
    projection = "embeddings.patch_embeddings.projection"
    return [
        Row("stem/embed/kernel", f"{projection}.weight", patch_conv2d(encoder.patch)),
        Row("stem/embed/bias", f"{projection}.bias"),
        Row("trunk/cls_token", "embeddings.cls_token"),
    ]


def _position_rows(encoder: Encoder) -> list[Row]:
    if encoder.trunk.positions != "learned":
        return []
    return [Row("trunk/position_embedding/table", "embeddings.position_embeddings")]


def _weight_rows() -> list[Row]:
    """The weights of q, k and v, and the output layer of attention."""
    return [
        *(
            Row(
                f"{BLOCK}/attention/qkv",
                f"{_ATTENTION}.{name}.weight",
                HEADS,
                part=(slice(None), k),
            )
            for k, name in enumerate(_QKV)
        ),
        *linear_rows(f"{BLOCK}/attention/out", f"{_LAYER}.attention.output.dense"),
    ]


def _qkv_bias_rows() -> list[Row]:
    return [
        Row(f"{BLOCK}/attention/qkv_bias", f"{_ATTENTION}.{name}.bias", FLAT, part=(k,))
        for k, name in enumerate(_QKV)
    ]


def _vit_rows(encoder: Encoder) -> list[Row]:
    return [
        *_embedding_rows(encoder),
        *_position_rows(encoder),
        *_weight_rows(),
        *_qkv_bias_rows(),
        *affine_rows(f"{BLOCK}/norm1", f"{_LAYER}.layernorm_before"),
        *affine_rows(f"{BLOCK}/norm2", f"{_LAYER}.layernorm_after"),
        *linear_rows(f"{BLOCK}/mlp/fc1", f"{_LAYER}.intermediate.dense"),
        *linear_rows(f"{BLOCK}/mlp/fc2", f"{_LAYER}.output.dense"),
        *affine_rows("trunk/norm", "layernorm"),
    ]


def _dinov2_rows(encoder: Encoder) -> list[Row]:
    rows = _position_rows(encoder)
    if encoder.trunk.registers:
        rows.append(Row("trunk/registers", "embeddings.register_tokens"))
    return [
        *rows,
        *_embedding_rows(encoder),
        *_weight_rows(),
        *_qkv_bias_rows(),
        *affine_rows(f"{BLOCK}/norm{{n}}", f"{_LAYER}.norm{{n}}"),
        Row(f"{BLOCK}/attention_scale", f"{_LAYER}.layer_scale1.lambda1"),
        Row(f"{BLOCK}/mlp_scale", f"{_LAYER}.layer_scale2.lambda1"),
        *linear_rows(f"{BLOCK}/mlp/fc{{n}}", f"{_LAYER}.mlp.fc{{n}}"),
        *affine_rows("trunk/norm", "layernorm"),
    ]


def _data2vec_rows(encoder: Encoder) -> list[Row]:
    table = "encoder.relative_position_bias.relative_position_bias_table"
    return [
        *_embedding_rows(encoder),
        Row("trunk/relative/table", table),
        *_weight_rows(),
        *bias_rows(f"{_ATTENTION}.query.bias", f"{_ATTENTION}.value.bias"),
        *affine_rows(f"{BLOCK}/norm1", f"{_LAYER}.layernorm_before"),
        *affine_rows(f"{BLOCK}/norm2", f"{_LAYER}.layernorm_after"),
        Row(f"{BLOCK}/attention_scale", f"{_LAYER}.lambda_1"),
        Row(f"{BLOCK}/mlp_scale", f"{_LAYER}.lambda_2"),
        *linear_rows(f"{BLOCK}/mlp/fc1", f"{_LAYER}.intermediate.dense"),
        *linear_rows(f"{BLOCK}/mlp/fc2", f"{_LAYER}.output.dense"),
        *affine_rows("trunk/norm", "layernorm"),
    ]


def _segformer_rows(encoder: Encoder) -> list[Row]:
    return [
        *_overlap_rows("stem/embed", 0),
        *(row for s in range(1, 4) for row in _overlap_rows(f"trunk/embed{s + 1}", s)),
        *(row for s in range(4) for row in _stage_rows(s)),
    ]


def _overlap_rows(ours: str, stage: int) -> list[Row]:
    key = f"encoder.patch_embeddings.{stage}"
    return [
        *biased_conv_rows(f"{ours}/conv", f"{key}.proj"),
        *affine_rows(f"{ours}/norm", f"{key}.layer_norm"),
    ]


def _stage_rows(stage: int) -> list[Row]:
    ours, key = f"trunk/blocks{stage + 1}/layers/{{i}}", f"encoder.block.{stage}.{{i}}"
    of_self = f"{key}.attention.self"
    reduced = stage < 3  # the last stage attends to all of its cells
    return [
        *affine_rows(f"{ours}/norm{{n}}", f"{key}.layer_norm_{{n}}"),
        Row(f"{ours}/attention/q", f"{of_self}.query.weight", HEADS),
        Row(f"{ours}/attention/q_bias", f"{of_self}.query.bias", FLAT),
        *(
            row
            for k, name in enumerate(("key", "value"))
            for row in (
                Row(f"{ours}/attention/kv", f"{of_self}.{name}.weight", HEADS, (slice(None), k)),
                Row(f"{ours}/attention/kv_bias", f"{of_self}.{name}.bias", FLAT, (k,)),
            )
        ),
        *(biased_conv_rows(f"{ours}/attention/reduce", f"{of_self}.sr") if reduced else []),
        *(affine_rows(f"{ours}/attention/reduce_norm", f"{of_self}.layer_norm") if reduced else []),
        *linear_rows(f"{ours}/attention/out", f"{key}.attention.output.dense"),
        *linear_rows(f"{ours}/mlp/fc{{n}}", f"{key}.mlp.dense{{n}}"),
        Row(f"{ours}/mlp/depthwise/kernel", f"{key}.mlp.dwconv.dwconv.weight", DEPTHWISE),
        Row(f"{ours}/mlp/depthwise/bias", f"{key}.mlp.dwconv.dwconv.bias"),
        *affine_rows(f"trunk/norm{stage + 1}", f"encoder.layer_norm.{stage}"),
    ]


def _call(layout: str) -> Callable[[Encoder, int], str]:
    return functools.partial(model_call, layout)


def _mask_token(encoder: Encoder) -> dict[str, tuple[int, ...]]:
    """Dinov2WithRegistersModel has one whatever its config says; nothing is masked in features."""
    return {"embeddings.mask_token": (1, encoder.width)} if encoder.trunk.registers else {}


def _segformer_call(encoder: Encoder, image_size: int) -> str:
    call = model_call("hf_segformer", encoder, image_size)
    return f"model = {call}\n{SEGFORMER_EPSILON}"


_HEADS_OF_TASKS = ("pooler\\..*", "classifier\\..*", "(?:.*\\.)?mask_token", "decoder\\..*")
_POSITIONS = "embeddings.position_embeddings"
_BANDS = "embeddings.patch_embeddings.projection.weight"
VIT = Layout(
    "Hugging Face ViTModel, without pooler",
    "patch_embed",
    "vit",
    _vit_rows,
    POSITIONS | {"registers": 0, "layer_scale": 0.0},
    _POSITIONS,
    _BANDS,
    _HEADS_OF_TASKS,
    _call("hf_vit"),
)
DINOV2 = Layout(
    "Hugging Face Dinov2Model, with registers Dinov2WithRegistersModel",
    "patch_embed",
    "vit",
    _dinov2_rows,
    POSITIONS | {"layer_scale": SCALED},
    _POSITIONS,
    _BANDS,
    _HEADS_OF_TASKS,
    _call("hf_dinov2"),
    unused=_mask_token,
)
SEGFORMER = Layout(
    "Hugging Face SegformerModel",
    "overlap_patch_embed",
    "mit",
    _segformer_rows,
    bands="encoder.patch_embeddings.0.proj.weight",
    ignored=("decode_head\\..*", "classifier\\..*"),
    constructor=_segformer_call,
)
DATA2VEC = Layout(
    "Hugging Face Data2VecVisionModel with one table of relative positions, without pooler",
    "patch_embed",
    "vit",
    _data2vec_rows,
    RELATIVE,
    bands=_BANDS,
    ignored=_HEADS_OF_TASKS,
    constructor=_call("hf_data2vec"),
)
