"""The config.json of Hugging Face's transformers for an encoder in one of its layouts.

LayerNorm's epsilon is written out: transformers' own default for ViT is 1e-12. SegformerModel reads
none; see `SEGFORMER_EPSILON`.
"""

from __future__ import annotations

from typing import Any

from eo_jax.models.encoder import Encoder
from eo_jax.models.trunks import mit

# SegformerModel's norms have PyTorch's 1e-5 whatever its config says; those of NVlabs' blocks and
# stages, and so ours, have 1e-6. These lines after loading make the features ours.
SEGFORMER_EPSILON = """for name, layer in model.named_modules():
    if isinstance(layer, torch.nn.LayerNorm) and not re.search(
        r"patch_embeddings|sequence_reduction|\\.self\\.", name
    ):
        layer.eps = 1e-6"""


def model_class(layout: str, encoder: Encoder) -> str:
    """The class of transformers for a layout: "ViTModel"; "" for layouts of others."""
    if layout == "hf_dinov2" and encoder.trunk.registers:
        return "Dinov2WithRegistersModel"
    return {
        "hf_vit": "ViTModel",
        "hf_dinov2": "Dinov2Model",
        "hf_data2vec": "Data2VecVisionModel",
        "hf_segformer": "SegformerModel",
    }.get(layout, "")


def model_config(layout: str, encoder: Encoder, image_size: int) -> dict[str, Any]:
    """config.json of a layout of `model_class`, in plain JSON types."""
    common = {
        "architectures": [model_class(layout, encoder)],
        "num_channels": len(encoder.sensor.bands),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-6,
        "dtype": "float32",
    }
    if layout == "hf_segformer":
        return {"model_type": "segformer"} | common | _segformer(encoder.trunk)
    trunk = encoder.trunk
    common |= {
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.layers,
        "num_attention_heads": trunk.heads,
        "image_size": image_size,
        "patch_size": encoder.patch,
        "qkv_bias": True,
    }
    if layout == "hf_vit":
        vit = {"intermediate_size": 4 * encoder.width, "encoder_stride": encoder.patch}
        return {"model_type": "vit"} | common | vit
    if layout == "hf_data2vec":
        return {"model_type": "data2vec-vision"} | common | _data2vec(encoder)
    dinov2 = {
        "mlp_ratio": 4,
        "layerscale_value": trunk.layer_scale,
        "use_swiglu_ffn": False,
        "use_mask_token": False,
        "drop_path_rate": 0.0,
    }
    if not trunk.registers:
        return {"model_type": "dinov2"} | common | dinov2
    registers = {"num_register_tokens": trunk.registers}
    return {"model_type": "dinov2_with_registers"} | common | dinov2 | registers


def _data2vec(encoder: Encoder) -> dict[str, Any]:
    return {
        "intermediate_size": 4 * encoder.width,
        "use_mask_token": False,
        "use_absolute_position_embeddings": False,
        "use_relative_position_bias": False,
        "use_shared_relative_position_bias": True,
        "layer_scale_init_value": encoder.trunk.layer_scale,
        "use_mean_pooling": False,
        "drop_path_rate": 0.0,
    }


def _segformer(trunk: mit.Config) -> dict[str, Any]:
    widths, depths = mit.SIZES[trunk.size]
    return {
        "num_encoder_blocks": 4,
        "depths": list(depths),
        "hidden_sizes": list(widths),
        "num_attention_heads": [1, 2, 5, 8],
        "sr_ratios": [8, 4, 2, 1],
        "patch_sizes": [7, 3, 3, 3],
        "strides": [4, 2, 2, 2],
        "mlp_ratios": [4, 4, 4, 4],
        "drop_path_rate": 0.0,
    }


def model_call(layout: str, encoder: Encoder, image_size: int) -> str:
    """The call that makes the model from a state dict `weights`; transformers 5 has other names in
    memory than in files, which `from_pretrained` knows and `load_state_dict` does not.
    """
    name = model_class(layout, encoder)
    config = model_config(layout, encoder, image_size)
    fields = ", ".join(
        f"{key}={value!r}"
        for key, value in config.items()
        if key not in ("model_type", "architectures", "dtype")
    )
    more = ", add_pooling_layer=False" if layout in ("hf_vit", "hf_data2vec") else ""
    config_class = f"{name.removesuffix('Model')}Config"
    return (
        f"transformers.{name}.from_pretrained(None, config=transformers.{config_class}({fields}), "
        f"state_dict=weights{more})"
    )
