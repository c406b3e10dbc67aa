"""Tests of the twins in PyTorch: where the published class is installed, it takes a twin's weights
strictly and gives the same tokens.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
import published_twins as twins  # noqa: E402  torch may be absent
import torch_twin  # noqa: E402

CHANNELS, WIDTH, DEPTH, HEADS, PATCH, SIDE = SIZE = (5, 48, 2, 3, 8, 4)
PIXELS = PATCH * SIDE


def drawn(twin: torch.nn.Module) -> torch.nn.Module:
    """The twin in evaluation mode, none of its weights at its initial value."""
    draw = torch.Generator().manual_seed(0)
    for name, value in twin.state_dict().items():
        if value.is_floating_point():
            value.copy_(0.2 * torch.randn(value.shape, generator=draw))
            value.add_(name.endswith(("running_var", "norm.weight", "gamma")))
            value.abs_() if name.endswith("running_var") else value
    return twin.eval()


def images() -> torch.Tensor:
    return torch.randn(2, CHANNELS, PIXELS, PIXELS, generator=torch.Generator().manual_seed(1))


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    assert found.shape == expected.shape and expected.std() > 0.1
    return (found - expected).abs().max() < 1e-5 * expected.abs().max()


TIMM = {
    "vit": (torch_twin.VisionTransformer, {}),
    "dinov2": (twins.TimmScaled, {"init_values": 1.0}),
    "registers": (
        twins.TimmRegisters,
        {"init_values": 1.0, "reg_tokens": 4, "no_embed_class": True},
    ),
}


@pytest.mark.parametrize("name", TIMM)
@torch.no_grad()
def test_timms_vit_is_the_twin(name):
    timm = pytest.importorskip("timm")
    make, fields = TIMM[name]
    twin = drawn(make(*SIZE[:5], PIXELS if name == "vit" else SIDE))
    real = timm.models.VisionTransformer(
        img_size=PIXELS,
        patch_size=PATCH,
        in_chans=CHANNELS,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        num_classes=0,
        **fields,
    ).eval()
    real.load_state_dict(twin.state_dict(), strict=True)
    assert same(real.forward_features(images()), twin(images()))


@pytest.mark.parametrize(("make", "shared"), [(twins.Beit, True), (twins.BeitPerBlock, False)])
@torch.no_grad()
def test_timms_beit_is_the_twin(make, shared):
    beit = pytest.importorskip("timm.models.beit")
    twin = drawn(make(*SIZE))
    real = beit.Beit(
        img_size=PIXELS,
        patch_size=PATCH,
        in_chans=CHANNELS,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        num_classes=0,
        qkv_bias=True,
        init_values=0.1,
        use_rel_pos_bias=not shared,
        use_shared_rel_pos_bias=shared,
        use_abs_pos_emb=False,
        global_pool="token",
    ).eval()
    real.load_state_dict(twin.state_dict(), strict=True)
    assert same(real.forward_features(images()), twin(images()))


@pytest.mark.parametrize("depth", [18, 50])
@torch.no_grad()
def test_torchvisions_resnet_is_the_twin(depth):
    models = pytest.importorskip("torchvision.models")
    twin = drawn(torch_twin.ResNet(depth, 3))
    real = models.get_model(f"resnet{depth}", weights=None)
    real.fc = torch.nn.Identity()
    real.eval().load_state_dict(twin.state_dict(), strict=True)
    assert same(real(images()[:, :3]), twin(images()[:, :3]).mean((2, 3)))


COMMON = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * WIDTH,
    "mlp_ratio": 4,
    "image_size": PIXELS,
    "patch_size": PATCH,
    "num_channels": CHANNELS,
    "layer_norm_eps": 1e-6,
}
HUGGING_FACE = {
    "ViTModel": (twins.HuggingFaceViT, {"model_type": "vit"}),
    "Dinov2Model": (twins.HuggingFaceDinov2, {"model_type": "dinov2", "use_mask_token": False}),
    "Dinov2WithRegistersModel": (
        twins.HuggingFaceDinov2Registers,
        {"model_type": "dinov2_with_registers", "use_mask_token": False},
    ),
    "Data2VecVisionModel": (
        twins.HuggingFaceData2Vec,
        {
            "model_type": "data2vec-vision",
            "use_shared_relative_position_bias": True,
            "use_mean_pooling": False,
        },
    ),
}
# What the classes have besides, and make themselves; no feature needs it.
UNUSED = {
    "ViTModel": {"missing_keys": {"pooler.dense.weight", "pooler.dense.bias"}},
    "Dinov2WithRegistersModel": {"missing_keys": {"embeddings.mask_token"}},
}


def from_files(folder: Path, class_name: str, config: dict, twin: torch.nn.Module):
    """The class of transformers with the twin's weights, through the files that it reads."""
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import save_file

    (folder / "config.json").write_text(json.dumps(config | {"architectures": [class_name]}))
    save_file(twin.state_dict(), folder / "model.safetensors", {"format": "pt"})
    real, said = getattr(transformers, class_name).from_pretrained(folder, output_loading_info=True)
    return real.eval(), {name: set(keys) for name, keys in said.items() if keys}


@pytest.mark.parametrize("name", HUGGING_FACE)
@torch.no_grad()
def test_hugging_faces_class_is_the_twin(tmp_path, name):
    make, fields = HUGGING_FACE[name]
    twin = drawn(make(*SIZE))
    real, said = from_files(tmp_path, name, COMMON | fields, twin)
    assert said == UNUSED.get(name, {})
    assert same(real(images()).last_hidden_state, twin(images()))


@torch.no_grad()
def test_hugging_faces_segformer_is_the_twin_with_pytorchs_epsilon(tmp_path):
    twin = drawn(twins.HuggingFaceSegformer("b0", CHANNELS, epsilon=1e-5))
    config = {
        "model_type": "segformer",
        "num_channels": CHANNELS,
        "hidden_sizes": [32, 64, 160, 256],
        "depths": [2, 2, 2, 2],
    }
    real, said = from_files(tmp_path, "SegformerModel", config, twin)
    assert not said
    assert same(real(images()).last_hidden_state, twin(images()))
